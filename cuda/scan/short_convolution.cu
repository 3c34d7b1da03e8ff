// SPDX-License-Identifier: Apache-2.0
#include "kernel/activation_functions.cuh"
#include "kernel/chunks.cuh"
#include "kernel/half_numbers.cuh"
#include "ssm/backend/cuda/short_convolution.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// What all passes read. A channel of a sequence is one row: W numbers of the initial state, then
/// the inputs.
template <class T>
struct ShortFilter {
  using W = Wide<T>;

  ShortFilter(const ssm::ShortConvolution<T, CudaSpace>& a, DeviceSegments segments)
      : weight(operand(a.weight)),
        bias(operand(a.bias)),
        x(operand(a.x)),
        initial_state(operand(a.initial_state)),
        packing(segments, a.x.extent(0), a.x.extent(1)),
        channels(a.x.extent(2)),
        taps(a.weight.extent(1)),
        activation(a.activation) {}

  /// Element i of a row.
  SSM_DEVICE W row(const Sequence& s, Index d, Index i) const {
    if (i < taps) return value_or(W{0}, initial_state, s.row, d, i);
    return widened(x(s.batch, s.begin + i - taps, d));
  }
  /// The sum at position s.begin + t, in front of the nonlinearity.
  SSM_DEVICE W filtered(const Sequence& s, Index d, Index t) const {
    W sum = value_or(W{0}, bias, d);
    for (Index w = 0; w < taps; ++w) sum += weight(d, w) * row(s, d, t + 1 + w);
    return sum;
  }

  Operand<const W, 2> weight;
  Operand<const W, 1> bias;
  Operand<const T, 3> x;
  Operand<const W, 3> initial_state;
  Packing packing;
  Index channels;
  Index taps;
  ActivationKind activation;
};

/// Gradients of rows and weights, from those of the filtered sums.
template <class T>
struct ShortFilterGradient {
  using W = Wide<T>;

  SSM_DEVICE W& dsum(Index b, Index t, Index d) const {
    return sums[(b * a.packing.length + t) * a.channels + d];
  }
  /// ∂loss/∂row[i]
  SSM_DEVICE W drow(const Sequence& s, Index d, Index i) const {
    const Index length = s.end - s.begin;
    W sum = i >= length ? value_or(W{0}, dfinal_state, s.row, d, i - length) : W{0};
    for (Index w = 0; w < a.taps; ++w) {
      const Index t = i - 1 - w;
      if (t >= 0 && t < length) sum += a.weight(d, w) * dsum(s.batch, s.begin + t, d);
    }
    return sum;
  }
  /// What a chunk adds to the gradient of tap w, or with w = W to that of the bias.
  SSM_DEVICE W of_chunk(const Chunk& chunk, Index d, Index w) const {
    W sum{0};
    for (Index t = chunk.begin; t < chunk.end; ++t) {
      const W gradient = dsum(chunk.s.batch, t, d);
      sum += w == a.taps ? gradient : gradient * a.row(chunk.s, d, t - chunk.s.begin + 1 + w);
    }
    return sum;
  }

  ShortFilter<T> a;
  Operand<const W, 3> dfinal_state;
  W* sums;
};

}  // namespace
}  // namespace device

template <class T>
void short_convolution(const ssm::ShortConvolution<T, CudaSpace>& call, DeviceSegments segments,
                       Stream stream) {
  using W = Wide<T>;
  const device::ShortFilter<T> a(call, segments);
  const auto y = device::operand(call.y);
  const auto final_state = device::operand(call.final_state);
  const device::Positions elements(call.x);
  device::for_each_index(elements.size, stream, "short_convolution", [=] SSM_DEVICE(Index i) {
    const auto [b, t, d] = elements.place(i);
    const Sequence s = a.packing.sequence_with(b, t);
    y(b, t, d) =
        device::narrowed<T>(device::activate<W>(a.activation, a.filtered(s, d, t - s.begin)));
  });
  if (!final_state) return;
  device::for_each_index(a.packing.sequences * a.channels, stream, "short_convolution",
                         [=] SSM_DEVICE(Index i) {
                           const Sequence s = a.packing.sequence(i / a.channels);
                           const Index d = i % a.channels;
                           // Upwards, so that the initial state may be the same memory.
                           for (Index w = 0; w < a.taps; ++w)
                             final_state(s.row, d, w) = a.row(s, d, s.end - s.begin + w);
                         });
}

template <class T>
void short_convolution_backward(const ssm::ShortConvolutionBackward<T, CudaSpace>& g,
                                DeviceSegments segments, SequenceChunks chunks, Wide<T>* workspace,
                                Stream stream) {
  using W = Wide<T>;
  const char* const operation = "short_convolution_backward";
  const device::ShortFilterGradient<T> gradient{device::ShortFilter<T>(g.forward, segments),
                                                device::operand(g.dfinal_state), workspace};
  const device::ShortFilter<T>& a = gradient.a;
  const auto dy = device::operand(g.dy);
  const auto dx = device::operand(g.dx);
  const auto dinitial_state = device::operand(g.dinitial_state);
  const device::Positions elements(g.forward.x);
  device::for_each_index(elements.size, stream, operation, [=] SSM_DEVICE(Index i) {
    const auto [b, t, d] = elements.place(i);
    W slope{1};
    if (gradient.a.activation != ActivationKind::none) {
      const Sequence s = gradient.a.packing.sequence_with(b, t);
      slope = device::activation_slope<W>(gradient.a.activation,
                                          gradient.a.filtered(s, d, t - s.begin));
    }
    gradient.dsum(b, t, d) = slope * device::widened(dy(b, t, d));
  });
  if (dx)
    device::for_each_index(elements.size, stream, operation, [=] SSM_DEVICE(Index i) {
      const auto [b, t, d] = elements.place(i);
      const Sequence s = gradient.a.packing.sequence_with(b, t);
      dx(b, t, d) = device::narrowed<T>(gradient.drow(s, d, t - s.begin + gradient.a.taps));
    });
  if (dinitial_state)
    device::for_each_index(a.packing.sequences * a.channels * a.taps, stream, operation,
                           [=] SSM_DEVICE(Index i) {
                             const Index taps = gradient.a.taps;
                             const Index channels = gradient.a.channels;
                             const Sequence s = gradient.a.packing.sequence(i / taps / channels);
                             const Index d = i / taps % channels;
                             dinitial_state(s.row, d, i % taps) = gradient.drow(s, d, i % taps);
                           });
  const auto dweight = device::operand(g.dweight);
  const auto dbias = device::operand(g.dbias);
  if (!dweight && !dbias) return;
  const device::Chunking chunking(segments, g.forward.x.extent(0), g.forward.x.extent(1), chunks);
  W* const partial = workspace + g.forward.x.size();
  const Index width = (a.taps + 1) * a.channels;
  device::for_each_index(chunking.places * width, stream, operation, [=] SSM_DEVICE(Index i) {
    const Index channels = gradient.a.channels;
    partial[i] =
        gradient.of_chunk(chunking.at(i / width), i % channels, i / channels % (width / channels));
  });
  const Index channels = a.channels;
  const Index taps = a.taps;
  device::sum_over_places(chunking.places, width, partial, stream, operation,
                          [=] SSM_DEVICE(Index j, double sum) {
                            const Index d = j % channels;
                            const Index w = j / channels;
                            if (w == taps && dbias) dbias(d) += static_cast<W>(sum);
                            if (w < taps && dweight) dweight(d, w) += static_cast<W>(sum);
                          });
}

#define SSM_INSTANTIATE(T)                                                                    \
  template SSM_CUDA_API void short_convolution<T>(const ssm::ShortConvolution<T, CudaSpace>&, \
                                                  DeviceSegments, Stream);                    \
  template SSM_CUDA_API void short_convolution_backward<T>(                                   \
      const ssm::ShortConvolutionBackward<T, CudaSpace>&, DeviceSegments, SequenceChunks,     \
      Wide<T>*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
