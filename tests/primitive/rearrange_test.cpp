// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/rearrange.hpp"

#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "ssm/op/convert.hpp"
#include "support/primitive_laws.hpp"
#ifdef SSM_TEST_ON_CUDA
#include "ssm/backend/cuda/transpose.hpp"
#endif

namespace ssm::test {
namespace {

/// For calls that are made by hand.
template <class T>
struct Backends {
  template <class B>
  static constexpr bool exists = HasRearrange<B, T>;
};

struct Case {
  Index length = 65;
  bool second = true;  // the other term
  double b_scale = -2;
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<Add<T, HostSpace>, NoGradient> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'N', test.length}}, layout, {}, left_out({{"b", test.second}})) {
    this->forward.a_scale = 0.5;
    this->forward.b_scale = test.b_scale;
  }
  void evaluate(auto& ctx) { add(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasRearrange<B, T>;
};

/// Extents on both sides of a thread's run of numbers.
constexpr Index depths[] = {0, 1, 3, 4, 5, 64, 65};

TEST_CASE_TEMPLATE("every element is copied between any two layouts", T, float, double, BFloat16,
                   Float16) {
  const auto copies = [](Index i, Index j, Index k) {
    CAPTURE(i);
    CAPTURE(j);
    CAPTURE(k);
    const auto x = random_tensor<T>("x", i, j, k);
    on_every_backend<Backends<T>>([&](auto& ctx) {
      for (const Layout from : all_layouts)
        for (const Layout to : all_layouts) {
          const auto placed = place_copy(from, x);
          const auto y = place<T>(to, i, j, k);
          rearrange(ctx, Rearrange<T, HostSpace>{.x = placed, .y = y});
          CHECK(difference(y.view, x) == 0);
        }
    });
  };
  for (const auto& [i, j, k] : {std::array<Index, 3>{3, 65, 33},
                                {1, 1, 1000},
                                {1, 1000, 1},
                                {64, 1, 5},
                                {2, 100, 300},
                                {0, 3, 4},
                                {2, 3, 0}})
    copies(i, j, k);
  for (const Index depth : depths) copies(2, 3, depth);
}

TEST_CASE("a transposed copy has the elements where the strides say") {
  const auto x = random_tensor("x", 3, 65, 2);
  on_every_backend<Backends<double>>([&](auto& ctx) {
    auto y = nan_tensor(3, 2, 65);
    rearrange(ctx, Rearrange<double, HostSpace>{.x = x, .y = y.transpose(1, 2)});
    for_each_index(x, [&](Index b, Index t, Index d) { CHECK(y(b, d, t) == x(b, t, d)); });
  });
}

TEST_CASE("the first and the last axis may be exchanged") {
  const auto x = random_tensor<float>("x", 40, 3, 50);
  on_every_backend<Backends<float>>([&](auto& ctx) {
    auto y = nan_tensor<float>(50, 3, 40);
    rearrange(ctx, Rearrange<float, HostSpace>{.x = x, .y = y.transpose(0, 2)});
    CHECK(difference(y.transpose(0, 2), x) == 0);
  });
}

TEST_CASE("a copy between different extents is refused") {
  on_each_backend<Backends<double>>([](auto& ctx) {
    const auto x = zero_tensor(1, 2, 3);
    auto y = nan_tensor(1, 3, 2);
    CHECK_THROWS_WITH_AS(rearrange(ctx, Rearrange<double, HostSpace>{.x = x, .y = y}),
                         "rearrange: y must be [1, 2, 3], got [1, 3, 2]", ShapeError);
  });
}

TEST_CASE("a weighted sum may overwrite either of its terms") {
  on_each_backend<Backends<double>>([](auto& ctx) {
    auto a = tensor_of({1, 2});
    auto b = tensor_of({10, 20});
    add(ctx, Add<double, HostSpace>{.a = a, .b = b, .a_scale = 2, .b_scale = 3, .y = a});
    CHECK(difference(a, tensor_of({32, 64})) == 0);
    add(ctx, Add<double, HostSpace>{.a = a, .b = b, .y = b});
    CHECK(difference(b, tensor_of({42, 84})) == 0);
    add(ctx, Add<double, HostSpace>{.a = a, .a_scale = 0.5, .y = a});
    CHECK(difference(a, tensor_of({16, 32})) == 0);
  });
}

TEST_CASE_TEMPLATE("sums equal the reference for every length and stride", T, float, double,
                   BFloat16, Float16) {
  for (const Index length : {0, 1, 2, 63, 64, 65, 1000, 20000})
    for (const Layout layout : {Layout::rows, Layout::gaps})
      for (const bool second : {false, true})
        equals_reference<Run<T>>({.length = length, .second = second, .layout = layout});
}

TEST_CASE_TEMPLATE("sums of half types are rounded once", T, BFloat16, Float16) {
  on_every_backend<Run<T>>([](auto& ctx) {
    Run<T> call({.length = 70, .b_scale = 0.5}, Layout::rows);
    auto& a = call.forward;
    a.a_scale = 1;
    call.evaluate(ctx);
    for_each_index(a.y, [&](Index i) {
      CHECK(a.y(i) == T(static_cast<float>(a.a(i)) + 0.5F * static_cast<float>(a.b(i))));
    });
  });
}

TEST_CASE_TEMPLATE("filling writes every element and nothing between them", T, float, double,
                   BFloat16, Float16) {
  for (const Index length : {0, 1, 65, 70, 20000})
    for (const Layout layout : {Layout::rows, Layout::gaps})
      on_every_backend<Backends<T>>([&](auto& ctx) {
        CAPTURE(length);
        const auto y = place<T>(layout, length);
        fill(ctx, Fill<T, HostSpace>{.value = 0.1, .y = y});
        Index missing = 0, written = 0;
        for_each_index(y.view, [&](Index i) { missing += !(y.view(i) == scalar_cast<T>(0.1)); });
        for_each_index(y.memory, [&](Index i) { written += y.memory(i) == scalar_cast<T>(0.1); });
        CHECK(missing == 0);
        CHECK(written == length);
      });
}

TEST_CASE_TEMPLATE("many tensors are filled in one call, each with its value", T, float, double,
                   BFloat16, Float16) {
  for (const Index count : {0, 1, 20, 95, 96, 97, 200})
    on_every_backend<Backends<T>>([&](auto& ctx) {
      CAPTURE(count);
      std::vector<DynamicTensor<T, 1>> tensors;
      std::vector<Fill<T, HostSpace>> fills;
      for (Index i = 0; i < count; ++i) {
        tensors.emplace_back(DynamicExtents<1>(i % 5 * 13));
        fills.push_back({.value = static_cast<double>(i) / 4, .y = tensors.back()});
      }
      fill(ctx, std::span<const Fill<T, HostSpace>>(fills));
      Index wrong = 0;
      for (Index i = 0; i < count; ++i)
        for (Index k = 0; k < i % 5 * 13; ++k)
          wrong += !(tensors[static_cast<std::size_t>(i)](k) ==
                     scalar_cast<T>(static_cast<double>(i) / 4));
      CHECK(wrong == 0);
    });
}

TEST_CASE("nothing to fill is an error") {
  on_each_backend<Backends<float>>([](auto& ctx) {
    CHECK_THROWS_WITH_AS(fill(ctx, Fill<float, HostSpace>{}), "fill: y is missing", ShapeError);
  });
}

TEST_CASE_TEMPLATE("numbers are widened exactly and rounded once, whatever the layouts", T,
                   BFloat16, Float16) {
  for (const Index depth : depths)
    for (const Index start : {0, 1}) {
      CAPTURE(depth);
      CAPTURE(start);
      const auto numbers = random_tensor<float>("x", 3, 4, depth + start);
      const auto part = [&](const auto& view) { return view.slice(2, start, depth + start); };
      on_every_backend<Backends<T>>([&](auto& ctx) {
        for (const Layout from : all_layouts)
          for (const Layout to : all_layouts) {
            const auto wide = place_copy(from, numbers);
            const auto narrow = place<T>(to, 3, 4, depth + start);
            const auto back = place<float>(from, 3, 4, depth + start);
            convert(ctx,
                    Convert<float, T, HostSpace>{.x = part(wide.view), .y = part(narrow.view)});
            convert(ctx,
                    Convert<T, float, HostSpace>{.x = part(narrow.view), .y = part(back.view)});
            Index wrong = 0;
            for_each_index(part(numbers.view()), [&](auto... i) {
              const T expected(part(numbers.view())(i...));
              wrong += !(part(narrow.view)(i...) == expected);
              wrong += !(part(back.view)(i...) == static_cast<float>(expected));
            });
            CHECK(wrong == 0);
          }
      });
    }
}

#ifdef SSM_TEST_ON_CUDA
TEST_CASE_TEMPLATE("transposes in every scalar", T, float, double, BFloat16, Float16) {
  for (const Index length : {1, 31, 70})
    for (const Index channels : {1, 33, 130}) {
      const auto x = random_tensor<T>("x", 2, length, channels);
      const auto y = place<T>(Layout::columns, 2, length, channels);
      only<Device>([&](auto& ctx) {
        cuda::queue(ctx, [&](cuda::Stream stream) {
          cuda::transpose(cuda::on_device(Rearrange<T, HostSpace>{.x = x, .y = y}), stream);
        });
      });
      CHECK(difference(y.view, x) == 0);
    }
}
#endif

}  // namespace
}  // namespace ssm::test
