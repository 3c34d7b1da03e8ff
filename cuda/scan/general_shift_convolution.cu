// SPDX-License-Identifier: Apache-2.0
#include "convolution/correlation.cuh"
#include "kernel/packing.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/shift_convolution.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// The filter, a thread an element; forwards Σ taps[s]·x_{t−s}, backwards Σ taps[s]·x_{t+s}.
template <class T, bool Forwards>
struct ShiftFilter {
  SSM_DEVICE void operator()(Index i) const {
    const auto [b, t, d] = positions.place(i);
    const Sequence s = packing.sequence_with(b, t);
    const Index reach = Forwards ? t - s.begin + 1 : s.end - t;
    const Index count = taps < reach ? taps : reach;
    T sum = value_or(T{0}, skip, d) * x(b, t, d);
    for (Index lag = 0; lag < count; ++lag)
      sum += filter(d, lag) * x(b, Forwards ? t - lag : t + lag, d);
    y(b, t, d) = sum;
  }

  Operand<const T, 2> filter;
  Operand<const T, 1> skip;
  Operand<const T, 3> x;
  Operand<T, 3> y;
  Packing packing;
  Positions positions;
  Index taps;
};

/// dx_t += Σ_n B[n]·dfinal[n + end−1−t]: the last positions of each sequence.
template <class T>
struct ShiftFinalGradient {
  SSM_DEVICE void operator()(Index i) const {
    const Index d = i % channels;
    const Index step = i / channels % taps;
    const Sequence s = packing.sequence(i / channels / taps);
    if (step >= s.end - s.begin) return;
    T sum{0};
    for (Index n = 0; n + step < taps; ++n) sum += B(d, n) * dfinal_state(s.row, d, n + step);
    dx(s.batch, s.end - 1 - step, d) += sum;
  }

  Operand<const T, 2> B;
  Operand<const T, 3> dfinal_state;
  Operand<T, 3> dx;
  Packing packing;
  Index channels;
  Index taps;
};

/// One position of one channel: the state's part and the output in one pass.
template <class T>
struct ShiftStep {
  SSM_DEVICE void prefetch(Index row, Lanes lanes) const {
    const Index d = row % channels;
    for (Index n = lanes.index(); n < taps; n += Lanes::count) {
      device::prefetch(&B(d, n));
      device::prefetch(&C(d, n));
      if (initial_state) device::prefetch(&initial_state(row / channels, d, n));
    }
  }
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Index b = row / channels;
    const Index d = row % channels;
    const T input = x(b, 0, d);
    if (taps <= held * Lanes::count) return step(b, d, input, lanes);
    const T sum = lanes.sum(taps, [&](Index n) { return C(d, n) * next(b, d, n, input); });
    if (lanes.first()) y(b, 0, d) = sum + value_or(T{0}, skip, d) * input;
    if (!final_state) return;
    for (Index first = (taps - 1) / Lanes::count * Lanes::count; first >= 0;
         first -= Lanes::count) {  // from the last tap on: the state may be updated in place
      const Index width = taps - first < Lanes::count ? taps - first : Lanes::count;
      T state{0};
      lanes.each(width, [&](Index i) { state = next(b, d, first + i, input); });
      lanes.wait();
      lanes.each(width, [&](Index i) { final_state(b, d, first + i) = state; });
      lanes.wait();
    }
  }

 private:
  static constexpr int held = 2;  // taps of a lane

  /// The same where a lane holds all its taps: in place of one that is not there, it reads the
  /// last, so that there is no branch between loads.
  SSM_DEVICE void step(Index b, Index d, T input, Lanes lanes) const {
    T state[held], output[held];
    SSM_UNROLL
    for (int h = 0; h < held; ++h) {
      const Index n = lanes.index() + h * Lanes::count, last = taps - 1;
      state[h] = next(b, d, n < last ? n : last, input);
      output[h] = C(d, n < last ? n : last);
    }
    const T factor = value_or(T{0}, skip, d);
    T own{0};
    SSM_UNROLL
    for (int h = 0; h < held; ++h)
      if (lanes.index() + h * Lanes::count < taps) own += output[h] * state[h];
    const T sum = lanes.total(own);
    if (lanes.first()) y(b, 0, d) = sum + factor * input;
    lanes.wait();  // the state may be updated in place
    SSM_UNROLL
    for (int h = 0; h < held; ++h) {
      const Index n = lanes.index() + h * Lanes::count;
      if (final_state && n < taps) final_state(b, d, n) = state[h];
    }
  }
  SSM_DEVICE T next(Index b, Index d, Index n, T input) const {
    const T before = n > 0 ? value_or(T{0}, initial_state, b, d, n - 1) : T{0};
    return before + B(d, n) * input;
  }

 public:
  Operand<const T, 2> B, C;
  Operand<const T, 1> skip;
  Operand<const T, 3> x, initial_state;
  Operand<T, 3> final_state, y;
  Index channels;
  Index taps;
};

template <class T>
struct ElementOf {
  SSM_DEVICE T operator()(Index b, Index t, Index d) const { return view(b, t, d); }
  Operand<const T, 3> view;
};
template <class T>
struct StoreTapGradient {
  SSM_DEVICE void operator()(Index lag, Index d, double sum) const {
    dtaps(d, lag) = static_cast<T>(sum);
  }
  Operand<T, 2> dtaps;
};

/// Taps with channels contiguous, as the threads of a warp read them.
template <class T>
View<T, 2, CudaSpace> tap_view(T* memory, Index channels, Index taps) {
  return {memory, {channels, taps}, {1, channels}};
}

}  // namespace
}  // namespace device

template <class T>
void general_shift_convolution(const ssm::ShiftConvolution<T, CudaSpace>& a,
                               DeviceSegments segments, T* workspace, Stream stream) {
  using namespace device;
  const char* const operation = "shift_convolution";
  const Index channels = a.x.extent(2);
  const Index taps = a.B.extent(1);
  if (a.x.extent(1) == 1 && segments.offsets == nullptr && taps > 0) {
    for_each_row(a.x.extent(0) * channels, stream, operation,
                 ShiftStep<T>{operand(a.B), operand(a.C), operand(a.skip), operand(a.x),
                              operand(a.initial_state), operand(a.final_state), operand(a.y),
                              channels, taps});
    return;
  }
  const auto filter = tap_view(workspace, channels, taps);
  shift_taps(a, filter, stream);
  for_each_index(
      a.x.size(), stream, operation,
      ShiftFilter<T, true>{operand(View<const T, 2, CudaSpace>(filter)), operand(a.skip),
                           operand(a.x), operand(a.y),
                           Packing(segments, a.x.extent(0), a.x.extent(1)), Positions(a.y), taps});
  if (a.initial_state) add_shift_initial_state(a, segments, stream);
  if (a.final_state) shift_final_state(a, segments, stream);
}

template <class T>
void general_shift_convolution_backward(const ssm::ShiftConvolutionBackward<T, CudaSpace>& g,
                                        DeviceSegments segments, T* workspace, Stream stream) {
  using namespace device;
  const char* const operation = "shift_convolution_backward";
  const auto& a = g.forward;
  const Correlation shape = shift_correlation(a);
  const Index taps = a.B.extent(1);
  const Packing packing(segments, a.x.extent(0), a.x.extent(1));
  if (g.dx) {
    const auto filter = tap_view(workspace, shape.channels, taps);
    shift_taps(a, filter, stream);
    for_each_index(
        a.x.size(), stream, operation,
        ShiftFilter<T, false>{operand(View<const T, 2, CudaSpace>(filter)), operand(a.skip),
                              operand(g.dy), operand(g.dx), packing, Positions(g.dx), taps});
    if (g.dfinal_state)
      for_each_index(packing.sequences * taps * shape.channels, stream, operation,
                     ShiftFinalGradient<T>{operand(a.B), operand(g.dfinal_state), operand(g.dx),
                                           packing, shape.channels, taps});
  }
  if (g.dinitial_state) shift_initial_gradient(g, segments, stream);
  if (!g.dB && !g.dC && !g.dskip) return;
  const Index outputs = shape.channels * shape.lags;
  const auto dtaps = tap_view(workspace + outputs, shape.channels, shape.lags);
  correlate<T>(shape, packing, Positions(a.x).positions_contiguous, ElementOf<T>{operand(g.dy)},
               ElementOf<T>{operand(a.x)}, workspace + 2 * outputs, stream, operation,
               StoreTapGradient<T>{operand(dtaps)});
  add_shift_gradients<T>(g, dtaps, segments, stream);
}

#define SSM_INSTANTIATE(T)                                                     \
  template SSM_CUDA_API void general_shift_convolution<T>(                     \
      const ssm::ShiftConvolution<T, CudaSpace>&, DeviceSegments, T*, Stream); \
  template SSM_CUDA_API void general_shift_convolution_backward<T>(            \
      const ssm::ShiftConvolutionBackward<T, CudaSpace>&, DeviceSegments, T*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
