// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/rearrange.hpp"

#include "primitives_on_device.hpp"
#include "ssm/backend/cuda/transpose.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using DeviceRearrange = DeviceContext<cuda::primitive::Rearrange>;

/// Extents on both sides of a thread's run of numbers.
constexpr Index depths[] = {0, 1, 3, 4, 5, 64, 65};

}  // namespace

TEST_CASE_TEMPLATE("copies between layouts, in every scalar", T, float, double, BFloat16, Float16) {
  for (const Index depth : depths)
    for (const Layout from : all_layouts)
      for (const Layout to : all_layouts) {
        const auto x = random_tensor<T>("x", 2, 3, depth);
        const auto placed = place_copy(from, x);
        const auto y = place<T>(to, 2, 3, depth);
        DeviceRearrange ctx;
        rearrange(ctx, Rearrange<T, HostSpace>{.x = placed, .y = y});
        CHECK(difference(y.view, x) == 0);
      }
}

TEST_CASE_TEMPLATE("transposes in every scalar", T, float, double, BFloat16, Float16) {
  for (const Index length : {1, 31, 70})
    for (const Index channels : {1, 33, 130}) {
      const auto x = random_tensor<T>("x", 2, length, channels);
      const auto y = place<T>(Layout::columns, 2, length, channels);
      DeviceRearrange ctx;
      cuda::queue(ctx, [&](cuda::Stream stream) {
        cuda::transpose(cuda::on_device(Rearrange<T, HostSpace>{.x = x, .y = y}), stream);
      });
      CHECK(difference(y.view, x) == 0);
    }
}

TEST_CASE_TEMPLATE("numbers are widened exactly and rounded once, whatever the layouts", T,
                   BFloat16, Float16) {
  for (const Index depth : depths)
    for (const Layout from : all_layouts)
      for (const Layout to : all_layouts)
        for (const Index start : {0, 1}) {
          CAPTURE(depth);
          CAPTURE(start);
          const auto numbers = random_tensor<float>("x", 3, 4, depth + start);
          const auto wide = place_copy(from, numbers);
          const auto narrow = place<T>(to, 3, 4, depth + start);
          const auto back = place<float>(from, 3, 4, depth + start);
          const auto part = [&](const auto& view) { return view.slice(2, start, depth + start); };
          DeviceRearrange ctx;
          convert(ctx, Convert<float, T, HostSpace>{.x = part(wide.view), .y = part(narrow.view)});
          convert(ctx, Convert<T, float, HostSpace>{.x = part(narrow.view), .y = part(back.view)});
          for_each_index(part(numbers.view()), [&](auto... i) {
            const T expected(part(numbers.view())(i...));
            CHECK(part(narrow.view)(i...) == expected);
            CHECK(part(back.view)(i...) == static_cast<float>(expected));
          });
        }
}

TEST_CASE_TEMPLATE("fills in every scalar", T, float, double, BFloat16, Float16) {
  for (const Index count : {0, 1, 70}) {
    auto y = nan_tensor<T>(count);
    DeviceRearrange ctx;
    fill(ctx, Fill<T, HostSpace>{.value = 0.1, .y = y});
    for (Index i = 0; i < count; ++i) CHECK(y(i) == scalar_cast<T>(0.1));
  }
}

TEST_CASE_TEMPLATE("sums of half types are rounded once", T, BFloat16, Float16) {
  const auto a = random_tensor<T>("a", 70), b = random_tensor<T>("b", 70);
  auto y = nan_tensor<T>(70);
  DeviceRearrange ctx;
  add(ctx, Add<T, HostSpace>{.a = a, .b = b, .b_scale = 0.5, .y = y});
  for (Index i = 0; i < 70; ++i)
    CHECK(y(i) == T(static_cast<float>(a(i)) + 0.5F * static_cast<float>(b(i))));
}
