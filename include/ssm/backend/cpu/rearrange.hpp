// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/op/convert.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm::cpu {

namespace detail {

/// The axis with the smallest stride among those longer than one.
template <class T>
int densest_axis(const View<T, 3, HostSpace>& view) {
  int best = 2;
  for (int axis = 1; axis >= 0; --axis)
    if (view.extent(axis) > 1 &&
        (view.extent(best) == 1 || std::abs(view.stride(axis)) < std::abs(view.stride(best))))
      best = axis;
  return best;
}

}  // namespace detail

/// ssm::rearrange in square tiles, so that neither side is walked against its cache lines;
/// ssm::convert, ssm::add and ssm::fill by registers.
template <class Arch>
struct Rearrange {
  template <class Ctx, class T>
  static void rearrange(Ctx& ctx, const ssm::Rearrange<T, typename Ctx::Space>& a) {
    if (a.x.size() == 0) return;
    const int fast = detail::densest_axis(a.y);
    int slow = detail::densest_axis(a.x);
    if (slow == fast) slow = fast == 1 ? 0 : 1;
    const int outer = 3 - fast - slow;
    constexpr Index tile = 32;
    const Index width = slow == detail::densest_axis(a.x) ? tile : a.x.extent(fast);
    const Index tiles_slow = (a.x.extent(slow) + tile - 1) / tile;
    const Index tiles_fast = (a.x.extent(fast) + width - 1) / width;
    const Index grain = std::max<Index>(1, 16384 / (tile * width));
    parallel(ctx.resources().threads(), a.x.extent(outer) * tiles_slow * tiles_fast, grain,
             [&](Range range, int) {
               for (Index i = range.begin; i < range.end; ++i) {
                 std::array<Index, 3> origin{};
                 origin[static_cast<std::size_t>(fast)] = i % tiles_fast * width;
                 origin[static_cast<std::size_t>(slow)] = i / tiles_fast % tiles_slow * tile;
                 origin[static_cast<std::size_t>(outer)] = i / (tiles_fast * tiles_slow);
                 copy_tile(a, origin, slow, fast, tile, width);
               }
             });
  }

  template <class Ctx, class From, class To>
  static void convert(Ctx& ctx, const ssm::Convert<From, To, typename Ctx::Space>& a) {
    const Index rows = a.x.extent(1), columns = a.x.extent(2);
    const Index grain = std::max<Index>(1, 4096 / std::max<Index>(1, columns));
    constexpr Index piece = 4096;  // so that one long row has work for every thread
    const Index pieces = (columns + piece - 1) / piece;
    parallel(ctx.resources().threads(), a.x.extent(0) * rows * pieces, grain,
             [&](Range range, int) {
               for (Index i = range.begin; i < range.end; ++i) {
                 const Index row = i / pieces, begin = i % pieces * piece;
                 convert_row(&a.x(row / rows, row % rows, begin), a.x.stride(2),
                             &a.y(row / rows, row % rows, begin), a.y.stride(2),
                             std::min(piece, columns - begin));
               }
             });
  }

  template <class Ctx, Real T>
  static void add(Ctx& ctx, const ssm::Add<T, typename Ctx::Space>& a) {
    const Rows<const T, Arch> left(a.a), right(a.b);
    const Rows<T, Arch> y(a.y);
    const Batch<T, Arch> left_scale(static_cast<T>(a.a_scale)),
        right_scale(static_cast<T>(a.b_scale));
    parallel_pieces(ctx.resources().threads(), 1, a.a.extent(0), lane_count<T, Arch>,
                    [&](Index, Index i, Index count) {
                      auto value = left_scale * left.load(0, i, count);
                      if (right) value = xsimd::fma(right_scale, right.load(0, i, count), value);
                      y.store(0, i, count, value);
                    });
  }

  template <class Ctx, class T>
  static void fill(Ctx& ctx, const ssm::Fill<T, typename Ctx::Space>& a) {
    if constexpr (HalfStorage<T>) {
      for (Index i = 0; i < a.y.extent(0); ++i) a.y(i) = scalar_cast<T>(a.value);
    } else {
      fill_lanes(ctx, a);
    }
  }

 private:
  template <class Ctx, class T>
  static void fill_lanes(Ctx& ctx, const ssm::Fill<T, HostSpace>& a) {
    const Rows<T, Arch> y(a.y);
    const Batch<T, Arch> value(static_cast<T>(a.value));
    parallel_pieces(ctx.resources().threads(), 1, a.y.extent(0), lane_count<T, Arch>,
                    [&](Index, Index i, Index count) { y.store(0, i, count, value); });
  }

  /// A register at a time where that is a load or a store; the loop beside it is left to the
  /// compiler.
  template <class From, class To>
  static void convert_row(const From* from, Index from_step, To* to, Index to_step, Index count) {
    if (from_step != 1 || to_step != 1) {
      for (Index i = 0; i < count; ++i) to[i * to_step] = scalar_cast<To>(from[i * from_step]);
      return;
    }
    Index i = 0;
    if constexpr (HalfStorage<From> && Real<To>)
      for (; i + lane_count<To, Arch> <= count; i += lane_count<To, Arch>)
        store<To, Arch>(to + i, load<To, Arch>(from + i));
    for (; i < count; ++i) to[i] = scalar_cast<To>(from[i]);
  }

  template <class T>
  static void copy_tile(const ssm::Rearrange<T, HostSpace>& a, std::array<Index, 3> origin,
                        int slow, int fast, Index height, Index width) {
    const T* from = &a.x(origin[0], origin[1], origin[2]);
    T* to = &a.y(origin[0], origin[1], origin[2]);
    const Index rows = std::min(height, a.x.extent(slow) - origin[static_cast<std::size_t>(slow)]);
    const Index columns =
        std::min(width, a.x.extent(fast) - origin[static_cast<std::size_t>(fast)]);
    const Index from_step = a.x.stride(fast);
    const Index to_step = a.y.stride(fast);
    for (Index i = 0; i < rows; ++i, from += a.x.stride(slow), to += a.y.stride(slow)) {
      if (from_step == 1 && to_step == 1)
        std::copy_n(from, columns, to);
      else
        for (Index j = 0; j < columns; ++j) to[j * to_step] = from[j * from_step];
    }
  }
};

}  // namespace ssm::cpu
