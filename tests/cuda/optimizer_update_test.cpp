// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/optimizer_update.hpp"

#include "primitives_on_device.hpp"
#include "support/optimizer_update_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using DeviceUpdate = DeviceContext<cuda::primitive::OptimizerUpdate>;

}  // namespace

TEST_CASE_TEMPLATE("three AdamW updates equal the reference's", T, float, double) {
  for (const Index n : {0, 1, 65, 1000})
    for (const Layout layout : {Layout::rows, Layout::gaps}) {
      CAPTURE(n);
      Context<Reference> reference;
      AdamWRun<T> expected(n, Layout::rows);
      expected.compute(reference);
      DeviceUpdate device;
      AdamWRun<T> actual(n, layout);
      actual.compute(device);
      expect_equal(actual, expected);
    }
}

TEST_CASE_TEMPLATE("a sum of squares is added, in an order that the layout does not change", T,
                   float, double) {
  for (const Index n : {0, 1, 63, 65, 1024, 1025, 100000}) {
    CAPTURE(n);
    const auto x = random_tensor<T>("x", n);
    Context<Reference> reference;
    DeviceUpdate device;
    const auto sum = half_and_squares(device, x, Layout::rows);
    CHECK(difference(sum, half_and_squares(reference, x, Layout::rows)) < tolerance<double>.value);
    CHECK(half_and_squares(device, x, Layout::gaps)(0) == sum(0));
  }
}
