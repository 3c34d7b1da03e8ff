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
/// The gradient goes through the positions backwards in blocks, whose states it computes again from
/// those kept at their first positions.
template <class Arch>
struct SsdScan {
  template <class Ctx, Real T>
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

  template <class Ctx, Real T>
  static void ssd_scan_backward(Ctx& ctx, const ssm::SsdScanBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    const Threads threads = ctx.resources().threads();
    const Index batch = a.x.extent(0), length = a.x.extent(1), heads = a.x.extent(2);
    const Index groups = a.B.extent(2), states = a.B.extent(3), shared = heads / groups;
    const Index sequences = sequence_count(batch, a.segments), units = sequences * groups;
    const Index slices = even_parts(threads, units, shared);  // of the heads of a group
    const Index block = block_of(length);
    const Index blocks = (length + block - 1) / block;
    const Index size = (blocks + block + 2) * a.x.extent(3) * states + 2 * states;
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(threads, size);
    const auto dA = frame.template tensor<double>(sequences, heads);
    const auto dskip = frame.template tensor<double>(sequences, heads);
    const auto dt_bias = frame.template tensor<double>(sequences, heads);
    const Sums<T> sums{.B = frame.template tensor<T>(slices, batch, length, groups, states),
                       .C = frame.template tensor<T>(slices, batch, length, groups, states),
                       .A = dA,
                       .skip = dskip,
                       .dt_bias = dt_bias};
    parallel(threads, units * slices, 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Index slice = i % slices, unit = i / slices, group = unit % groups;
        const Sequence s = sequence_at(unit / groups, length, a.segments);
        for (Index t = s.begin; t < s.end; ++t) {
          std::fill_n(row(sums.B, slice, s.batch, t, group), states, T{0});
          std::fill_n(row(sums.C, slice, s.batch, t, group), states, T{0});
        }
        for (Index h = shared * slice / slices; h < shared * (slice + 1) / slices; ++h)
          head_backward(g, s, group * shared + h, slice, sums, scratch.data() + worker * size);
      }
    });
    const Index grain = std::max<Index>(1, 16384 / std::max<Index>(1, groups * states * slices));
    parallel(threads, batch * length, grain, [&](Range range, int) {
      for (Index i = range.begin; i < range.end; ++i) {
        add_slices(sums.B, i / length, i % length, g.dB);
        add_slices(sums.C, i / length, i % length, g.dC);
      }
    });
    for (Index row = 0; row < sequences; ++row)
      for (Index h = 0; h < heads; ++h) {
        if (g.dA) g.dA(h) += static_cast<T>(sums.A(row, h));
        if (g.dskip) g.dskip(h) += static_cast<T>(sums.skip(row, h));
        if (g.ddt_bias) g.ddt_bias(h) += static_cast<T>(sums.dt_bias(row, h));
      }
  }

 private:
  static constexpr int side_by_side = 4;  // rows of the state, for which B and C are loaded once

  /// What several heads, or sequences, add to.
  template <class T>
  struct Sums {
    View<T, 5, HostSpace> B;  // of each slice of a group's heads
    View<T, 5, HostSpace> C;
    View<double, 2, HostSpace> A;  // of each sequence
    View<double, 2, HostSpace> skip;
    View<double, 2, HostSpace> dt_bias;
  };

  /// As many positions as there are blocks, so that both kinds of kept states are few.
  static Index block_of(Index length) {
    return std::max<Index>(1, static_cast<Index>(std::sqrt(static_cast<double>(length))));
  }

  template <class T>
  static T* row(const View<T, 5, HostSpace>& sums, Index slice, Index b, Index t, Index group) {
    return sums.data() + slice * sums.stride(0) + b * sums.stride(1) + t * sums.stride(2) +
           group * sums.stride(3);
  }
  template <class T>
  static void add_slices(const View<T, 5, HostSpace>& sums, Index b, Index t,
                         const View<T, 4, HostSpace>& to) {
    if (!to) return;
    for (Index group = 0; group < to.extent(2); ++group)
      for (Index n = 0; n < to.extent(3); ++n) {
        T sum = sums(0, b, t, group, n);
        for (Index slice = 1; slice < sums.extent(0); ++slice) sum += sums(slice, b, t, group, n);
        to(b, t, group, n) = sum;
      }
  }

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
      advance<true, T>(a, s.batch, s.begin, h, rows, B, C,
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
      advance<true, T>(a, s.batch, t, h, rows, B, C, {state, states}, {state, states});
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

  /// One position of these rows, with y or without.
  template <bool HasOutput, class T>
  static void advance(const ssm::SsdScan<T, HostSpace>& a, Index b, Index t, Index h, Range rows,
                      const T* B, const T* C, State<const T> from, State<T> to) {
    const double dt = reference::SsdScan::step(a, b, t, h);
    const T decay = static_cast<T>(std::exp(dt * a.A(h)));
    Index p = rows.begin;
    const auto move = [&](auto count) {
      advance_rows<HasOutput, count(), T>(a, b, t, h, p, static_cast<T>(dt), decay, B, C, from, to);
      p += count();
      from.data += count() * from.row;
      to.data += count() * to.row;
    };
    while (p + side_by_side <= rows.end) move(std::integral_constant<int, side_by_side>{});
    while (p < rows.end) move(std::integral_constant<int, 1>{});
  }

  template <bool HasOutput, int Rows, class T>
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
        if constexpr (HasOutput) sum[r] = xsimd::fma(query, state, sum[r]);
      });
    }
    if constexpr (!HasOutput) return;
    const T skip = a.skip ? a.skip(h) : T{0};
    unrolled<Rows>([&](auto r) {
      a.y(b, t, h, p + r()) = sum_of_lanes<T, Arch>(sum[r]) + skip * a.x(b, t, h, p + r());
    });
  }

  /// One head of one sequence: with λ_t = ∂loss/∂state_t,
  ///   λ_t = dy_t ⊗ C_t + exp(Δ_{t+1}·A)·λ_{t+1}
  ///   dx_t = Δ_t·λ_t·B_t + skip·dy_t     dB_t += Δ_t·x_t·λ_t     dC_t += dy_t·state_t
  ///   dΔ_t = x_t·λ_t·B_t + A·c_t         dA += Δ_t·c_t
  ///   c_t  = exp(Δ_t·A)·⟨λ_t, state_{t−1}⟩
  template <class T>
  static void head_backward(const ssm::SsdScanBackward<T, HostSpace>& g, Sequence s, Index h,
                            Index slice, const Sums<T>& sums, T* scratch) {
    const auto& a = g.forward;
    const Index channels = a.x.extent(3), states = a.B.extent(3), size = channels * states;
    const Index length = s.end - s.begin, block = block_of(a.x.extent(1)), group = group_of(a, h);
    const Range rows{0, channels};
    T* const B = scratch;
    T* const C = B + states;
    T* const adjoint = C + states;                // exp(Δ·A)·λ of the next position
    T* const inside = adjoint + size;             // before each position of a block, and behind it
    T* const kept = inside + (block + 1) * size;  // before each block
    const auto advance_to = [&](Index t, const T* from, T* to) {
      pack(a.B, s.batch, t, group, B);
      advance<false, T>(a, s.batch, t, h, rows, B, B, {from, states}, {to, states});
    };
    load(head_of(a.initial_state, s.row, h), channels, states, inside);
    for (Index i = 0; i < length; ++i) {
      if (i % block == 0) std::copy_n(inside, size, kept + i / block * size);
      if (i / block * block + block < length) advance_to(s.begin + i, inside, inside);
    }
    load(head_of(g.dfinal_state, s.row, h), channels, states, adjoint);
    double dA = 0, dskip = 0, ddt_bias = 0;
    for (Index first = (length - 1) / block * block; length > 0 && first >= 0; first -= block) {
      const Index count = std::min(block, length - first);
      std::copy_n(kept + first / block * size, size, inside);
      for (Index i = 0; i < count; ++i)
        advance_to(s.begin + first + i, inside + i * size, inside + (i + 1) * size);
      for (Index i = count; i-- > 0;) {
        const Index t = s.begin + first + i;
        const double dt = reference::SsdScan::step(a, s.batch, t, h);
        const double decay = std::exp(dt * a.A(h));
        pack(a.B, s.batch, t, group, B);
        pack(a.C, s.batch, t, group, C);
        Position<T> at{.B = B,
                       .C = C,
                       .dB = row(sums.B, slice, s.batch, t, group),
                       .dC = row(sums.C, slice, s.batch, t, group),
                       .dt = static_cast<T>(dt),
                       .decay = static_cast<T>(decay)};
        Index p = 0;
        const auto move = [&](auto rows_at_once) {
          const T* before = inside + i * size + p * states;
          retreat_rows<rows_at_once(), T>(g, s.batch, t, h, p, before, before + size,
                                          adjoint + p * states, at);
          p += rows_at_once();
        };
        while (p + side_by_side <= channels) move(std::integral_constant<int, side_by_side>{});
        while (p < channels) move(std::integral_constant<int, 1>{});
        const double faded = decay * at.faded;
        const double ddt =
            (at.dinput + a.A(h) * faded) * reference::SsdScan::step_slope(a, s.batch, t, h);
        dA += dt * faded;
        dskip += at.dskip;
        ddt_bias += ddt;
        if (g.ddt) g.ddt(s.batch, t, h) = static_cast<T>(ddt);
      }
    }
    sums.A(s.row, h) = dA;
    sums.skip(s.row, h) = dskip;
    sums.dt_bias(s.row, h) = ddt_bias;
    if (!g.dinitial_state) return;
    const auto dinitial = head_of(g.dinitial_state, s.row, h);
    for (Index p = 0; p < channels; ++p)
      for (Index n = 0; n < states; ++n) dinitial(p, n) = adjoint[p * states + n];
  }

  template <class T>
  static void load(const View<const T, 2, HostSpace>& from, Index channels, Index states, T* to) {
    for (Index p = 0; p < channels; ++p)
      for (Index n = 0; n < states; ++n) to[p * states + n] = from ? from(p, n) : T{0};
  }

  /// What the rows of one position share, and add to.
  template <class T>
  struct Position {
    const T *B, *C;
    T *dB, *dC;
    T dt, decay;
    double dinput = 0;  // x_t·λ_t·B_t
    double faded = 0;   // ⟨λ_t, state_{t−1}⟩
    double dskip = 0;
  };

  template <int Rows, class T>
  static void retreat_rows(const ssm::SsdScanBackward<T, HostSpace>& g, Index b, Index t, Index h,
                           Index p, const T* before, const T* after, T* adjoint, Position<T>& at) {
    using Register = Batch<T, Arch>;
    constexpr Index lanes = lane_count<T, Arch>;
    const auto& a = g.forward;
    const Index states = a.B.extent(3);
    const Register fading(at.decay);
    Register faded(T{0});
    Register dy[Rows], input[Rows], dinput[Rows];
    unrolled<Rows>([&](auto r) {
      dy[r] = Register(g.dy(b, t, h, p + r()));
      input[r] = Register(at.dt * a.x(b, t, h, p + r()));
      dinput[r] = Register(T{0});
    });
    for (Index n = 0; n < states; n += lanes) {
      const Index count = std::min(lanes, states - n);
      const Register key = gather<T, Arch>(at.B + n, 1, count);
      const Register query = gather<T, Arch>(at.C + n, 1, count);
      Register dkey = gather<T, Arch>(at.dB + n, 1, count);
      Register dquery = gather<T, Arch>(at.dC + n, 1, count);
      unrolled<Rows>([&](auto r) {
        const Index offset = r() * states + n;
        const Register lambda =
            xsimd::fma(dy[r], query, gather<T, Arch>(adjoint + offset, 1, count));
        dquery = xsimd::fma(dy[r], gather<T, Arch>(after + offset, 1, count), dquery);
        dkey = xsimd::fma(input[r], lambda, dkey);
        dinput[r] = xsimd::fma(lambda, key, dinput[r]);
        faded = xsimd::fma(lambda, gather<T, Arch>(before + offset, 1, count), faded);
        scatter<T, Arch>(adjoint + offset, 1, count, fading * lambda);
      });
      scatter<T, Arch>(at.dB + n, 1, count, dkey);
      scatter<T, Arch>(at.dC + n, 1, count, dquery);
    }
    at.faded += double{sum_of_lanes<T, Arch>(faded)};
    const T skip = a.skip ? a.skip(h) : T{0};
    unrolled<Rows>([&](auto r) {
      const T sum = sum_of_lanes<T, Arch>(dinput[r]);
      const T x = a.x(b, t, h, p + r()), slope = g.dy(b, t, h, p + r());
      at.dinput += double{sum} * x;
      at.dskip += double{slope} * x;
      if (g.dx) g.dx(b, t, h, p + r()) = sum * at.dt + skip * slope;
    });
  }
};

}  // namespace ssm::cpu
