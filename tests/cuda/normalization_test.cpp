// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/normalization.hpp"

#include "primitives_on_device.hpp"
#include "support/normalization_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = NormalizationCase;
template <class T>
using Run = NormalizationRun<T>;

template <class T>
void device_equals_reference(const Case& test) {
  expect_reference_on<OnDevice<cuda::primitive::Normalization>, Run<T>>(test);
}

constexpr std::array kinds{NormalizationKind::layer, NormalizationKind::rms};

}  // namespace

TEST_CASE_TEMPLATE("both normalizations and their gradients equal the reference for every width", T,
                   float, double, BFloat16, Float16) {
  for (const auto kind : kinds)
    for (const Index width : {1, 2, 63, 64, 65, 1000})
      for (const Layout layout : all_layouts)
        for (const bool eps_scale : {false, true})
          device_equals_reference<T>({.kind = kind,
                                      .width = width,
                                      .bias = kind == NormalizationKind::layer,
                                      .eps_scale = eps_scale,
                                      .layout = layout});
}

TEST_CASE_TEMPLATE("weight and bias may be left out, and dx may be added to", T, float, double,
                   BFloat16, Float16) {
  for (const bool weight : {false, true})
    for (const bool bias : {false, true})
      for (const bool accumulate : {false, true})
        device_equals_reference<T>(
            {.rows = 50, .weight = weight, .bias = bias, .accumulate = accumulate});
}

TEST_CASE_TEMPLATE("parameter gradients are sums over any number of rows", T, float, double,
                   BFloat16, Float16) {
  for (const auto kind : kinds)
    for (const Index rows : {0, 1, 31, 32, 64, 100, 1001})
      device_equals_reference<T>({.kind = kind, .rows = rows, .width = 7});
}

TEST_CASE_TEMPLATE("normalizing in place gives the same numbers", T, float, double) {
  DeviceContext<cuda::primitive::Normalization> ctx;
  expect_same_in_place<T>(ctx);
}
