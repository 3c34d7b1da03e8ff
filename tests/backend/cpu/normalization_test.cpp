// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/normalization.hpp"

#include "compare.hpp"
#include "support/normalization_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = NormalizationCase;
template <class T>
using Run = NormalizationRun<T>;

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("both normalizations and their gradients equal the reference for every width", T,
                   float, double) {
  for (const auto kind : {NormalizationKind::layer, NormalizationKind::rms})
    for (const Index width : {1, 2, 63, 64, 65, 1000})
      for (const Layout layout : all_layouts)
        cpu_equals_reference<T>({.kind = kind,
                                 .width = width,
                                 .bias = kind == NormalizationKind::layer,
                                 .layout = layout});
}

TEST_CASE_TEMPLATE("weight and bias may be left out, and dx may be added to", T, float, double) {
  for (const bool weight : {false, true})
    for (const bool bias : {false, true})
      for (const bool accumulate : {false, true})
        cpu_equals_reference<T>(
            {.rows = 50, .weight = weight, .bias = bias, .accumulate = accumulate});
}

TEST_CASE("no rows leave the parameter gradients as they were") {
  cpu_equals_reference<float>({.rows = 0});
}

TEST_CASE_TEMPLATE("normalizing in place gives the same numbers", T, float, double) {
  Context<Cpu> ctx;
  expect_same_in_place<T>(ctx);
}
