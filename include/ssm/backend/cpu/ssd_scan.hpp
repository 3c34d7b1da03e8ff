// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/backend/cpu/decayed_attention_parts.hpp"  // even_parts
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/backend/reference/ssd_scan.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm::cpu {

/// ssm::ssd_scan a position at a time, states in lanes; heads and, where these are too few, rows of
/// their states are shared out over the threads. A single position reads and writes the state once.
/// The gradient is the reference's.
template <class Arch>
struct SsdScan {
  template <class Ctx, class T>
  static void ssd_scan(Ctx& ctx, const ssm::SsdScan<T, typename Ctx::Space>& a) {
    const Threads threads = ctx.resources().threads();
    const Index length = a.x.extent(1), heads = a.x.extent(2);
    const Index channels = a.x.extent(3), states = a.B.extent(3);
    const Index units = sequence_count(a.x.extent(0), a.segments) * heads;
    const Index pieces = (channels + side_by_side - 1) / side_by_side;
    const Index parts = even_parts(threads, units, pieces);
    const Index grain = std::max<Index>(
        1, 16384 * parts / std::max<Index>(1, std::max<Index>(1, length) * channels * states));
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(threads, (channels + 2) * states);
    parallel(threads, units * parts, grain, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Index part = i % parts, unit = i / parts;
        const Range rows{pieces * part / parts * side_by_side,
                         std::min(channels, pieces * (part + 1) / parts * side_by_side)};
        run_head(a, sequence_at(unit / heads, length, a.segments), unit % heads, rows,
                 scratch.data() + worker * (channels + 2) * states);
      }
    });
  }

  template <class Ctx, class T>
  static void ssd_scan_backward(Ctx& ctx, const ssm::SsdScanBackward<T, typename Ctx::Space>& g) {
    reference::SsdScan::ssd_scan_backward(ctx, g);
  }

 private:
  static constexpr int side_by_side = 4;  // rows of the state, for which B and C are loaded once

  /// Rows of the state of a head, `rows.begin` first.
  template <class T>
  struct State {
    T* data;
    Index row;  // elements between rows
  };

  template <class T>
  static void run_head(const ssm::SsdScan<T, HostSpace>& a, Sequence s, Index h, Range rows,
                       T* scratch) {
    const Index states = a.B.extent(3);
    T* const B = scratch;
    T* const C = B + states;
    T* const state = C + states;
    const auto initial = head_of(a.initial_state, s.row, h);
    const auto final = head_of(a.final_state, s.row, h);
    if (s.end - s.begin == 1 && initial && final && initial.stride(1) == 1 &&
        final.stride(1) == 1) {
      pack(a.B, s.batch, s.begin, group_of(a, h), B);
      pack(a.C, s.batch, s.begin, group_of(a, h), C);
      advance<T>(a, s.batch, s.begin, h, rows, B, C,
                 {initial.data() + rows.begin * initial.stride(0), initial.stride(0)},
                 {final.data() + rows.begin * final.stride(0), final.stride(0)});
      return;
    }
    for (Index p = rows.begin; p < rows.end; ++p)
      for (Index n = 0; n < states; ++n)
        state[(p - rows.begin) * states + n] = initial ? initial(p, n) : T{0};
    for (Index t = s.begin; t < s.end; ++t) {
      pack(a.B, s.batch, t, group_of(a, h), B);
      pack(a.C, s.batch, t, group_of(a, h), C);
      advance<T>(a, s.batch, t, h, rows, B, C, {state, states}, {state, states});
    }
    if (!final) return;
    for (Index p = rows.begin; p < rows.end; ++p)
      for (Index n = 0; n < states; ++n) final(p, n) = state[(p - rows.begin) * states + n];
  }

  template <class U>
  static View<U, 2, HostSpace> head_of(const View<U, 4, HostSpace>& states, Index row, Index h) {
    if (!states) return {};
    return states.select(0, row).select(0, h);
  }
  template <class T>
  static Index group_of(const ssm::SsdScan<T, HostSpace>& a, Index h) {
    return h / (a.x.extent(2) / a.B.extent(2));
  }
  template <class T>
  static void pack(const View<const T, 4, HostSpace>& from, Index b, Index t, Index group, T* to) {
    const T* source =
        from.data() + b * from.stride(0) + t * from.stride(1) + group * from.stride(2);
    for (Index n = 0; n < from.extent(3); ++n) to[n] = source[n * from.stride(3)];
  }

  /// One position of these rows.
  template <class T>
  static void advance(const ssm::SsdScan<T, HostSpace>& a, Index b, Index t, Index h, Range rows,
                      const T* B, const T* C, State<const T> from, State<T> to) {
    const double dt = reference::SsdScan::step(a, b, t, h);
    const T decay = static_cast<T>(std::exp(dt * a.A(h)));
    Index p = rows.begin;
    const auto move = [&](auto count) {
      advance_rows<count(), T>(a, b, t, h, p, static_cast<T>(dt), decay, B, C, from, to);
      p += count();
      from.data += count() * from.row;
      to.data += count() * to.row;
    };
    while (p + side_by_side <= rows.end) move(std::integral_constant<int, side_by_side>{});
    while (p < rows.end) move(std::integral_constant<int, 1>{});
  }

  template <int Rows, class T>
  static void advance_rows(const ssm::SsdScan<T, HostSpace>& a, Index b, Index t, Index h, Index p,
                           T dt, T decay, const T* B, const T* C, State<const T> from,
                           State<T> to) {
    using Register = Batch<T, Arch>;
    constexpr Index lanes = lane_count<T, Arch>;
    const Index states = a.B.extent(3);
    const Register fading(decay);
    Register input[Rows], sum[Rows];
    unrolled<Rows>([&](auto r) {
      input[r] = Register(dt * a.x(b, t, h, p + r()));
      sum[r] = Register(T{0});
    });
    for (Index n = 0; n < states; n += lanes) {
      const Index count = std::min(lanes, states - n);
      const Register key = gather<T, Arch>(B + n, 1, count);
      const Register query = gather<T, Arch>(C + n, 1, count);
      unrolled<Rows>([&](auto r) {
        const Register state = xsimd::fma(
            fading, gather<T, Arch>(from.data + r() * from.row + n, 1, count), input[r] * key);
        scatter<T, Arch>(to.data + r() * to.row + n, 1, count, state);
        sum[r] = xsimd::fma(query, state, sum[r]);
      });
    }
    const T skip = a.skip ? a.skip(h) : T{0};
    unrolled<Rows>([&](auto r) {
      a.y(b, t, h, p + r()) = sum_of_lanes<T, Arch>(sum[r]) + skip * a.x(b, t, h, p + r());
    });
  }
};

}  // namespace ssm::cpu
