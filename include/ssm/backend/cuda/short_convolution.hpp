// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cuda/hopper.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/sequence_chunks.hpp"
#include "ssm/op/short_convolution.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as ssm::ShortConvolution and
/// ssm::ShortConvolutionBackward. T: float, double, half types; sums in Wide<T>. Where channels
/// are neighbors in memory, positions less than 2^24 numbers apart, T is not double and W ≤ 8, a
/// thread takes four neighboring channels along a chunk, two backwards (one if W is not 4 or they
/// are not aligned), and reads every element once. Else a thread for every element of y reads W
/// elements of x, W − 1 of them from cache.
/// chunks      short_convolution_chunks(a, false)
template <class T>
SSM_CUDA_API void short_convolution(const ssm::ShortConvolution<T, CudaSpace>& a,
                                    DeviceSegments segments, SequenceChunks chunks, Stream stream);
/// As the forward pass: along chunks, with the sums of the gradients of parameters in registers;
/// else a thread for every element of dx, and one for every chunk, channel and tap. Gradients of
/// parameters are then summed over the chunks.
/// chunks      short_convolution_chunks(g.forward, true)
/// workspace   short_convolution_scratch(g.forward, chunks) numbers
template <class T>
SSM_CUDA_API void short_convolution_backward(const ssm::ShortConvolutionBackward<T, CudaSpace>& g,
                                             DeviceSegments segments, SequenceChunks chunks,
                                             Wide<T>* workspace, Stream stream);

/// [B, L, D] gradients in front of the nonlinearity, then [places, W + 1, D] sums.
template <class T, class Space>
Index short_convolution_scratch(const ssm::ShortConvolution<T, Space>& a,
                                const SequenceChunks& chunks) {
  return a.x.size() + chunks.places * (a.weight.extent(1) + 1) * a.x.extent(2);
}

/// Chunks whose threads, of four channels or backwards two, are as many as a large device runs at
/// once; longer ones would leave its last threads alone for long, shorter ones begin too often.
template <class T, class Space>
SequenceChunks short_convolution_chunks(const ssm::ShortConvolution<T, Space>& a,
                                        bool is_backward) {
  const Index channels = is_backward ? 2 : 4;
  const Index threads = hopper_multiprocessors * (is_backward ? 512 : 768);
  const Index each = (a.x.size() / channels + threads - 1) / threads;
  return sequence_chunks(
      a.x.extent(0), a.x.extent(1), a.segments,
      is_backward ? std::clamp<Index>(each, 32, 192) : std::clamp<Index>(each, 16, 128));
}

namespace primitive {
struct ShortConvolution {
  template <class Ctx, DeviceNumber T>
  static void short_convolution(Ctx& ctx, const ssm::ShortConvolution<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks = short_convolution_chunks(a, false);
      cuda::short_convolution(on_device(a), segments_on_device(ctx, frame, a.segments), chunks,
                              stream);
    });
  }
  template <class Ctx, DeviceNumber T>
  static void short_convolution_backward(
      Ctx& ctx, const ssm::ShortConvolutionBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks = short_convolution_chunks(g.forward, true);
      const auto segments = segments_on_device(ctx, frame, g.forward.segments);
      const auto workspace =
          frame.template tensor<Wide<T>>(short_convolution_scratch(g.forward, chunks));
      cuda::short_convolution_backward(on_device(g), segments, chunks, workspace.data(), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
