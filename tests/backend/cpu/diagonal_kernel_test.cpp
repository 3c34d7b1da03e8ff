// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/diagonal_kernel.hpp"

#include "compare.hpp"
#include "support/diagonal_kernel_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = DiagonalKernelCase;
template <class T>
using Run = DiagonalKernelRun<T>;

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("the kernel and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {0, 1, 2, 63, 64, 65, 1000})
    for (const Index parts : {1, 2}) cpu_equals_reference<T>({.parts = parts, .length = length});
}

TEST_CASE_TEMPLATE("any number of modes, both discretizations, any layout", T, float, double) {
  for (const auto kind : {Discretization::bilinear, Discretization::zero_order_hold})
    for (const Index modes : {1, 3, 4, 16, 17, 32})
      for (const Index parts : {1, 2})
        for (const Layout layout : all_layouts)
          cpu_equals_reference<T>(
              {.modes = modes, .parts = parts, .discretization = kind, .layout = layout});
}
