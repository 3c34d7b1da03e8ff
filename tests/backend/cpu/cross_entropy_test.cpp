// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/cross_entropy.hpp"

#include "compare.hpp"
#include "support/cross_entropy_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = CrossEntropyCase;
template <class T>
using Run = CrossEntropyRun<T>;

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("cross entropy and its gradient equal the reference for every vocabulary", T,
                   float, double) {
  for (const Index vocabulary : {1, 2, 63, 64, 65, 1000})
    for (const auto reduction : {Reduction::mean, Reduction::sum})
      for (const Layout layout : all_layouts)
        for (const Index rows : {0, 1, 13})
          cpu_equals_reference<T>(
              {.rows = rows, .vocabulary = vocabulary, .reduction = reduction, .layout = layout});
}

TEST_CASE_TEMPLATE("logits far apart overflow nothing", T, float, double) {
  cpu_equals_reference<T>({.spread = 1e4});
}

TEST_CASE_TEMPLATE("when every row is ignored, loss and gradient are zero", T, float, double) {
  for (const auto reduction : {Reduction::mean, Reduction::sum})
    cpu_equals_reference<T>({.rows = 4, .reduction = reduction, .spread = 1, .ignored_every = 1});
}
