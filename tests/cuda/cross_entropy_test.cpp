// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/cross_entropy.hpp"

#include "primitives_on_device.hpp"
#include "support/cross_entropy_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using DeviceCrossEntropy = DeviceContext<cuda::primitive::CrossEntropy>;

using Case = CrossEntropyCase;
template <class T>
using Run = CrossEntropyRun<T>;

template <class T>
void device_equals_reference(const Case& test) {
  expect_reference_on<OnDevice<cuda::primitive::CrossEntropy>, Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("cross entropy and its gradient equal the reference for every vocabulary", T,
                   float, double, BFloat16, Float16) {
  for (const Index vocabulary : {1, 2, 3, 63, 64, 65, 1000})
    for (const auto reduction : {Reduction::mean, Reduction::sum})
      for (const Layout layout : all_layouts)
        for (const Index rows : {0, 1, 13})
          device_equals_reference<T>(
              {.rows = rows, .vocabulary = vocabulary, .reduction = reduction, .layout = layout});
}

TEST_CASE_TEMPLATE("rows beyond one slice of the sum", T, float, double, BFloat16, Float16) {
  for (const auto reduction : {Reduction::mean, Reduction::sum})
    device_equals_reference<T>({.rows = 2500, .vocabulary = 5, .reduction = reduction});
}

TEST_CASE_TEMPLATE("logits far apart overflow nothing", T, float, double) {
  device_equals_reference<T>({.spread = 1e4});
}

TEST_CASE_TEMPLATE("when every row is ignored, loss and gradient are zero", T, float, double,
                   BFloat16, Float16) {
  for (const auto reduction : {Reduction::mean, Reduction::sum})
    device_equals_reference<T>(
        {.rows = 4, .reduction = reduction, .spread = 1, .ignored_every = 1});
}

TEST_CASE("a target outside the vocabulary, where nobody could look, shows as NaN") {
  const auto logits = random_tensor<float>("logits", 3, 5);
  for (const Token bad : {-1, 5}) {
    DynamicTensor<Token, 1> targets({3});
    targets(0) = 0, targets(1) = bad, targets(2) = 4;
    auto loss = zero_tensor<float>(1);
    auto dlogits = zero_tensor<float>(3, 5);
    DeviceCrossEntropy ctx;
    OnDevice<cuda::primitive::CrossEntropy>::cross_entropy(
        ctx, CrossEntropy<float, HostSpace>{
                 .logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits});
    CHECK(std::isnan(loss(0)));
    for (Index v = 0; v < 5; ++v) {
      CHECK(std::isnan(dlogits(1, v)));
      for (const Index m : {0, 2}) CHECK(std::isfinite(dlogits(m, v)));
    }
  }
}
