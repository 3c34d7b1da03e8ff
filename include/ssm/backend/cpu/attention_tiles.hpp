// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>

#include "ssm/backend/cpu/panel_product.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/attention.hpp"

namespace ssm::cpu {

/// Tiles of scores with the queries in lanes and the keys in rows: softmax and its gradient are
/// then plain arithmetic between registers, and a tile of weights is already the operand that the
/// next product wants.
template <class T, class Arch>
struct AttentionTiles {
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr int wide = 3;                               // registers of queries
  static constexpr int rows = sizeof(Register) == 64 ? 8 : 4;  // keys or channels a kernel takes
  static constexpr int channels_wide = 2;                      // registers of channels
  static constexpr Index queries = wide * lanes;
  static constexpr Index keys = 64;
  static constexpr Index tile_size = keys * queries;

  static constexpr Index round_up(Index n, Index step) { return (n + step - 1) / step * step; }
  /// Channels of a head in scratch: whole registers, whole rows.
  static constexpr Index padded_width(Index width) {
    return round_up(width, std::max<Index>(channels_wide * lanes, rows));
  }

  /// Positions begin … begin+count−1 of one head, [position][padded width]; zero beyond, up to
  /// `padded` positions.
  template <class V>
  static void copy_rows(const V& view, Index b, Index h, Index begin, Index count, Index padded,
                        T* to) {
    const Index width = view.extent(3);
    const Index stride = padded_width(width);
    std::fill_n(to, padded * stride, T{0});
    for (Index t = 0; t < count; ++t)
      for (Index c = 0; c < width; ++c) to[t * stride + c] = view(b, begin + t, h, c);
  }
  /// `count` ≤ queries positions with the channels outside, [padded width][queries]; zero beyond.
  template <class V>
  static void copy_columns(const V& view, Index b, Index h, Index begin, Index count, T factor,
                           T* to) {
    const Index width = view.extent(3);
    std::fill_n(to, padded_width(width) * queries, T{0});
    for (Index t = 0; t < count; ++t)
      for (Index c = 0; c < width; ++c) to[c * queries + t] = factor * view(b, begin + t, h, c);
  }

  /// tile[row][query] = Σ_c left[row][c] · columns[c][query] for `count` rows, rounded up.
  static void multiply_rows(const T* left, Index stride, const T* columns, Index depth, Index count,
                            T* tile) {
    for (Index i = 0; i < count; i += rows) {
      Register sums[rows * wide];
      unrolled<rows * wide>([&](auto r) { sums[r] = Register(T{0}); });
      add_panel_product<rows, wide, T, Arch>(left + i * stride, stride,
                                             std::integral_constant<Index, 1>{}, columns,
                                             std::integral_constant<Index, queries>{}, depth, sums);
      unrolled<rows * wide>([&](auto r) { sums[r].store_aligned(tile + i * queries + r * lanes); });
    }
  }
  /// to[c][query] += Σ_row left[row][c] · tile[row][query] for `count` rows.
  static void add_transposed_rows(const T* left, Index stride, const T* tile, Index count,
                                  Index width, T* to) {
    for (Index c = 0; c < width; c += rows) {
      Register sums[rows * wide];
      T* at = to + c * queries;
      unrolled<rows * wide>([&](auto r) { sums[r] = Register::load_aligned(at + r * lanes); });
      add_panel_product<rows, wide, T, Arch>(left + c, std::integral_constant<Index, 1>{}, stride,
                                             tile, std::integral_constant<Index, queries>{}, count,
                                             sums);
      unrolled<rows * wide>([&](auto r) { sums[r].store_aligned(at + r * lanes); });
    }
  }
  /// to[row][c] += Σ_query tile[row][query] · right[query][c] for `count` rows, rounded up.
  static void add_by_queries(const T* tile, const T* right, Index stride, Index count, T* to) {
    for (Index i = 0; i < count; i += rows)
      for (Index c = 0; c < stride; c += channels_wide * lanes) {
        constexpr int registers = rows * channels_wide;
        Register sums[registers];
        T* at = to + i * stride + c;
        const auto place = [&](auto r) {
          return at + r / channels_wide * stride + r % channels_wide * lanes;
        };
        unrolled<registers>([&](auto r) { sums[r] = Register::load_aligned(place(r)); });
        add_panel_product<rows, channels_wide, T, Arch>(
            tile + i * queries, std::integral_constant<Index, queries>{},
            std::integral_constant<Index, 1>{}, right + c, stride, queries, sums);
        unrolled<registers>([&](auto r) { sums[r].store_aligned(place(r)); });
      }
  }

  /// The lanes' numbers 0 … queries−1.
  static void query_numbers(Register (&to)[wide]) {
    alignas(64) T number[queries];
    for (Index i = 0; i < queries; ++i) number[i] = static_cast<T>(i);
    unrolled<wide>([&](auto j) { to[j] = Register::load_aligned(number + j * lanes); });
  }
};

/// One head of one sequence: its new positions, and the keys they may look at.
struct AttentionHead {
  Sequence sequence;
  AttentionKeys keys;
  Index head;
  Index cached;  // keys before the first query
  Index length;  // queries
  Index total;   // keys

  template <class A>
  AttentionHead(const A& a, Index unit)
      : sequence(sequence_at(unit / a.q.extent(2), a.q.extent(1), a.segments)),
        keys(keys_of(a, sequence)),
        head(unit % a.q.extent(2)),
        cached(keys.cached),
        length(sequence.end - sequence.begin),
        total(cached + length) {}
};

}  // namespace ssm::cpu
