// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cuda/decayed_chunks.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/decayed_attention.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as the operands of ssm::. T: float, double, sums in T. By
/// chunks of 64 or 128 positions, or of as many as the call says, 16 to 256: the operations of
/// ssm::DecayedAttention, where a thread computes 4 × 4 numbers.
/// Sequences of one position are one kernel.
/// sums        [B, L, H]
/// workspace   sizes.forward_scratch(), backward sizes.backward_scratch() numbers
template <class T>
SSM_CUDA_API void decayed_attention(const ssm::DecayedAttention<T, CudaSpace>& a,
                                    DeviceSegments segments, const DecayedSizes& sizes,
                                    double* sums, T* workspace, Stream stream);
template <class T>
SSM_CUDA_API void decayed_attention_backward(const ssm::DecayedAttentionBackward<T, CudaSpace>& g,
                                             DeviceSegments segments, const DecayedSizes& sizes,
                                             double* sums, T* workspace, Stream stream);
/// The same on tensor cores, by chunks of at most 128 positions. T: BFloat16, Float16; sums,
/// factors and the state that a block walks along with are floats. What is multiplied is rounded to
/// T: the states that enter chunks, and the faded products of queries with keys.
/// q k v y dy dq dk dv   has_tiled_rows
/// workspace   tiled_attention_scratch(sizes, backward) floats
template <class T>
SSM_CUDA_API void tiled_decayed_attention(const ssm::DecayedAttention<T, CudaSpace>& a,
                                          DeviceSegments segments, const DecayedSizes& sizes,
                                          float* workspace, Stream stream);
template <class T>
SSM_CUDA_API void tiled_decayed_attention_backward(
    const ssm::DecayedAttentionBackward<T, CudaSpace>& g, DeviceSegments segments,
    const DecayedSizes& sizes, float* workspace, Stream stream);
/// A warp for four queries; each lane takes keys of its own.
template <class T>
SSM_CUDA_API void decayed_score_norm(const ssm::DecayedScoreNorm<T, CudaSpace>& a,
                                     DeviceSegments segments, Stream stream);
/// In double precision.
template <class T>
SSM_CUDA_API void retention_scale(const ssm::RetentionScale<T, CudaSpace>& a,
                                  DeviceSegments segments, Stream stream);

template <class T, class Space>
DecayedSizes decayed_sizes(const ssm::DecayedAttention<T, Space>& a) {
  const Index batch = a.q.extent(0), length = a.q.extent(1), heads = a.q.extent(2);
  const Index keys = a.q.extent(3), values = a.v.extent(3);
  const Index longest = HalfStorage<T> ? kDecayedTile : 256;
  const Index chosen = HalfStorage<T> ? kDecayedTile : decayed_chunk(keys, values);
  const Index chunk = a.chunk > 0 ? std::clamp<Index>(a.chunk, 16, longest) : chosen;
  return {.batch = batch,
          .length = length,
          .sequences = sequence_count(batch, a.segments),
          .heads = heads,
          .groups = heads,
          .keys = keys,
          .values = values,
          .chunks = sequence_chunks(batch, length, a.segments, chunk)};
}

/// Beside those of the passes two factors for every position and head.
constexpr Index tiled_attention_scratch(const DecayedSizes& n, bool backward) {
  return (backward ? n.tiled_backward_scratch() : n.tiled_forward_scratch()) + 3 + 2 * n.rows();
}

namespace primitive {

/// Of half types on tensor cores where Choice has them and operands are aligned, else in float, on
/// copies.
template <class Choice = Automatic>
struct BasicDecayedAttention {
  template <class Ctx, DeviceScalar T>
  static void decayed_attention(Ctx& ctx, const ssm::DecayedAttention<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const DecayedSizes sizes = decayed_sizes(a);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto sums = frame.template tensor<double>(sizes.rows());
      const auto workspace = frame.template tensor<T>(sizes.forward_scratch());
      cuda::decayed_attention(on_device(a), segments, sizes, sums.data(), workspace.data(), stream);
    });
  }
  template <class Ctx, DeviceScalar T>
  static void decayed_attention_backward(
      Ctx& ctx, const ssm::DecayedAttentionBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const DecayedSizes sizes = decayed_sizes(g.forward);
      const auto segments = segments_on_device(ctx, frame, g.forward.segments);
      const auto sums = frame.template tensor<double>(sizes.rows());
      const auto workspace = frame.template tensor<T>(sizes.backward_scratch());
      cuda::decayed_attention_backward(on_device(g), segments, sizes, sums.data(), workspace.data(),
                                       stream);
    });
  }
  template <class Ctx, HalfStorage T>
  static void decayed_attention(Ctx& ctx, const ssm::DecayedAttention<T, typename Ctx::Space>& a) {
    const DecayedSizes sizes = decayed_sizes(a);
    if (!has_tiled_operands(a) || !has_tiled_rows(a.y) || !has_tiles(sizes))
      return ssm::detail::run_wide(ctx, a, [&](const auto& wide) { decayed_attention(ctx, wide); });
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace = frame.template tensor<float>(tiled_attention_scratch(sizes, false));
      tiled_decayed_attention(on_device(a), segments, sizes, workspace.data(), stream);
    });
  }
  template <class Ctx, HalfStorage T>
  static void decayed_attention_backward(
      Ctx& ctx, const ssm::DecayedAttentionBackward<T, typename Ctx::Space>& g) {
    const DecayedSizes sizes = decayed_sizes(g.forward);
    const bool has_rows = has_tiled_operands(g.forward) && has_tiled_rows(g.dy) &&
                          has_tiled_rows(g.dq) && has_tiled_rows(g.dk) && has_tiled_rows(g.dv);
    if (!has_rows || !has_tiles(sizes))
      return ssm::detail::run_wide_gradient<ssm::DecayedAttention>(
          ctx, g, [&](const auto& wide) { decayed_attention_backward(ctx, wide); });
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const auto segments = segments_on_device(ctx, frame, g.forward.segments);
      const auto workspace = frame.template tensor<float>(tiled_attention_scratch(sizes, true));
      tiled_decayed_attention_backward(on_device(g), segments, sizes, workspace.data(), stream);
    });
  }
  template <class Ctx, DeviceScalar T>
  static void decayed_score_norm(Ctx& ctx, const ssm::DecayedScoreNorm<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::decayed_score_norm(on_device(a), segments_on_device(ctx, frame, a.segments), stream);
    });
  }
  template <class Ctx, DeviceScalar T>
  static void retention_scale(Ctx& ctx, const ssm::RetentionScale<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::retention_scale(on_device(a), segments_on_device(ctx, frame, a.segments), stream);
    });
  }

 private:
  template <class Operands>
  static bool has_tiled_operands(const Operands& a) {
    return Choice::decayed_tiles() && has_tiled_rows(a.q) && has_tiled_rows(a.k) &&
           has_tiled_rows(a.v);
  }
};
/// The Cuda backend's part for DecayedAttention.
using DecayedAttention = BasicDecayedAttention<>;

}  // namespace primitive

}  // namespace ssm::cuda
