// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernel/half_numbers.cuh"
#include "kernel/packing.cuh"
#include "ssm/backend/cuda/shift_taps_and_states.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// final[n] = Σ_{j ≤ n, j < length} B[n−j]·x[end−1−j] + initial[n − length], from the last tap on:
/// what is overwritten has been read, in place too.
template <class T>
struct ShiftFinalState {
  using S = Wide<T>;
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Sequence s = packing.sequence(row / channels);
    const Index d = row % channels;
    for (Index first = (taps - 1) / Lanes::count * Lanes::count; first >= 0 && taps > 0;
         first -= Lanes::count) {
      const Index width = taps - first < Lanes::count ? taps - first : Lanes::count;
      S state{0};
      lanes.each(width, [&](Index i) { state = value(s, d, first + i); });
      lanes.wait();
      lanes.each(width, [&](Index i) { final_state(s.row, d, first + i) = state; });
      lanes.wait();
    }
  }
  SSM_DEVICE S value(const Sequence& s, Index d, Index n) const {
    const Index length = s.end - s.begin;
    S sum = n >= length ? value_or(S{0}, initial_state, s.row, d, n - length) : S{0};
    for (Index j = 0; j <= n && j < length; ++j)
      sum += B(d, n - j) * widened(x(s.batch, s.end - 1 - j, d));
    return sum;
  }

  Operand<const S, 2> B;
  Operand<const T, 3> x;
  Operand<const S, 3> initial_state;
  Operand<S, 3> final_state;
  Packing packing;
  Index channels;
  Index taps;
};

/// dinitial[m] = Σ_{m+1+j < N, j < length} C[m+1+j]·dy[begin+j] + dfinal[m + length].
template <class T>
struct ShiftInitialGradient {
  using S = Wide<T>;
  SSM_DEVICE void operator()(Index i) const {
    const Index m = i % taps;
    const Index d = i / taps % channels;
    const Sequence s = packing.sequence(i / taps / channels);
    const Index length = s.end - s.begin;
    S sum = m + length < taps ? value_or(S{0}, dfinal_state, s.row, d, m + length) : S{0};
    for (Index j = 0; m + 1 + j < taps && j < length; ++j)
      sum += C(d, m + 1 + j) * widened(dy(s.batch, s.begin + j, d));
    dinitial_state(s.row, d, m) = sum;
  }

  Operand<const S, 2> C;
  Operand<const T, 3> dy;
  Operand<const S, 3> dfinal_state;
  Operand<S, 3> dinitial_state;
  Packing packing;
  Index channels;
  Index taps;
};

/// One tap n of one channel, from the gradients of the filter's taps and the states:
///   dB[n] += Σ_{j<N−n} C[n+j]·dtaps[j] + Σ_t x_t·dfinal[n + end−1−t]
///   dC[n] += Σ_{j≤n}  B[n−j]·dtaps[j] + Σ_i dy_{begin+i}·initial[n−1−i]
template <class T>
struct ShiftGradient {
  using S = Wide<T>;
  SSM_DEVICE void operator()(Index i) const {
    const Index n = i % taps;
    const Index d = i / taps;
    double sum_B = 0;
    double sum_C = 0;
    for (Index j = 0; j < taps - n; ++j) sum_B += double{C(d, n + j)} * dtaps(d, j);
    for (Index j = 0; j <= n; ++j) sum_C += double{B(d, n - j)} * dtaps(d, j);
    for (Index row = 0; row < packing.sequences; ++row) {
      const Sequence s = packing.sequence(row);
      const Index length = s.end - s.begin;
      for (Index j = 0; dfinal_state && n + j < taps && j < length; ++j)
        sum_B += double{widened(x(s.batch, s.end - 1 - j, d))} * dfinal_state(row, d, n + j);
      for (Index j = 0; initial_state && j < n && j < length; ++j)
        sum_C += double{widened(dy(s.batch, s.begin + j, d))} * initial_state(row, d, n - 1 - j);
    }
    if (dB) dB(d, n) = static_cast<S>(dB(d, n) + sum_B);
    if (dC) dC(d, n) = static_cast<S>(dC(d, n) + sum_C);
  }

  Operand<const S, 2> B, C, dtaps;
  Operand<const T, 3> x, dy;
  Operand<const S, 3> initial_state, dfinal_state;
  Operand<S, 2> dB, dC;
  Packing packing;
  Index taps;
};

template <class T>
Packing packing_of(const ssm::ShiftConvolution<T, CudaSpace>& a, DeviceSegments segments) {
  return {segments, a.x.extent(0), a.x.extent(1)};
}

}  // namespace
}  // namespace device

template <class T>
void shift_taps(const ssm::ShiftConvolution<T, CudaSpace>& a,
                const View<Wide<T>, 2, CudaSpace>& taps, Stream stream) {
  const auto B = device::operand(a.B);
  const auto C = device::operand(a.C);
  const auto to = device::operand(taps);
  const Index channels = a.B.extent(0);
  const Index count = a.B.extent(1);
  device::for_each_index(taps.size(), stream, "shift_convolution", [=] SSM_DEVICE(Index i) {
    const Index d = i % channels;
    const Index lag = i / channels;
    Wide<T> sum{0};
    for (Index j = 0; j < count - lag; ++j) sum += B(d, j) * C(d, j + lag);
    to(d, lag) = sum;
  });
}

template <class T>
void add_shift_initial_state(const ssm::ShiftConvolution<T, CudaSpace>& a, DeviceSegments segments,
                             Stream stream) {
  const auto C = device::operand(a.C);
  const auto initial_state = device::operand(a.initial_state);
  const auto y = device::operand(a.y);
  const auto packing = device::packing_of(a, segments);
  const Index channels = a.x.extent(2);
  const Index taps = a.B.extent(1);
  const Index positions = std::max<Index>(taps - 1, 0);  // that an initial state reaches
  device::for_each_index(packing.sequences * positions * channels, stream, "shift_convolution",
                         [=] SSM_DEVICE(Index i) {
                           const Index step = i % positions;  // neighbors read neighbors of C
                           const Index d = i / positions % channels;
                           const Sequence s = packing.sequence(i / positions / channels);
                           if (step >= s.end - s.begin) return;
                           Wide<T> sum{0};
                           for (Index n = 0; n < taps - 1 - step; ++n)
                             sum += C(d, n + 1 + step) * initial_state(s.row, d, n);
                           T& entry = y(s.batch, s.begin + step, d);
                           entry = device::narrowed<T>(device::widened(entry) + sum);
                         });
}

template <class T>
void shift_final_state(const ssm::ShiftConvolution<T, CudaSpace>& a, DeviceSegments segments,
                       Stream stream) {
  const device::ShiftFinalState<T> state{device::operand(a.B),
                                         device::operand(a.x),
                                         device::operand(a.initial_state),
                                         device::operand(a.final_state),
                                         device::packing_of(a, segments),
                                         a.x.extent(2),
                                         a.B.extent(1)};
  device::for_each_row(state.packing.sequences * state.channels, stream, "shift_convolution",
                       state);
}

template <class T>
void shift_initial_gradient(const ssm::ShiftConvolutionBackward<T, CudaSpace>& g,
                            DeviceSegments segments, Stream stream) {
  device::for_each_index(
      g.dinitial_state.size(), stream, "shift_convolution_backward",
      device::ShiftInitialGradient<T>{
          device::operand(g.forward.C), device::operand(g.dy), device::operand(g.dfinal_state),
          device::operand(g.dinitial_state), device::packing_of(g.forward, segments),
          g.forward.x.extent(2), g.forward.B.extent(1)});
}

template <class T>
void add_shift_gradients(const ssm::ShiftConvolutionBackward<T, CudaSpace>& g,
                         const View<const Wide<T>, 2, CudaSpace>& dtaps, DeviceSegments segments,
                         Stream stream) {
  const char* const operation = "shift_convolution_backward";
  const auto& a = g.forward;
  device::for_each_index(
      a.B.size(), stream, operation,
      device::ShiftGradient<T>{device::operand(a.B), device::operand(a.C), device::operand(dtaps),
                               device::operand(a.x), device::operand(g.dy),
                               device::operand(a.initial_state), device::operand(g.dfinal_state),
                               device::operand(g.dB), device::operand(g.dC),
                               device::packing_of(a, segments), a.B.extent(1)});
  if (!g.dskip) return;
  const auto gradient = device::operand(dtaps);
  const auto dskip = device::operand(g.dskip);
  device::for_each_index(a.x.extent(2), stream, operation,
                         [=] SSM_DEVICE(Index d) { dskip(d) += gradient(d, 0); });
}

#define SSM_INSTANTIATE(T)                                                                    \
  template SSM_CUDA_API void shift_taps<T>(const ssm::ShiftConvolution<T, CudaSpace>&,        \
                                           const View<Wide<T>, 2, CudaSpace>&, Stream);       \
  template SSM_CUDA_API void add_shift_initial_state<T>(                                      \
      const ssm::ShiftConvolution<T, CudaSpace>&, DeviceSegments, Stream);                    \
  template SSM_CUDA_API void shift_final_state<T>(const ssm::ShiftConvolution<T, CudaSpace>&, \
                                                  DeviceSegments, Stream);                    \
  template SSM_CUDA_API void shift_initial_gradient<T>(                                       \
      const ssm::ShiftConvolutionBackward<T, CudaSpace>&, DeviceSegments, Stream);            \
  template SSM_CUDA_API void add_shift_gradients<T>(                                          \
      const ssm::ShiftConvolutionBackward<T, CudaSpace>&,                                     \
      const View<const Wide<T>, 2, CudaSpace>&, DeviceSegments, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
