// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/rearrange.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

TEST_CASE_TEMPLATE("rearranging copies every element between any two layouts", T, float, double) {
  for (const auto& shape : {std::array<Index, 3>{3, 65, 33},
                            {1, 1, 1000},
                            {1, 1000, 1},
                            {64, 1, 5},
                            {2, 100, 300},
                            {0, 3, 4},
                            {2, 3, 0}}) {
    CAPTURE(shape[0]);
    CAPTURE(shape[1]);
    CAPTURE(shape[2]);
    const auto x = random_tensor<T>("x", shape[0], shape[1], shape[2]);
    for (const Layout from : all_layouts)
      for (const Layout to : all_layouts)
        on_each_thread_count([&](auto& ctx) {
          const auto placed = place_copy(from, x);
          const auto y = place<T>(to, shape[0], shape[1], shape[2]);
          rearrange(ctx, Rearrange<T, HostSpace>{.x = placed, .y = y});
          CHECK(difference(y.view, x) == 0);
        });
  }
}

TEST_CASE("rearranging exchanges the first and the last axis") {
  const auto x = random_tensor<float>("x", 40, 3, 50);
  auto y = nan_tensor<float>(50, 3, 40);
  Context<Cpu> ctx;
  rearrange(ctx, Rearrange<float, HostSpace>{.x = x, .y = y.transpose(0, 2)});
  CHECK(difference(y.transpose(0, 2), x) == 0);
}

TEST_CASE_TEMPLATE("adding two tensors equals the reference for every length and stride", T, float,
                   double) {
  for (const Index n : {0, 1, 2, 63, 64, 65, 1000, 20000})
    for (const Layout layout : {Layout::rows, Layout::gaps})
      for (const bool second : {false, true}) {
        CAPTURE(n);
        const auto a = random_tensor<T>("a", n);
        const auto b = random_tensor<T>("b", n);
        const auto run = [&](auto& ctx, View<const T, 1> left, View<const T, 1> right,
                             View<T, 1> y) {
          add(ctx, Add<T, HostSpace>{.a = left,
                                     .b = second ? right : View<const T, 1>(),
                                     .a_scale = 0.5,
                                     .b_scale = -2,
                                     .y = y});
        };
        Context<Reference> reference;
        auto expected = nan_tensor<T>(n);
        run(reference, a, b, expected);
        on_each_thread_count([&](auto& ctx) {
          const auto y = place<T>(layout, n);
          run(ctx, place_copy(layout, a), place_copy(layout, b), y);
          CHECK(difference(y.view, expected) < tolerance<T>.value);
        });
      }
}

TEST_CASE_TEMPLATE("filling writes every element and nothing between them", T, float, double) {
  for (const Index n : {0, 1, 65, 20000})
    on_each_thread_count([&](auto& ctx) {
      const auto y = place<T>(Layout::gaps, n);
      fill(ctx, Fill<T, HostSpace>{.value = 2.5, .y = y});
      Index written = 0;
      for_each_index(y.memory, [&](Index i) { written += y.memory(i) == T(2.5) ? 1 : 0; });
      CHECK(written == n);
    });
}
