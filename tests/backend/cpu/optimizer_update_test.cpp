// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/optimizer_update.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

TEST_CASE_TEMPLATE("three AdamW updates equal the reference's", T, float, double) {
  for (const Index n : {0, 1, 2, 63, 64, 65, 1000, 20000})
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
      const auto expected = run(reference, Layout::rows);
      on_each_thread_count([&](auto& ctx) {
        const auto actual = run(ctx, layout);
        for (std::size_t i = 0; i < 3; ++i)
          CHECK(difference(actual[i].view, expected[i].view) < tolerance<T>.value);
      });
    }
}

TEST_CASE_TEMPLATE("a sum of squares is added, and is the same on any number of threads", T, float,
                   double) {
  for (const Index n : {0, 1, 63, 65, 1024, 1025, 100000}) {
    CAPTURE(n);
    const auto x = random_tensor<T>("x", n);
    Context<Reference> reference;
    auto expected = tensor_of({0.5});
    sum_of_squares(reference, SumOfSquares<T, HostSpace>{.x = x, .sum = expected});
    double before = 0;
    on_each_thread_count([&](auto& ctx) {
      auto sum = tensor_of({0.5});
      sum_of_squares(ctx, SumOfSquares<T, HostSpace>{.x = x, .sum = sum});
      CHECK(difference(sum, expected) < tolerance<T>.value);
      if (ctx.resources().threads() == 1) before = sum(0);
      CHECK(sum(0) == before);
      const auto gapped = place_copy(Layout::gaps, x);
      auto again = tensor_of({0.5});
      sum_of_squares(ctx, SumOfSquares<T, HostSpace>{.x = gapped, .sum = again});
      CHECK(again(0) == before);
    });
  }
}
