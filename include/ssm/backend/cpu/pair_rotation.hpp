// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/backend/cpu/transpose.hpp"  // Interleave
#include "ssm/op/pair_rotation.hpp"

namespace ssm::cpu {

/// ssm::pair_rotation: the angles of a position are shared by the heads. Within a run of positions
/// each one follows from the one before by a rotation in double precision.
template <class Arch>
struct PairRotation {
  template <class Ctx, Real T>
  static void pair_rotation(Ctx& ctx, const ssm::PairRotation<T, typename Ctx::Space>& a) {
    const Threads threads = ctx.resources().threads();
    const Index length = a.x.extent(1);
    const Index pairs = a.x.extent(3) / 2;
    auto frame = ctx.workspace().frame();
    const auto turns = frame.template tensor<double>(threads, 4, std::max<Index>(1, pairs));
    const auto factors = frame.template tensor<T>(threads, 2, std::max<Index>(1, 2 * pairs));
    const Index runs = (length + positions - 1) / positions;
    const Index rows = sequence_count(a.x.extent(0), a.segments);
    const Index grain = std::max<Index>(1, 4096 / std::max<Index>(1, a.x.extent(2) * pairs));
    parallel(threads, rows * runs, grain, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Sequence s = sequence_at(i / runs, length, a.segments);
        const Index begin = s.begin + i % runs * positions;
        const Index end = std::min(s.end, begin + positions);
        if (begin < end)
          run_positions(a, s, begin, end, &turns(worker, 0, 0), &factors(worker, 0, 0));
      }
    });
  }

  template <class Ctx>
  static void advance_position(Ctx&, const ssm::AdvancePosition<typename Ctx::Space>& a) {
    for (Index row = 0; row < a.y.extent(0); ++row) {
      const Sequence s = sequence_at(row, a.length, a.segments);
      a.y(row) = (a.position ? a.position(row) : 0) + s.end - s.begin;
    }
  }

 private:
  static constexpr Index positions = 64;  // of which only the first needs sines

  template <class T>
  static void run_positions(const ssm::PairRotation<T, HostSpace>& a, Sequence s, Index begin,
                            Index end, double* turns, T* factors) {
    const Index pairs = a.x.extent(3) / 2;
    double *cosine = turns, *sine = turns + pairs, *step_cosine = sine + pairs,
           *step_sine = step_cosine + pairs;
    const std::int64_t first = (a.position ? a.position(s.row) : 0) + begin - s.begin;
    const double spacing = -std::log(a.base) / std::max(1.0, static_cast<double>(pairs - 1));
    for (Index i = 0; i < pairs; ++i) {
      const double step = a.direction * std::exp(spacing * static_cast<double>(i));
      cosine[i] = a.scale * std::cos(static_cast<double>(first) * step);
      sine[i] = a.scale * std::sin(static_cast<double>(first) * step);
      if (end - begin == 1) continue;
      step_cosine[i] = std::cos(step);
      step_sine[i] = std::sin(step);
    }
    for (Index t = begin; t < end; ++t) {
      for (Index i = 0; i < pairs; ++i) {  // (c, c) and (−s, s): one multiply-add rotates a pair
        factors[2 * i] = factors[2 * i + 1] = static_cast<T>(cosine[i]);
        factors[2 * (pairs + i) + 1] = static_cast<T>(sine[i]);
        factors[2 * (pairs + i)] = -factors[2 * (pairs + i) + 1];
      }
      for (Index h = 0; h < a.x.extent(2); ++h) rotate(a, s.batch, t, h, factors);
      if (t + 1 == end) break;
      for (Index i = 0; i < pairs; ++i) {
        const double next = cosine[i] * step_cosine[i] - sine[i] * step_sine[i];
        sine[i] = sine[i] * step_cosine[i] + cosine[i] * step_sine[i];
        cosine[i] = next;
      }
    }
  }

  template <class T>
  static void rotate(const ssm::PairRotation<T, HostSpace>& a, Index b, Index t, Index h,
                     const T* factors) {
    const Index width = a.x.extent(3);
    const T* x = a.x.data() + b * a.x.stride(0) + t * a.x.stride(1) + h * a.x.stride(2);
    T* y = a.y.data() + b * a.y.stride(0) + t * a.y.stride(1) + h * a.y.stride(2);
    const Index step = a.x.stride(3), out = a.y.stride(3);
    Index c = 0;
    if (step == 1 && out == 1) {
      using Register = Batch<T, Arch>;
      using Pairs = Interleave<T, Arch>;
      constexpr Index lanes = lane_count<T, Arch>;
      for (; c + lanes <= width; c += lanes) {
        const Register value = load<T, Arch>(x + c);
        const Register even = Pairs::even(value, value), odd = Pairs::odd(value, value);
        const Register swapped = Pairs::low(odd, even);
        store<T, Arch>(y + c, xsimd::fma(swapped, load<T, Arch>(factors + width + c),
                                         value * load<T, Arch>(factors + c)));
      }
    }
    for (; c < width; c += 2) {
      const T first = x[c * step], second = x[(c + 1) * step];
      y[c * out] = first * factors[c] + second * factors[width + c];
      y[(c + 1) * out] = second * factors[c + 1] + first * factors[width + c + 1];
    }
  }
};

}  // namespace ssm::cpu
