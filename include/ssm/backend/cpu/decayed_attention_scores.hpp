// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/backend/cpu/decayed_attention_parts.hpp"
#include "ssm/backend/cpu/panel_product.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm::cpu {

/// DecayedScoreNorm: tiles of scores, a panel of keys at a time; only the sums stay.
template <class T, class Arch>
class DecayedScores {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::DecayedScoreNorm<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    const Index length = a.q.extent(1), keys = a.q.extent(3), heads = a.q.extent(2);
    const Index units = sequence_count(a.q.extent(0), a.segments) * heads;
    const Index parts = even_parts(threads, units, (length + height - 1) / height);
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(
        threads, round_up(keys * (max_panels * width + height) + width + length + height, width));
    parallel(threads, units * parts, 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i)
        run_head(a, sequence_at(i / parts / heads, length, a.segments), i / parts % heads,
                 i % parts, parts, &scratch(worker, 0));
    });
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr int wide = 2;
  static constexpr Index width = wide * lanes;                    // keys in lanes
  static constexpr int height = sizeof(Register) == 64 ? 12 : 6;  // queries
  static constexpr Index max_panels = 4;                          // of keys at a time

  static constexpr Index round_up(Index n, Index step) { return (n + step - 1) / step * step; }

  /// Of the blocks of queries, every parts-th from `part` on.
  static void run_head(const ssm::DecayedScoreNorm<T, HostSpace>& a, Sequence s, Index h,
                       Index part, Index parts, T* scratch) {
    const Index length = s.end - s.begin, keys = a.q.extent(3);
    T* const panels = scratch;                           // [max_panels][K][width]
    T* const ages = panels + max_panels * keys * width;  // γ^{width−1−j}
    T* const queries = ages + width;                     // [height][K]
    T* const sums = queries + height * keys;             // [length]
    const double log_decay = a.log_decay(h);
    for (Index j = 0; j < width; ++j)
      ages[j] = static_cast<T>(std::exp(static_cast<double>(width - 1 - j) * log_decay));
    std::fill_n(sums, round_up(length, height), T{0});
    for (Index key = 0; key < length; key += max_panels * width) {
      const Index end = std::min(length, key + max_panels * width);
      for (Index j = key; j < round_up(end, width); ++j)
        copy_row(a.k, s, h, j, panels + (j - key) / width * keys * width + j % width, width);
      const Index first = key / height;
      for (Index block = first + (part + parts - first % parts) % parts; block * height < length;
           block += parts) {
        const Index t = block * height;
        for (Index i = 0; i < height; ++i) copy_row(a.q, s, h, t + i, queries + i * keys, 1);
        for (Index j = key; j < std::min(end, t + height); j += width)
          add_tile(queries, keys, panels + (j - key) * keys, ages, log_decay, t - j, sums + t);
      }
    }
    for (Index block = part; block * height < length; block += parts)
      for (Index t = block * height; t < std::min(length, (block + 1) * height); ++t)
        a.y(s.batch, s.begin + t, h) = sums[t];
  }

  /// Row t of a head, its channels `step` apart; zero behind the sequence.
  static void copy_row(const View<const T, 4, HostSpace>& x, Sequence s, Index h, Index t, T* to,
                       Index step) {
    const Index count = x.extent(3), stride = x.stride(3);
    const bool is_there = s.begin + t < s.end;
    const T* from =
        x.data() + s.batch * x.stride(0) + (s.begin + t) * x.stride(1) + h * x.stride(2);
    if (is_there && stride == 1 && step == 1)
      std::copy_n(from, count, to);
    else
      for (Index c = 0; c < count; ++c) to[c * step] = is_there ? from[c * stride] : T{0};
  }

  /// `offset` is the first query's position from the first key's on.
  static void add_tile(const T* queries, Index keys, const T* panel, const T* ages,
                       double log_decay, Index offset, T* sums) {
    Register scores[height * wide];
    unrolled<height * wide>([&](auto r) { scores[r] = Register(T{0}); });
    add_panel_product<height, wide, T, Arch>(queries, keys, std::integral_constant<Index, 1>{},
                                             panel, std::integral_constant<Index, width>{}, keys,
                                             scores);
    alignas(64) T tile[height * width];
    unrolled<height * wide>(
        [&](auto r) { xsimd::abs(scores[r]).store_aligned(tile + r() * lanes); });
    for (Index i = 0; i < height; ++i) {
      const Index age = offset + i;  // of the panel's first key
      T sum = 0;
      if (age >= width - 1) {
        Register all(T{0});
        for (Index j = 0; j < width; j += lanes)
          all = xsimd::fma(Register::load_aligned(tile + i * width + j), load<T, Arch>(ages + j),
                           all);
        sum = sum_of_lanes(all) *
              static_cast<T>(std::exp(static_cast<double>(age - (width - 1)) * log_decay));
      } else {
        for (Index j = 0; j <= age; ++j) sum += tile[i * width + j] * ages[width - 1 - age + j];
      }
      sums[i] += sum;
    }
  }
};

}  // namespace ssm::cpu
