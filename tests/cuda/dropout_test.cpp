// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/dropout.hpp"

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

TEST_CASE_TEMPLATE("dropout keeps exactly the elements that the reference keeps", T, float, double,
                   BFloat16, Float16) {
  for (const Index n : {0, 1, 65, 5000})
    for (const double probability : {0.0, 0.1, 0.9})
      for (const Layout layout : {Layout::rows, Layout::gaps}) {
        CAPTURE(n);
        CAPTURE(probability);
        const auto x = random_tensor<T>("x", n);
        const auto run = [&](auto& ctx, View<const T, 1> from, View<T, 1> y) {
          dropout(
              ctx,
              Dropout<T, HostSpace>{
                  .probability = probability, .seed = Seed{123456789012345}, .x = from, .y = y});
        };
        Context<Reference> reference;
        DeviceContext<cuda::primitive::Dropout> device;
        auto expected = nan_tensor<T>(n);
        run(reference, x, expected);
        const auto y = place_copy(layout, x);
        run(device, y, y);
        CHECK(difference(y.view, expected) < tolerance<T>.value);
        Index others = 0;
        for_each_index(expected,
                       [&](Index i) { others += (expected(i) == T{}) != (y.view(i) == T{}); });
        CHECK(others == 0);
      }
}
