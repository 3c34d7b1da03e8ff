// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>

#include "ssm/backend/cpu/attention_tiles.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm::cpu {

/// Attention of a few queries over many cached keys, which are read where they lie, once per query:
/// keys outside, heads inside, so that a cache whose heads are neighbors is read from front to
/// back. Threads share the queries or, where these are too few, the keys: each sums its part
/// relative to its own largest score.
template <class T, class Arch>
class AttentionStep {
 public:
  static constexpr Index max_queries = 4;

  template <class Ctx>
  static void run(Ctx& ctx, const ssm::Attention<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    const Index heads = a.q.extent(2), queries = a.q.extent(0) * a.q.extent(1),
                total = a.k.extent(1);
    if (queries == 0) return;
    constexpr Index least_keys = 256;  // below which another thread is not worth waking
    const Index parts =
        std::clamp<Index>(total / least_keys, 1, std::max<Index>(1, threads / queries));
    const Index row = Tiles::padded_width(a.q.extent(3));
    const Index keys = Tiles::round_up(total / parts + 1, lanes);
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(threads, heads, row + keys);
    const auto sums = frame.template tensor<T>(queries * parts, heads, row + lanes);
    parallel(threads, queries * parts, total * heads < 4096 ? queries * parts : 1,
             [&](Range range, int worker) {
               for (Index i = range.begin; i < range.end; ++i)
                 Part(a, i / parts, i % parts, parts, scratch.select(0, worker), sums.select(0, i))
                     .attend();
             });
    for (Index query = 0; query < queries; ++query)
      for (Index h = 0; h < heads; ++h) combine(a, query, h, parts, sums);
  }

 private:
  using Tiles = AttentionTiles<T, Arch>;
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;

  /// All heads of one query with a part of the keys. Of a head it leaves Σ weight·v, then the
  /// largest score and Σ weight.
  class Part {
   public:
    Part(const ssm::Attention<T, HostSpace>& a, Index query, Index part, Index parts,
         View<T, 2> scratch, View<T, 2> sums)
        : a_(a),
          b_(query / a.q.extent(1)),
          t_(query % a.q.extent(1)),
          row_(Tiles::padded_width(a.q.extent(3))),
          scratch_(scratch),
          sums_(sums) {
      const Index seen = keys_of(a, sequence_at(b_, a.q.extent(1), {})).cached + t_ + 1;
      begin_ = seen * part / parts;
      end_ = seen * (part + 1) / parts;
    }

    void attend() const {
      const Index heads = a_.q.extent(2), width = a_.q.extent(3);
      for (Index h = 0; h < heads; ++h) {
        std::fill_n(q(h), row_, T{0});
        std::fill_n(y(h), row_, T{0});
        for (Index c = 0; c < width; ++c) q(h)[c] = static_cast<T>(a_.scale) * a_.q(b_, t_, h, c);
      }
      for (Index s = begin_; s < end_; ++s)
        for (Index h = 0; h < heads; ++h) weight(h)[s - begin_] = score(s, h);
      for (Index h = 0; h < heads; ++h) weigh(h);
      for (Index s = begin_; s < end_; ++s)
        for (Index h = 0; h < heads; ++h) add_value(s, h, weight(h)[s - begin_]);
    }

   private:
    T* q(Index h) const { return &scratch_(h, 0); }
    T* weight(Index h) const { return q(h) + row_; }
    T* y(Index h) const { return &sums_(h, 0); }

    T score(Index s, Index h) const {
      const Index width = a_.q.extent(3), stride = a_.k.stride(3);
      const T* k = &a_.k(b_, s, h, 0);
      Register sum(T{0});
      for (Index c = 0; c < width; c += lanes)
        sum = xsimd::fma(Register::load_aligned(q(h) + c),
                         gather<T, Arch>(k + c * stride, stride, std::min(lanes, width - c)), sum);
      return sum_of_lanes(sum);
    }

    void add_value(Index s, Index h, T share) const {
      const Index width = a_.v.extent(3), stride = a_.v.stride(3);
      const T* v = &a_.v(b_, s, h, 0);
      for (Index c = 0; c < width; c += lanes) {
        const auto value = gather<T, Arch>(v + c * stride, stride, std::min(lanes, width - c));
        T* to = y(h) + c;
        xsimd::fma(Register(share), value, Register::load_aligned(to)).store_aligned(to);
      }
    }

    /// Scores become weights relative to the largest.
    void weigh(Index h) const {
      const Index keys = end_ - begin_;
      T* at = weight(h);
      std::fill(at + keys, at + Tiles::round_up(keys, lanes), std::numeric_limits<T>::lowest());
      Register maximum(std::numeric_limits<T>::lowest());
      for (Index s = 0; s < keys; s += lanes)
        maximum = xsimd::max(maximum, Register::load_aligned(at + s));
      const T largest = largest_lane(maximum);
      Register total(T{0});
      for (Index s = 0; s < keys; s += lanes) {
        const Register share = xsimd::exp(Register::load_aligned(at + s) - Register(largest));
        share.store_aligned(at + s);
        total += share;
      }
      y(h)[row_] = largest;
      y(h)[row_ + 1] = sum_of_lanes(total);
    }

    const ssm::Attention<T, HostSpace>& a_;
    Index b_, t_, row_;
    View<T, 2> scratch_, sums_;  // [heads][q, weights] and [heads][y, largest, sum]
    Index begin_ = 0, end_ = 0;
  };

  static void combine(const ssm::Attention<T, HostSpace>& a, Index query, Index h, Index parts,
                      const View<T, 3>& sums) {
    const Index b = query / a.q.extent(1), t = query % a.q.extent(1);
    const Index row = Tiles::padded_width(a.q.extent(3));
    T largest = std::numeric_limits<T>::lowest();
    for (Index i = 0; i < parts; ++i) largest = std::max(largest, sums(query * parts + i, h, row));
    T total{0};
    for (Index i = 0; i < parts; ++i) {
      T& factor = sums(query * parts + i, h, row);
      factor = std::exp(factor - largest);
      total += factor * sums(query * parts + i, h, row + 1);
    }
    for (Index c = 0; c < a.q.extent(3); ++c) {
      T y{0};
      for (Index i = 0; i < parts; ++i)
        y += sums(query * parts + i, h, row) * sums(query * parts + i, h, c);
      a.y(b, t, h, c) = y / total;
    }
    if (a.log_sum) a.log_sum(b, t, h) = largest + std::log(total);
  }
};

}  // namespace ssm::cpu
