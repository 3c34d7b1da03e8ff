// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/backend/cpu/decayed_attention_parts.hpp"
#include "ssm/backend/cpu/simd.hpp"

namespace ssm::cpu {

/// DecayedAttention of one position: the state is read and written once.
template <class T, class Arch>
class DecayedStep {
 public:
  static bool applies(const ssm::DecayedAttention<T, HostSpace>& a) {
    return a.q.extent(1) == 1 && a.segments.empty() && a.initial_state && a.final_state &&
           a.v.stride(3) == 1 && a.y.stride(3) == 1 && a.initial_state.stride(3) == 1 &&
           a.final_state.stride(3) == 1;
  }

  static void run(const Threads& threads, const ssm::DecayedAttention<T, HostSpace>& a) {
    const Index heads = a.q.extent(2), width = a.v.extent(3);
    const Index units = a.q.extent(0) * heads;
    const Index pieces = (width + piece - 1) / piece;
    const Index parts = even_parts(threads, units, pieces);
    const Index grain =
        std::max<Index>(1, 16384 * parts / std::max<Index>(1, a.q.extent(3) * width));
    parallel(threads, units * parts, grain, [&](Range range, int) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Index part = i % parts, unit = i / parts;
        run_head(
            a, unit / heads, unit % heads,
            {pieces * part / parts * piece, std::min(width, pieces * (part + 1) / parts * piece)});
      }
    });
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index piece = 4 * lanes;  // columns below which work is not divided
  static constexpr int rows = 4;             // of the state side by side

  static void run_head(const ssm::DecayedAttention<T, HostSpace>& a, Index b, Index h,
                       Range columns) {
    const Index keys = a.q.extent(3);
    T* y = a.y.data() + b * a.y.stride(0) + h * a.y.stride(2);
    std::fill(y + columns.begin, y + columns.end, T{0});
    Index i = 0;
    for (; i + rows <= keys; i += rows) advance<rows>(a, b, h, i, columns, y);
    for (; i < keys; ++i) advance<1>(a, b, h, i, columns, y);
  }

  template <int Rows>
  static void advance(const ssm::DecayedAttention<T, HostSpace>& a, Index b, Index h, Index i,
                      Range columns, T* y) {
    const T* from = &a.initial_state(b, h, i, 0);
    T* to = &a.final_state(b, h, i, 0);
    const T* v = a.v.data() + b * a.v.stride(0) + h * a.v.stride(2);
    const Index step = a.initial_state.stride(2), step_to = a.final_state.stride(2);
    const Register decay(static_cast<T>(std::exp(double{a.log_decay(h)})));
    Register q[Rows], k[Rows];
    for (int r = 0; r < Rows; ++r) {
      q[r] = Register(a.q(b, 0, h, i + r));
      k[r] = Register(a.k(b, 0, h, i + r));
    }
    for (Index j = columns.begin; j < columns.end; j += lanes) {
      const Index count = std::min(lanes, columns.end - j);
      const Register value = gather<T, Arch>(v + j, 1, count);
      Register sum = gather<T, Arch>(y + j, 1, count);
      unrolled<Rows>([&](auto r) {
        const Register state =
            xsimd::fma(decay, gather<T, Arch>(from + r() * step + j, 1, count), k[r] * value);
        scatter<T, Arch>(to + r() * step_to + j, 1, count, state);
        sum = xsimd::fma(q[r], state, sum);
      });
      scatter<T, Arch>(y + j, 1, count, sum);
    }
  }
};

}  // namespace ssm::cpu
