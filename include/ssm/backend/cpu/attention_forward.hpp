// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/backend/cpu/attention_tiles.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm::cpu {

/// Attention with a running maximum and sum per query, a tile of keys at a time; heads in parallel.
/// Source  Milakov & Gimelshein 2018 (online softmax); Dao et al. 2022 (FlashAttention)
template <class T, class Arch>
class AttentionForward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::Attention<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Index stride = Tiles::padded_width(a.q.extent(3));
    const Index keys = Tiles::round_up(a.k.extent(1), Tiles::keys);
    const auto scratch = frame.template tensor<T>(
        threads, 2 * keys * stride + 2 * stride * Tiles::queries + Tiles::tile_size);
    const Index units = sequence_count(a.q.extent(0), a.segments) * a.q.extent(2);
    parallel(threads, units, 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const AttentionHead head(a, i);
        T* k = &scratch(worker, 0);
        T* v = k + keys * stride;
        T* q = v + keys * stride;
        const Index padded = Tiles::round_up(head.total, Tiles::rows);
        Tiles::copy_rows(a.k, head.keys.batch, head.head, head.keys.begin, head.total, padded, k);
        Tiles::copy_rows(a.v, head.keys.batch, head.head, head.keys.begin, head.total, padded, v);
        for (Index first = 0; first < head.length; first += Tiles::queries)
          attend(a, head, first, k, v, q, q + stride * Tiles::queries,
                 q + 2 * stride * Tiles::queries);
      }
    });
  }

 private:
  using Tiles = AttentionTiles<T, Arch>;
  using Register = typename Tiles::Register;
  static constexpr int wide = Tiles::wide;
  static constexpr Index lanes = Tiles::lanes;
  static constexpr Index queries = Tiles::queries;

  struct Running {
    Register largest[wide], sum[wide];
  };

  static void attend(const ssm::Attention<T, HostSpace>& a, const AttentionHead& head, Index first,
                     const T* k, const T* v, T* q, T* y, T* tile) {
    const Index width = a.q.extent(3);
    const Index stride = Tiles::padded_width(width);
    const Index count = std::min(queries, head.length - first);
    const auto [row, b, begin, end] = head.sequence;
    Tiles::copy_columns(a.q, b, head.head, begin + first, count, static_cast<T>(a.scale), q);
    std::fill_n(y, stride * queries, T{0});
    Running running;
    unrolled<wide>([&](auto j) {
      running.largest[j] = Register(std::numeric_limits<T>::lowest());
      running.sum[j] = Register(T{0});
    });
    const Index seen = head.cached + first + count;  // keys that any of these queries may see
    for (Index key = 0; key < seen; key += Tiles::keys) {
      const Index keys = Tiles::round_up(std::min(Tiles::keys, seen - key), Tiles::rows);
      Tiles::multiply_rows(k + key * stride, stride, q, width, keys, tile);
      if (key + keys > head.cached + first + 1) hide_future(tile, keys, key - head.cached - first);
      weigh(tile, keys, width, y, running);
      Tiles::add_transposed_rows(v + key * stride, stride, tile, keys, width, y);
    }
    write(a, head, first, count, y, running);
  }

  /// Query j sees the keys up to its own position: row i with i + offset ≤ j.
  static void hide_future(T* tile, Index keys, Index offset) {
    Register number[wide];
    Tiles::query_numbers(number);
    const Register lowest(std::numeric_limits<T>::lowest());
    for (Index i = 0; i < keys; ++i) {
      const Register limit(static_cast<T>(i + offset));
      unrolled<wide>([&](auto j) {
        T* at = tile + i * queries + j * lanes;
        xsimd::select(number[j] >= limit, Register::load_aligned(at), lowest).store_aligned(at);
      });
    }
  }

  /// Scores become weights relative to the largest so far; what was summed before is scaled down to
  /// it.
  static void weigh(T* tile, Index keys, Index width, T* y, Running& running) {
    Register factor[wide];
    unrolled<wide>([&](auto j) {
      Register largest = running.largest[j];
      for (Index i = 0; i < keys; ++i)
        largest = xsimd::max(largest, Register::load_aligned(tile + i * queries + j * lanes));
      factor[j] = xsimd::exp(running.largest[j] - largest);
      running.largest[j] = largest;
      Register sum = running.sum[j] * factor[j];
      for (Index i = 0; i < keys; ++i) {
        T* at = tile + i * queries + j * lanes;
        const Register weight = xsimd::exp(Register::load_aligned(at) - largest);
        weight.store_aligned(at);
        sum += weight;
      }
      running.sum[j] = sum;
    });
    for (Index c = 0; c < width; ++c)
      unrolled<wide>([&](auto j) {
        T* at = y + c * queries + j * lanes;
        (Register::load_aligned(at) * factor[j]).store_aligned(at);
      });
  }

  static void write(const ssm::Attention<T, HostSpace>& a, const AttentionHead& head, Index first,
                    Index count, const T* y, const Running& running) {
    alignas(64) T largest[queries];
    alignas(64) T sum[queries];
    unrolled<wide>([&](auto j) {
      running.largest[j].store_aligned(largest + j * lanes);
      running.sum[j].store_aligned(sum + j * lanes);
    });
    const Index b = head.sequence.batch;
    for (Index i = 0; i < count; ++i) {
      const Index t = head.sequence.begin + first + i;
      const T share = T{1} / sum[i];
      for (Index c = 0; c < a.q.extent(3); ++c)
        a.y(b, t, head.head, c) = y[c * queries + i] * share;
      if (a.log_sum) a.log_sum(b, t, head.head) = largest[i] + std::log(sum[i]);
    }
  }
};

}  // namespace ssm::cpu
