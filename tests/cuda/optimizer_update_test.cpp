// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/optimizer_update.hpp"

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using DeviceUpdate = DeviceContext<cuda::primitive::OptimizerUpdate>;

}  // namespace

TEST_CASE_TEMPLATE("three AdamW updates equal the reference's", T, float, double) {
  for (const Index n : {0, 1, 65, 1000})
    for (const Layout layout : {Layout::rows, Layout::gaps}) {
      CAPTURE(n);
      const auto start = random_tensor<T>("parameter", n);
      const auto run = [&](auto& ctx, Layout where) {
        auto parameter = place_copy(where, start);
        auto first = place_copy(where, zero_tensor<T>(n));
        auto second = place_copy(where, zero_tensor<T>(n));
        for (const Index step : {1, 2, 3}) {
          const auto gradient =
              place_copy(where, random_tensor<T>("gradient" + std::to_string(step), n));
          adamw_update(ctx, AdamWUpdate<T, HostSpace>{.rate = 1e-2,
                                                      .weight_decay = 0.1,
                                                      .gradient_scale = 0.5,
                                                      .step = step,
                                                      .parameter = parameter,
                                                      .gradient = gradient,
                                                      .first_moment = first,
                                                      .second_moment = second});
        }
        return std::array{std::move(parameter), std::move(first), std::move(second)};
      };
      Context<Reference> reference;
      DeviceUpdate device;
      const auto expected = run(reference, Layout::rows);
      const auto actual = run(device, layout);
      for (std::size_t i = 0; i < 3; ++i)
        CHECK(difference(actual[i].view, expected[i].view) < tolerance<T>.value);
    }
}

TEST_CASE_TEMPLATE("a sum of squares is added, in an order that the layout does not change", T,
                   float, double) {
  for (const Index n : {0, 1, 63, 65, 1024, 1025, 100000}) {
    CAPTURE(n);
    const auto x = random_tensor<T>("x", n);
    const auto run = [&](auto& ctx, Layout where) {
      auto sum = tensor_of({0.5});
      const auto placed = place_copy(where, x);
      sum_of_squares(ctx, SumOfSquares<T, HostSpace>{.x = placed, .sum = sum});
      return sum;
    };
    Context<Reference> reference;
    DeviceUpdate device;
    const auto sum = run(device, Layout::rows);
    CHECK(difference(sum, run(reference, Layout::rows)) < tolerance<double>.value);
    CHECK(run(device, Layout::gaps)(0) == sum(0));
  }
}
