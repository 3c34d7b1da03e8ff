// SPDX-License-Identifier: Apache-2.0
#include "scan/short_filter.cuh"

namespace ssm::cuda {
namespace device {
namespace {

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

template <class T>
void filter_sequences(const ssm::ShortConvolution<T, CudaSpace>& call, const ShortFilter<T>& a,
                      const Chunking& chunking, Stream stream, const char* operation) {
  using W = Wide<T>;
  const auto y = operand(call.y);
  const auto walk = [&](auto width, auto taps) {
    for_each_index(
        chunking.places * (a.channels / width), stream, operation,
        ShortFilterForward<T, width, taps>{ShortFilterWalk<T, width, taps>(a, chunking), y});
  };
  if (walk_short_filter<T, 4>(a.taps, walk, call.x, call.y)) return;
  const Positions elements(call.x);
  for_each_index(elements.size, stream, operation, [=] SSM_DEVICE(Index i) {
    const auto [b, t, d] = elements.place(i);
    const Sequence s = a.packing.sequence_with(b, t);
    y(b, t, d) = narrowed<T>(activate<W>(a.activation, a.filtered(s, d, t - s.begin)));
  });
}

/// Gradients of inputs, and those of parameters by chunks, where sequences can be walked along;
/// else false.
/// partial   [places, W + 1, D]
template <class T>
bool differentiate_chunks(const ssm::ShortConvolutionBackward<T, CudaSpace>& g,
                          const ShortFilter<T>& a, const Chunking& chunking, Wide<T>* partial,
                          Stream stream, const char* operation) {
  return walk_short_filter<T, 2>(
      a.taps,
      [&](auto width, auto taps) {
        for_each_index(chunking.places * (a.channels / width), stream, operation,
                       ShortFilterBackward<T, width, taps>{
                           ShortFilterWalk<T, width, taps>(a, chunking), operand(g.dy),
                           operand(g.dfinal_state), operand(g.dx), partial});
      },
      g.forward.x, g.dy, g.dx);
}

/// Gradients of inputs and initial states, an element at a time, by way of those of the sums.
template <class T>
void differentiate_elements(const ssm::ShortConvolutionBackward<T, CudaSpace>& g,
                            const ShortFilterGradient<T>& gradient, Stream stream,
                            const char* operation) {
  using W = Wide<T>;
  const ShortFilter<T>& a = gradient.a;
  const auto dy = operand(g.dy);
  const auto dx = operand(g.dx);
  const auto dinitial_state = operand(g.dinitial_state);
  const Positions elements(g.forward.x);
  for_each_index(elements.size, stream, operation, [=] SSM_DEVICE(Index i) {
    const auto [b, t, d] = elements.place(i);
    W slope{1};
    if (gradient.a.activation != ActivationKind::none) {
      const Sequence s = gradient.a.packing.sequence_with(b, t);
      slope = activation_slope<W>(gradient.a.activation, gradient.a.filtered(s, d, t - s.begin));
    }
    gradient.dsum(b, t, d) = slope * widened(dy(b, t, d));
  });
  if (dx)
    for_each_index(elements.size, stream, operation, [=] SSM_DEVICE(Index i) {
      const auto [b, t, d] = elements.place(i);
      const Sequence s = gradient.a.packing.sequence_with(b, t);
      dx(b, t, d) = narrowed<T>(gradient.drow(s, d, t - s.begin + gradient.a.taps));
    });
  if (dinitial_state)
    for_each_index(a.packing.sequences * a.channels * a.taps, stream, operation,
                   [=] SSM_DEVICE(Index i) {
                     const Index taps = gradient.a.taps;
                     const Index channels = gradient.a.channels;
                     const Sequence s = gradient.a.packing.sequence(i / taps / channels);
                     const Index d = i / taps % channels;
                     dinitial_state(s.row, d, i % taps) = gradient.drow(s, d, i % taps);
                   });
}

/// Gradients of the initial states, without those of the sums.
template <class T>
void differentiate_initial_states(const ssm::ShortConvolutionBackward<T, CudaSpace>& g,
                                  const ShortFilter<T>& a, Stream stream, const char* operation) {
  using W = Wide<T>;
  const auto dy = operand(g.dy);
  const auto dfinal_state = operand(g.dfinal_state);
  const auto dinitial_state = operand(g.dinitial_state);
  if (!dinitial_state) return;
  for_each_index(a.packing.sequences * a.channels * a.taps, stream, operation,
                 [=] SSM_DEVICE(Index i) {
                   const Sequence s = a.packing.sequence(i / a.taps / a.channels);
                   const Index d = i / a.taps % a.channels;
                   const Index n = i % a.taps;
                   const Index length = s.end - s.begin;
                   W sum = n >= length ? value_or(W{0}, dfinal_state, s.row, d, n - length) : W{0};
                   for (Index t = 0; t < n && t < length; ++t)
                     sum += a.weight(d, n - 1 - t) * widened(dy(s.batch, s.begin + t, d)) *
                            activation_slope<W>(a.activation, a.filtered(s, d, t));
                   dinitial_state(s.row, d, n) = sum;
                 });
}

}  // namespace
}  // namespace device

template <class T>
void short_convolution(const ssm::ShortConvolution<T, CudaSpace>& call, DeviceSegments segments,
                       SequenceChunks chunks, Stream stream) {
  const device::ShortFilter<T> a(call, segments);
  device::filter_sequences(call, a,
                           device::Chunking(segments, call.x.extent(0), call.x.extent(1), chunks),
                           stream, "short_convolution");
  const auto final_state = device::operand(call.final_state);
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
  const device::ShortFilter<T> a(g.forward, segments);
  const device::Chunking chunking(segments, g.forward.x.extent(0), g.forward.x.extent(1), chunks);
  const auto dweight = device::operand(g.dweight);
  const auto dbias = device::operand(g.dbias);
  const Index channels = a.channels;
  const Index taps = a.taps;
  const Index width = (taps + 1) * channels;
  W* const partial = workspace + g.forward.x.size();
  if (device::differentiate_chunks(g, a, chunking, partial, stream, operation)) {
    device::differentiate_initial_states(g, a, stream, operation);
    if (!dweight && !dbias) return;
  } else {
    const device::ShortFilterGradient<T> gradient{a, device::operand(g.dfinal_state), workspace};
    device::differentiate_elements(g, gradient, stream, operation);
    if (!dweight && !dbias) return;
    device::for_each_index(chunking.places * width, stream, operation, [=] SSM_DEVICE(Index i) {
      partial[i] =
          gradient.of_chunk(chunking.at(i / width), i % channels, i / channels % (taps + 1));
    });
  }
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
                                                  DeviceSegments, SequenceChunks, Stream);    \
  template SSM_CUDA_API void short_convolution_backward<T>(                                   \
      const ssm::ShortConvolutionBackward<T, CudaSpace>&, DeviceSegments, SequenceChunks,     \
      Wide<T>*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
