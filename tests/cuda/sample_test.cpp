// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/sample.hpp"

#include <limits>

#include "primitives_on_device.hpp"
#include "support/sample_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using DeviceSample = DeviceContext<cuda::primitive::Sample>;

template <class T>
void device_equals_reference(const View<const T, 2>& logits, const Sampling& sampling,
                             Index vocabulary = dyn) {
  CAPTURE(logits.extent(1));
  CAPTURE(sampling.temperature);
  CAPTURE(sampling.top_k);
  CAPTURE(sampling.top_p);
  CAPTURE(sampling.min_p);
  Context<Reference> reference;
  DeviceSample device;
  const auto expected = drawn<T>(reference, logits, sampling, vocabulary);
  expect_equal(drawn<T>(device, logits, sampling, vocabulary), expected);
}

}  // namespace

TEST_CASE_TEMPLATE("the same tokens as the reference, for every option", T, float, double) {
  for (const Index vocabulary : {1, 2, 16, 17, 64, 65, 1000, 1025}) {
    auto logits = random_tensor<T>("logits", 20, vocabulary);
    for_each_index(logits, [&](Index b, Index v) { logits(b, v) *= T(5); });
    for (const Sampling& sampling : all_samplings) device_equals_reference<T>(logits, sampling);
  }
}

TEST_CASE_TEMPLATE("a flat distribution over many slices", T, float, double) {
  const auto logits = random_tensor<T>("flat", 5, 5000);
  for (const Sampling& sampling : all_samplings) device_equals_reference<T>(logits, sampling);
  for (const double top_p : {0.1, 0.9, 0.9999})
    device_equals_reference<T>(logits, {.top_p = top_p});
}

TEST_CASE_TEMPLATE("among equal logits the lower tokens stay", T, float, double) {
  for (const Index vocabulary : {100, 3000}) {
    const auto logits = zero_tensor<T>(30, vocabulary);
    for (const Sampling& sampling : all_samplings) device_equals_reference<T>(logits, sampling);
  }
}

TEST_CASE_TEMPLATE("any layout, and columns beyond the vocabulary are not looked at", T, float,
                   double) {
  for (const Layout layout : all_layouts) {
    auto logits = random_tensor<T>("logits", 9, 70);
    for (Index b = 0; b < 9; ++b) logits(b, 69) = std::numeric_limits<T>::quiet_NaN();
    const auto placed = place_copy(layout, logits);
    for (const Sampling& sampling : all_samplings)
      device_equals_reference<T>(placed.view, sampling, 69);
  }
}

TEST_CASE("no rows are legal; an empty vocabulary and logits that are not finite are refused") {
  DeviceSample ctx;
  expect_refusals(ctx);
}

TEST_CASE("a logit that is not finite, where nobody could look, draws token -1 in its row") {
  auto logits = zero_tensor<float>(3, 1500);
  logits(1, 1200) = std::numeric_limits<float>::quiet_NaN();
  logits(2, 3) = std::numeric_limits<float>::infinity();
  for (const Sampling& sampling : all_samplings) {
    DynamicTensor<Token, 1> tokens({3});
    DeviceSample ctx;
    auto frame = ctx.workspace().frame();
    const Sample<float, HostSpace> call{.logits = logits, .sampling = sampling, .tokens = tokens};
    const auto scratch = cuda::sample_scratch(frame, 3, 1500, sampling);
    cuda::sample(cuda::on_device(call), scratch, ctx.resources().stream());
    ctx.resources().synchronize();
    CHECK(tokens(0) >= 0);
    CHECK(tokens(1) == -1);
    CHECK(tokens(2) == -1);
  }
}
