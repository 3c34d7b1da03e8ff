// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "ssm/backend/cuda/device.hpp"
#include "ssm/backend/cuda/launch.hpp"
#include "ssm/op/h3_mixer.hpp"

namespace ssm::cuda {

/// The compiled half of H3Mixer for bf16 sequences as projections write them, channels contiguous:
/// the sequences of a batch are the columns of its products, or, of few and long ones, segments of
/// them. States go in and out.
/// Cost       368 multiply-adds an element, 688 backwards, where batches are multiples of eight; 8
///            bytes and 6 of a tape, 24 backwards
/// workspace  batched_h3_workspace(a) bytes, 256-byte aligned
SSM_CUDA_API void batched_h3_mixer(const ssm::H3Mixer<BFloat16, CudaSpace>& a, void* workspace,
                                   Stream stream);
/// Without a tape computes the forward pass again. g.dfinal_shift is not there.
SSM_CUDA_API void batched_h3_mixer_backward(const ssm::H3MixerBackward<BFloat16, CudaSpace>& g,
                                            void* workspace, Stream stream);

/// Floats of a tape, 6 bytes an element.
SSM_CUDA_API Index batched_h3_tape(const ssm::H3Mixer<BFloat16, CudaSpace>& a);

/// O(D·(B + 1)) and, backwards, 2 bytes an element, without a tape 8.
SSM_CUDA_API std::size_t batched_h3_workspace(const ssm::H3Mixer<BFloat16, CudaSpace>& a);
SSM_CUDA_API std::size_t batched_h3_workspace(const ssm::H3MixerBackward<BFloat16, CudaSpace>& g);

/// Whether and when the sequences of a batch are columns of products.
struct BatchedH3 {
  /// Heads of one channel, 64 taps and 32 complex modes at most, sequences that are not packed, of
  /// a multiple of 16 positions; channels contiguous, eight of them at a time in 16 bytes.
  template <class Space>
  static bool can(const ssm::H3Mixer<BFloat16, Space>& a) {
    constexpr Index max_positions = Index{1} << 30;
    constexpr Index max_sequences = 65535 * 8;
    return a.dt.extent(0) == a.q.extent(2) && a.shift_B.extent(1) >= 1 &&
           a.shift_B.extent(1) <= 64 && a.A.extent(2) == 2 && a.A.extent(1) >= 1 &&
           a.A.extent(1) <= 32 && a.segments.empty() && a.q.size() > 0 &&
           a.q.extent(0) <= max_sequences && a.q.extent(1) <= max_positions &&
           a.q.extent(1) % 16 == 0 && a.q.extent(2) % 8 == 0 &&
           a.q.extent(2) <= std::numeric_limits<int>::max() && in_rows(a.q) && in_rows(a.k) &&
           in_rows(a.v) && in_rows(a.y);
  }
  template <class Space>
  static bool can(const ssm::H3MixerBackward<BFloat16, Space>& g) {
    auto forward = g.forward;
    forward.y = {};
    return can(forward) && !g.dfinal_shift && in_rows(g.dy) && in_rows(g.dq) && in_rows(g.dk) &&
           in_rows(g.dv);
  }
  /// Columns of a sequence: few sequences are cut into segments, of whole steps of 64 positions and
  /// at least 256, up to 32 columns in all. With 768 channels these are 384 blocks, nearly three
  /// rounds of a Hopper card.
  static constexpr Index segments(Index batch, Index length) {
    if (batch > 3) return 1;
    Index count = 32;
    while (count > 1 && (batch * count > 32 || length % (64 * count) != 0 || length < 256 * count))
      count /= 2;
    return count;
  }
  /// Where at least half of the columns are used, and gradients of few numbers keep the accuracy of
  /// bf16: calls over at most 64 channels or 1024 positions go elsewhere.
  static constexpr bool suits(Index batch, Index length, Index channels) {
    const Index columns = batch * segments(batch, length);
    return 2 * columns >= (columns + 7) / 8 * 8 && channels > 64 && batch * length > 1024;
  }

 private:
  /// What is not there is nothing to mind.
  template <class View>
  static bool in_rows(const View& x) {
    const auto in_pieces = [&x](int axis) {
      return x.stride(axis) % 8 == 0 && (x.stride(axis) > 0 || x.extent(axis) == 1);
    };
    return !x || (x.stride(2) == 1 && in_pieces(0) && in_pieces(1) &&
                  reinterpret_cast<std::uintptr_t>(x.data()) % 16 == 0);
  }
};

}  // namespace ssm::cuda
