// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/sample.hpp"

#include <limits>

#include "compare.hpp"
#include "support/sample_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

template <class T>
void cpu_equals_reference(const View<const T, 2>& logits, const Sampling& sampling,
                          Index vocabulary = dyn) {
  CAPTURE(logits.extent(1));
  CAPTURE(sampling.temperature);
  CAPTURE(sampling.top_k);
  CAPTURE(sampling.top_p);
  CAPTURE(sampling.min_p);
  Context<Reference> reference;
  const auto expected = drawn<T>(reference, logits, sampling, vocabulary);
  on_each_thread_count(
      [&](auto& ctx) { expect_equal(drawn<T>(ctx, logits, sampling, vocabulary), expected); });
}

}  // namespace

TEST_CASE_TEMPLATE("the same tokens as the reference, for every option", T, float, double) {
  for (const Index vocabulary : {1, 2, 63, 64, 65, 1000}) {
    auto logits = random_tensor<T>("logits", 40, vocabulary);
    for_each_index(logits, [&](Index b, Index v) { logits(b, v) *= T(5); });
    for (const Sampling& sampling : all_samplings) cpu_equals_reference<T>(logits, sampling);
  }
}

TEST_CASE_TEMPLATE("a flat distribution makes top-p sort many fronts", T, float, double) {
  const auto logits = random_tensor<T>("flat", 5, 3000);
  for (const double top_p : {0.1, 0.9, 0.9999}) cpu_equals_reference<T>(logits, {.top_p = top_p});
}

TEST_CASE_TEMPLATE("among equal logits the lower tokens stay", T, float, double) {
  const auto logits = zero_tensor<T>(30, 100);
  for (const Sampling& sampling : all_samplings) cpu_equals_reference<T>(logits, sampling);
}

TEST_CASE_TEMPLATE("any layout, and columns beyond the vocabulary are not looked at", T, float,
                   double) {
  for (const Layout layout : all_layouts) {
    auto logits = random_tensor<T>("logits", 9, 70);
    for (Index b = 0; b < 9; ++b) logits(b, 69) = std::numeric_limits<T>::quiet_NaN();
    const auto placed = place_copy(layout, logits);
    for (const Sampling& sampling : all_samplings)
      cpu_equals_reference<T>(placed.view, sampling, 69);
  }
}

TEST_CASE("no rows are legal; an empty vocabulary and logits that are not finite are refused") {
  Context<Cpu> ctx;
  expect_refusals(ctx);
}
