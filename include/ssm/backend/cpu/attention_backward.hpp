// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/attention_tiles.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm::cpu {

/// The gradient of Attention: weights are computed again from log_sum, a tile at a time; heads in
/// parallel.
/// With p the weight of a key and δ = dy·y:
///   dscore = p·(dy·v − δ)    dv += p·dy    dk += dscore·q    dq += dscore·k
/// Source  Dao et al. 2022 (FlashAttention), Algorithm 4
template <class T, class Arch>
class AttentionBackward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::AttentionBackward<T, HostSpace>& g) {
    const auto& a = g.forward;
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Index stride = Tiles::padded_width(a.q.extent(3));
    const Index keys = Tiles::round_up(a.k.extent(1), Tiles::keys);
    const Index block = stride * queries;
    const auto scratch = frame.template tensor<T>(
        threads, 4 * keys * stride + 5 * block + 2 * Tiles::tile_size + 2 * queries);
    const Index units = sequence_count(a.q.extent(0), a.segments) * a.q.extent(2);
    parallel(threads, units, 1, [&](Range range, int worker) {
      Scratch at(&scratch(worker, 0), keys * stride, block);
      for (Index i = range.begin; i < range.end; ++i) run_head(g, AttentionHead(a, i), at);
    });
  }

 private:
  using Tiles = AttentionTiles<T, Arch>;
  using Register = typename Tiles::Register;
  static constexpr int wide = Tiles::wide;
  static constexpr Index lanes = Tiles::lanes;
  static constexpr Index queries = Tiles::queries;

  struct Scratch {
    Scratch(T* at, Index keys, Index block)
        : k(at),
          v(k + keys),
          dk(v + keys),
          dv(dk + keys),
          q(dv + keys),
          dy(q + block),
          q_rows(dy + block),
          dy_rows(q_rows + block),
          dq(dy_rows + block),
          weights(dq + block),
          scores(weights + Tiles::tile_size),
          log_sum(scores + Tiles::tile_size),
          aligned(log_sum + queries) {}
    T *k, *v, *dk, *dv;                       // [keys][padded width]
    T *q, *dy;                                // [padded width][queries]
    T *q_rows, *dy_rows;                      // [queries][padded width]
    T* dq;                                    // [padded width][queries]
    T *weights, *scores, *log_sum, *aligned;  // [keys][queries] twice, [queries] twice
  };

  static void run_head(const ssm::AttentionBackward<T, HostSpace>& g, const AttentionHead& head,
                       Scratch& at) {
    const auto& a = g.forward;
    const Index stride = Tiles::padded_width(a.q.extent(3));
    const auto [b, begin, cached] = head.keys;
    const Index padded = Tiles::round_up(head.total, Tiles::rows);
    Tiles::copy_rows(a.k, b, head.head, begin, head.total, padded, at.k);
    Tiles::copy_rows(a.v, b, head.head, begin, head.total, padded, at.v);
    std::fill_n(at.dk, padded * stride, T{0});
    std::fill_n(at.dv, padded * stride, T{0});
    for (Index first = 0; first < head.length; first += queries) run_queries(g, head, first, at);
    for (Index t = 0; t < head.total; ++t)
      for (Index c = 0; c < a.k.extent(3); ++c) {
        g.dk(b, begin + t, head.head, c) = at.dk[t * stride + c];
        g.dv(b, begin + t, head.head, c) = at.dv[t * stride + c];
      }
    if (a.cached.empty()) return;
    for (Index t = head.total; t < a.k.extent(1); ++t)  // what nothing reads
      for (Index c = 0; c < a.k.extent(3); ++c)
        g.dk(b, t, head.head, c) = g.dv(b, t, head.head, c) = T{0};
  }

  static void run_queries(const ssm::AttentionBackward<T, HostSpace>& g, const AttentionHead& head,
                          Index first, Scratch& at) {
    const auto& a = g.forward;
    const Index width = a.q.extent(3);
    const Index stride = Tiles::padded_width(width);
    const Index count = std::min(queries, head.length - first);
    const auto [row, b, begin, end] = head.sequence;
    load_queries(g, head, first, count, at);
    const Index seen = head.cached + first + count;
    for (Index key = 0; key < seen; key += Tiles::keys) {
      const Index keys = Tiles::round_up(std::min(Tiles::keys, seen - key), Tiles::rows);
      Tiles::multiply_rows(at.k + key * stride, stride, at.q, width, keys, at.weights);
      Tiles::multiply_rows(at.v + key * stride, stride, at.dy, width, keys, at.scores);
      differentiate(at, keys, key - head.cached - first);
      Tiles::add_by_queries(at.weights, at.dy_rows, stride, keys, at.dv + key * stride);
      Tiles::add_by_queries(at.scores, at.q_rows, stride, keys, at.dk + key * stride);
      Tiles::add_transposed_rows(at.k + key * stride, stride, at.scores, keys, width, at.dq);
    }
    for (Index i = 0; i < count; ++i)
      for (Index c = 0; c < width; ++c)
        g.dq(b, begin + first + i, head.head, c) = static_cast<T>(a.scale) * at.dq[c * queries + i];
  }

  static void load_queries(const ssm::AttentionBackward<T, HostSpace>& g, const AttentionHead& head,
                           Index first, Index count, Scratch& at) {
    const auto& a = g.forward;
    const Index width = a.q.extent(3);
    const Index stride = Tiles::padded_width(width);
    const T scale = static_cast<T>(a.scale);
    const auto [row, b, begin, end] = head.sequence;
    const Index from = begin + first;
    Tiles::copy_columns(a.q, b, head.head, from, count, scale, at.q);
    Tiles::copy_columns(g.dy, b, head.head, from, count, T{1}, at.dy);
    Tiles::copy_rows(a.q, b, head.head, from, count, queries, at.q_rows);
    Tiles::copy_rows(g.dy, b, head.head, from, count, queries, at.dy_rows);
    for (Index i = 0; i < count * stride; ++i) at.q_rows[i] *= scale;
    std::fill_n(at.dq, stride * queries, T{0});
    std::fill_n(at.log_sum, queries, T{0});
    std::fill_n(at.aligned, queries, T{0});
    for (Index i = 0; i < count; ++i) {
      at.log_sum[i] = g.log_sum(b, from + i, head.head);
      for (Index c = 0; c < width; ++c)
        at.aligned[i] += g.dy(b, from + i, head.head, c) * g.y(b, from + i, head.head, c);
    }
  }

  /// From scores and dy·v to weights and dscore; row i is seen by the queries j ≥ i + offset.
  static void differentiate(Scratch& at, Index keys, Index offset) {
    Register number[wide], log_sum[wide], aligned[wide];
    Tiles::query_numbers(number);
    unrolled<wide>([&](auto j) {
      log_sum[j] = Register::load_aligned(at.log_sum + j * lanes);
      aligned[j] = Register::load_aligned(at.aligned + j * lanes);
    });
    for (Index i = 0; i < keys; ++i) {
      const Register limit(static_cast<T>(i + offset));
      unrolled<wide>([&](auto j) {
        T* weight_at = at.weights + i * queries + j * lanes;
        T* score_at = at.scores + i * queries + j * lanes;
        const Register weight = xsimd::select(
            number[j] >= limit, xsimd::exp(Register::load_aligned(weight_at) - log_sum[j]),
            Register(T{0}));
        weight.store_aligned(weight_at);
        (weight * (Register::load_aligned(score_at) - aligned[j])).store_aligned(score_at);
      });
    }
  }
};

}  // namespace ssm::cpu
