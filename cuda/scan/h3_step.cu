// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernel/half_numbers.cuh"
#include "kernel/number.cuh"
#include "kernel/parallel.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/h3_step.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// One position of one channel, of several sequences one after another. Lane i has the taps and
/// modes i, i + Lanes::count, …; in place of one that is not there, it reads the last.
template <class T>
struct H3StepRow {
  using S = Wide<T>;
  using Z = ssm::Complex<S>;
  static constexpr int taps_held = static_cast<int>(h3_step_taps / Lanes::count);
  static constexpr int modes_held = static_cast<int>(h3_step_modes / Lanes::count);

  H3StepRow(const ssm::H3Step<T, CudaSpace>& a, Index sequences)
      : q(operand(a.mixer.q)),
        k(operand(a.mixer.k)),
        v(operand(a.mixer.v)),
        shift_B(operand(a.mixer.shift_B)),
        shift_C(operand(a.mixer.shift_C)),
        shift_skip(operand(a.mixer.shift_skip)),
        log_dt(operand(a.log_dt)),
        skip(operand(a.mixer.skip)),
        inv_A_real(operand(a.inv_A_real)),
        A_imag(operand(a.A_imag)),
        B(operand(a.mixer.B)),
        C(operand(a.mixer.C)),
        initial_shift(operand(a.mixer.initial_shift)),
        final_shift(operand(a.mixer.final_shift)),
        initial_modes(states(a.mixer.initial_diagonal)),
        final_modes(states(a.mixer.final_diagonal)),
        y(operand(a.mixer.y)),
        batch(a.mixer.q.extent(0)),
        channels(a.mixer.q.extent(2)),
        taps(a.mixer.shift_B.extent(1)),
        modes(a.mixer.B.extent(1)),
        sequences_a_row(sequences),
        discretization(a.mixer.discretization) {}

  Index rows() const { return (batch + sequences_a_row - 1) / sequences_a_row * channels; }

  /// All but q, k and v, which the predecessor makes.
  SSM_DEVICE void prefetch(Index row, Lanes lanes) const {
    const Index d = row % channels, b = row / channels * sequences_a_row;
    constexpr Index line = 128 / Index{sizeof(S)};
    const Index i = lanes.index() * line;
    if (i < taps) {
      device::prefetch(&shift_B(d, i));
      device::prefetch(&shift_C(d, i));
    }
    if (i < modes) {
      device::prefetch(&inv_A_real(d, i));
      device::prefetch(&A_imag(d, i));
    }
    if (i < 2 * modes) {
      device::prefetch(&B(d, i / 2, 0));
      device::prefetch(&C(d, i / 2, 0));
    }
    for (int ahead = 0; ahead < states_ahead; ++ahead) prefetch_states(b + ahead, d, lanes);
    if (!lanes.first()) return;
    device::prefetch(&log_dt(d));
    if (shift_skip) device::prefetch(&shift_skip(d));
    if (skip) device::prefetch(&skip(d));
  }

  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Index d = row % channels, first = row / channels * sequences_a_row;
    const Index end = batch - first < sequences_a_row ? batch : first + sequences_a_row;
    Position now = read(first, d, lanes);
    const Channel channel = read_channel(d, lanes);
    for (Index b = first; b < end; ++b) {
      prefetch_states(b + states_ahead, d, lanes);
      const Position next = read(b + 1 < end ? b + 1 : b, d, lanes);  // under way meanwhile
      step(b, d, channel, now, lanes);
      now = next;
    }
  }

 private:
  template <class E>
  static Operand<E, 4> states(const View<E, 6, CudaSpace>& view) {
    if (!view) return {};
    return operand(view.select(1, 0).select(1, 0));
  }

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

  /// Loads of so many sequences' states keep the memory busy.
  static constexpr int states_ahead = 4;
  SSM_DEVICE void prefetch_states(Index b, Index d, Lanes lanes) const {
    constexpr Index line = 128 / Index{sizeof(S)};
    const Index i = lanes.index() * line;
    if (b >= batch) return;
    if (initial_shift && i < taps) device::prefetch(&initial_shift(b, d, i));
    if (initial_modes && i < 2 * modes) device::prefetch(&initial_modes(b, d, i / 2, 0));
  }

  SSM_DEVICE static Index last(Index i, Index count) { return i < count ? i : count - 1; }

  SSM_DEVICE Channel read_channel(Index d, Lanes lanes) const {
    Channel channel;
    SSM_UNROLL
    for (int h = 0; h < taps_held; ++h) {
      const Index n = last(lanes.index() + h * Lanes::count, taps);
      channel.shift_B[h] = taps > 0 ? shift_B(d, n) : S{0};
      channel.shift_C[h] = taps > 0 ? shift_C(d, n) : S{0};
    }
    channel.shift_skip = shift_skip ? shift_skip(d) : S{0};
    channel.skip = skip ? skip(d) : S{0};
    // As diagonal_parameters rounds them, discretized as the scans do it.
    const double dt = static_cast<S>(std::exp(static_cast<double>(log_dt(d))));
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      const Index p = last(lanes.index() + h * Lanes::count, modes);
      if (modes == 0) {
        channel.mode[h] = {};
        channel.C[h] = {};
        continue;
      }
      const double decay = static_cast<S>(-std::exp(static_cast<double>(inv_A_real(d, p))));
      const auto mode =
          discretize(discretization, dt, ssm::Complex<double>{decay, double{A_imag(d, p)}},
                     number_at<ssm::Complex<double>>(B, d, p));
      channel.mode[h] = {rounded<Z>(mode.A), rounded<Z>(mode.B)};
      channel.C[h] = number_at<Z>(C, d, p);
    }
    return channel;
  }

  SSM_DEVICE Position read(Index b, Index d, Lanes lanes) const {
    Position now;
    SSM_UNROLL
    for (int h = 0; h < taps_held; ++h) {
      const Index n = last(lanes.index() + h * Lanes::count, taps);
      now.shift[h] = initial_shift && n > 0 ? initial_shift(b, d, n - 1) : S{0};
    }
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      const Index p = last(lanes.index() + h * Lanes::count, modes);
      now.mode[h] = initial_modes && modes > 0 ? number_at<Z>(initial_modes, b, d, p) : Z{};
    }
    now.q = widened(q(b, 0, d));
    now.k = widened(k(b, 0, d));
    now.v = widened(v(b, 0, d));
    return now;
  }

  SSM_DEVICE void step(Index b, Index d, const Channel& channel, const Position& before,
                       Lanes lanes) const {
    S shift[taps_held], own{0};
    SSM_UNROLL
    for (int h = 0; h < taps_held; ++h) {
      shift[h] = before.shift[h] + channel.shift_B[h] * before.k;
      if (lanes.index() + h * Lanes::count < taps) own += channel.shift_C[h] * shift[h];
    }
    const S input = before.v * (lanes.total(own) + channel.shift_skip * before.k);
    Z mode[modes_held];
    own = 0;
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      mode[h] = channel.mode[h].A * before.mode[h] + channel.mode[h].B * input;
      if (lanes.index() + h * Lanes::count < modes) own += real_part(channel.C[h] * mode[h]);
    }
    const S sum = lanes.total(own);
    if (lanes.first())
      y(b, 0, d) = narrowed<T>(before.q * (Number<Z>::weight * sum + channel.skip * input));
    // All lanes have read what they write here: the states may be updated in place.
    SSM_UNROLL
    for (int h = 0; h < taps_held; ++h) {
      const Index n = lanes.index() + h * Lanes::count;
      if (final_shift && n < taps) final_shift(b, d, n) = shift[h];
    }
    SSM_UNROLL
    for (int h = 0; h < modes_held; ++h) {
      const Index p = lanes.index() + h * Lanes::count;
      if (final_modes && p < modes) set_number(final_modes, mode[h], b, d, p);
    }
  }

  Operand<const T, 3> q, k, v;
  Operand<const S, 2> shift_B, shift_C;
  Operand<const S, 1> shift_skip, log_dt, skip;
  Operand<const S, 2> inv_A_real, A_imag;
  Operand<const S, 3> B, C;
  Operand<const S, 3> initial_shift;
  Operand<S, 3> final_shift;
  Operand<const S, 4> initial_modes;
  Operand<S, 4> final_modes;
  Operand<T, 3> y;
  Index batch, channels, taps, modes, sequences_a_row;
  Discretization discretization;
};

}  // namespace
}  // namespace device

template <class T>
void h3_step(const ssm::H3Step<T, CudaSpace>& a, Stream stream) {
  // So many warps keep a device busy; with more, one takes several sequences.
  constexpr Index busy = 8192;
  const Index channels = std::max<Index>(a.mixer.q.extent(2), 1);
  const Index sequences = std::max<Index>(1, a.mixer.q.extent(0) * channels / busy);
  const device::H3StepRow<T> row(a, sequences);
  device::for_each_row(row.rows(), stream, "h3_step", row);
}

#define SSM_INSTANTIATE(T) \
  template SSM_CUDA_API void h3_step<T>(const ssm::H3Step<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
