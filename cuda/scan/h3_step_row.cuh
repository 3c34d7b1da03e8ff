// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernel/half_numbers.cuh"
#include "kernel/number.cuh"
#include "kernel/parallel.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/h3_step.hpp"

namespace ssm::cuda::device {

/// One position of one channel, of several sequences one after another. Lane i has the taps and
/// modes i, i + Lanes::count, …; in place of one that is not there, it reads the last.
/// Arguments are few bytes: a kernel waits for each line of them that it reads first.
template <class T>
struct H3StepRow {
  using S = Wide<T>;
  using Z = ssm::Complex<S>;
  static constexpr int warp_size = static_cast<int>(Lanes::count);
  static constexpr int resident_blocks =
      sizeof(S) == 8 ? 5 : 8;  // whose loads keep the memory busy
  static constexpr int taps_held = static_cast<int>(h3_step_taps) / warp_size;
  static constexpr int modes_held = static_cast<int>(h3_step_modes) / warp_size;

  H3StepRow(const ssm::H3Step<T, CudaSpace>& a, Index sequences)
      : q(a.mixer.q.data()),
        k(a.mixer.k.data()),
        v(a.mixer.v.data()),
        y(a.mixer.y.data()),
        initial_shift(a.mixer.initial_shift.data()),
        initial_modes(a.mixer.initial_diagonal.data()),
        shift_B(a.mixer.shift_B.data()),
        shift_C(a.mixer.shift_C.data()),
        log_dt(a.log_dt.data()),
        inv_A_real(a.inv_A_real.data()),
        A_imag(a.A_imag.data()),
        B(a.mixer.B.data()),
        C(a.mixer.C.data()),
        shift_skip(a.mixer.shift_skip.data()),
        skip(a.mixer.skip.data()),
        final_shift(a.mixer.final_shift.data()),
        final_modes(a.mixer.final_diagonal.data()),
        batch(static_cast<int>(a.mixer.q.extent(0))),
        channels(static_cast<int>(a.mixer.q.extent(2))),
        taps(static_cast<int>(a.mixer.shift_B.extent(1))),
        modes(static_cast<int>(a.mixer.B.extent(1))),
        row_step(a.mixer.q.is_contiguous() ? channels : static_cast<int>(a.mixer.q.stride(0))),
        sequences_a_row(static_cast<int>(sequences)),
        discretization(a.mixer.discretization) {}

  Index rows() const { return Index{(batch + sequences_a_row - 1) / sequences_a_row} * channels; }

  /// All but q, k and v, which the predecessor makes.
  SSM_DEVICE void prefetch(Index row, Lanes lanes) const {
    const auto [d, first] = place(row);
    constexpr int line = 128 / int{sizeof(S)};
    const int i = static_cast<int>(lanes.index()) * line;
    for (int ahead = 0; ahead < states_ahead; ++ahead) prefetch_states(first + ahead, d, lanes);
    if (i < taps) {
      device::prefetch(shift_B + d * taps + i);
      device::prefetch(shift_C + d * taps + i);
    }
    if (i < modes) {
      device::prefetch(inv_A_real + d * modes + i);
      device::prefetch(A_imag + d * modes + i);
    }
    if (i < 2 * modes) {
      device::prefetch(B + 2 * d * modes + i);
      device::prefetch(C + 2 * d * modes + i);
    }
    if (!lanes.first()) return;
    device::prefetch(log_dt + d);
    if (shift_skip != nullptr) device::prefetch(shift_skip + d);
    if (skip != nullptr) device::prefetch(skip + d);
  }

  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const auto [d, first] = place(row);
    const int end = batch - first < sequences_a_row ? batch : first + sequences_a_row;
    const Read now = read<false>(first, d, lanes);
    const Channel channel = read_channel(d, lanes);
    if (is_full())
      step_all<true>(first, end, d, channel, now, lanes);
    else
      step_all<false>(first, end, d, channel, now, lanes);
  }

  // What other kernels that step are made of.
  struct Channel {
    S shift_B[taps_held], shift_C[taps_held];
    DiscreteMode<Z> mode[modes_held];
    Z C[modes_held];
    S shift_skip, skip;
  };
  struct Position {
    S shift[taps_held];  // of the tap before
    Z mode[modes_held];
    S q, k, v;
  };

  SSM_DEVICE Channel read_channel(int d, Lanes lanes) const {
    Channel channel;
    Z A[modes_held], input[modes_held];
    const S log_step = log_dt[d];
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      const int p = place_of(h, modes, lanes);
      A[h] = input[h] = channel.C[h] = {};
      if (modes == 0) continue;
      A[h] = {inv_A_real[d * modes + p], A_imag[d * modes + p]};
      input[h] = read_number(B, d * modes + p);
      channel.C[h] = read_number(C, d * modes + p);
    }
    SSM_UNROLL
    for (int h = 0; h < taps_held; ++h) {
      const int n = place_of(h, taps, lanes);
      channel.shift_B[h] = taps > 0 ? shift_B[d * taps + n] : S{0};
      channel.shift_C[h] = taps > 0 ? shift_C[d * taps + n] : S{0};
    }
    channel.shift_skip = shift_skip != nullptr ? shift_skip[d] : S{0};
    channel.skip = skip != nullptr ? skip[d] : S{0};
    // As diagonal_parameters rounds them, discretized as the scans do it.
    const double dt = static_cast<S>(std::exp(static_cast<double>(log_step)));
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      const double decay = static_cast<S>(-std::exp(static_cast<double>(A[h].re)));
      const auto mode =
          discretize(discretization, dt, ssm::Complex<double>{decay, static_cast<double>(A[h].im)},
                     precise(input[h]));
      channel.mode[h] = {rounded<Z>(mode.A), rounded<Z>(mode.B)};
    }
    return channel;
  }

  /// What was read of a position; nothing is done with it, as it would be waited for.
  struct Read {
    Position position;  // without q, k and v
    T q, k, v;
  };
  template <bool Full>
  SSM_DEVICE Read read(int b, int d, Lanes lanes) const {
    Read now;
    const int i = b * row_step + d;
    now.q = q[i];
    now.k = k[i];
    now.v = v[i];
    now.position = read_states<Full>(b, d, lanes);
    return now;
  }
  /// Full   as is_full() says
  template <bool Full = false>
  SSM_DEVICE Position read_states(int b, int d, Lanes lanes) const {
    Position now;
    const int row = b * channels + d;
    SSM_UNROLL
    for (int h = 0; h < taps_held; ++h) {
      const int n = Full ? number_of(h, lanes) : place_of(h, taps, lanes);
      now.shift[h] = S{0};
      if ((Full || initial_shift != nullptr) && n > 0)
        now.shift[h] = initial_shift[row * tap_count<Full>() + n - 1];
    }
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      const int p = Full ? number_of(h, lanes) : place_of(h, modes, lanes);
      now.mode[h] = {};
      if (Full || (initial_modes != nullptr && modes > 0))
        now.mode[h] = read_number(initial_modes, row * mode_count<Full>() + p);
    }
    return now;
  }

  template <bool Full = false>
  SSM_DEVICE void step(int b, int d, const Channel& channel, const Position& before,
                       Lanes lanes) const {
    const int row = b * channels + d;
    S shift[taps_held], own{0};
    SSM_UNROLL
    for (int h = 0; h < taps_held; ++h) {
      shift[h] = before.shift[h] + channel.shift_B[h] * before.k;
      if (Full || number_of(h, lanes) < taps) own += channel.shift_C[h] * shift[h];
    }
    const S input = before.v * (lanes.total(own) + channel.shift_skip * before.k);
    Z mode[modes_held];
    own = 0;
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      mode[h] = channel.mode[h].A * before.mode[h] + channel.mode[h].B * input;
      if (Full || number_of(h, lanes) < modes) own += real_part(channel.C[h] * mode[h]);
    }
    const S sum = lanes.total(own);
    if (lanes.first())
      y[row] = narrowed<T>(before.q * (Number<Z>::weight * sum + channel.skip * input));
    // All lanes have read what they write here: the states may be updated in place.
    SSM_UNROLL
    for (int h = 0; h < taps_held; ++h) {
      const int n = number_of(h, lanes);
      if (Full || (final_shift != nullptr && n < taps))
        final_shift[row * tap_count<Full>() + n] = shift[h];
    }
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      const int p = number_of(h, lanes);
      if (Full || (final_modes != nullptr && p < modes))
        *reinterpret_cast<Pair*>(final_modes + 2 * (row * mode_count<Full>() + p)) = {mode[h].re,
                                                                                      mode[h].im};
    }
  }

  /// Loads of so many sequences' states keep the memory busy.
  static constexpr int states_ahead = 4;
  SSM_DEVICE void prefetch_states(int b, int d, Lanes lanes) const {
    constexpr int line = 128 / int{sizeof(S)};
    const int i = static_cast<int>(lanes.index()) * line, row = b * channels + d;
    if (b >= batch) return;
    if (initial_shift != nullptr && i < taps) device::prefetch(initial_shift + row * taps + i);
    if (initial_modes != nullptr && i < 2 * modes)
      device::prefetch(initial_modes + 2 * row * modes + i);
  }

 private:
  /// Whether there are states, and of each as many numbers as lanes have room for.
  SSM_DEVICE bool is_full() const {
    return taps == h3_step_taps && modes == h3_step_modes && initial_shift != nullptr &&
           initial_modes != nullptr && final_shift != nullptr && final_modes != nullptr;
  }
  template <bool Full>
  SSM_DEVICE int tap_count() const {
    return Full ? static_cast<int>(h3_step_taps) : taps;
  }
  template <bool Full>
  SSM_DEVICE int mode_count() const {
    return Full ? static_cast<int>(h3_step_modes) : modes;
  }
  template <bool Full>
  SSM_DEVICE void step_all(int first, int end, int d, const Channel& channel, Read now,
                           Lanes lanes) const {
    for (int b = first; b < end; ++b) {
      prefetch_states(b + states_ahead, d, lanes);
      Read next;
      if (b + 1 < end) next = read<Full>(b + 1, d, lanes);  // under way meanwhile
      now.position.q = widened(now.q);
      now.position.k = widened(now.k);
      now.position.v = widened(now.v);
      step<Full>(b, d, channel, now.position, lanes);
      now = next;
    }
  }
  struct Place {
    int d, first;  // channel, and sequence
  };
  SSM_DEVICE Place place(Index row) const {
    const auto number = static_cast<unsigned>(row), width = static_cast<unsigned>(channels);
    return {static_cast<int>(number % width), static_cast<int>(number / width) * sequences_a_row};
  }
  SSM_DEVICE static int number_of(int h, Lanes lanes) {
    return static_cast<int>(lanes.index()) + h * warp_size;
  }
  SSM_DEVICE static int place_of(int h, int count, Lanes lanes) {
    const int i = number_of(h, lanes);
    return i < count ? i : count - 1;
  }
  struct alignas(2 * sizeof(S)) Pair {
    S re, im;
  };
  SSM_DEVICE static Z read_number(const S* from, int i) {
    const Pair pair = *reinterpret_cast<const Pair*>(from + 2 * i);
    return {pair.re, pair.im};
  }

 public:
  const T *q, *k, *v;
  T* y;
  const S *initial_shift, *initial_modes;
  const S *shift_B, *shift_C, *log_dt, *inv_A_real, *A_imag, *B, *C, *shift_skip, *skip;
  S *final_shift, *final_modes;
  int batch, channels, taps, modes;
  int row_step;  // between rows of q, k and v
  int sequences_a_row;
  Discretization discretization;
};

}  // namespace ssm::cuda::device
