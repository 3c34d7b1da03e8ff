// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/tiled_attention.hpp"
#include "ssm/op/attention.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as the operands of ssm::. T: float, double, sums in T;
/// of rotary half types too, products in double.
/// cached, positions   the operands of that name where the device can read them, or null
/// A warp walks over a query's keys, 16 at a time, and rescales what it has when a larger score
/// comes.
template <class T>
SSM_CUDA_API void attention(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                            const std::int64_t* cached, Stream stream);
/// The same of so few queries, whose keys are cut into parts of 32 and more, a warp each.
/// scratch   attention_step_scratch(a) scalars
inline constexpr Index attention_step_limit = 16;
template <class T>
SSM_CUDA_API void attention_step(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                                 const std::int64_t* cached, T* scratch, Stream stream);
template <class T>
SSM_CUDA_API Index attention_step_scratch(const ssm::Attention<T, CudaSpace>& a);
/// Scores are computed twice more: by query for dq, by key for dk and dv.
/// workspace   B·L·H scalars
template <class T>
SSM_CUDA_API void attention_backward(const ssm::AttentionBackward<T, CudaSpace>& g,
                                     DeviceSegments segments, const std::int64_t* cached,
                                     T* workspace, Stream stream);
template <class T>
SSM_CUDA_API void rotary(const ssm::Rotary<T, CudaSpace>& a, DeviceSegments segments,
                         const std::int64_t* positions, Stream stream);

namespace primitive {
struct Attention {
  template <class Ctx, DeviceNumber T>
  static void attention(Ctx& ctx, const ssm::Attention<T, typename Ctx::Space>& a) {
    if constexpr (HalfStorage<T>) {
      if (!has_tiles(a) || !has_tensor_core_kernels()) {
        ssm::detail::run_wide(ctx, a, [&](const auto& wide) { attention(ctx, wide); });
        return;
      }
    }
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto cached = by_sequence(ctx, frame, a.cached);
      if constexpr (HalfStorage<T>) {
        const auto workspace = frame.template tensor<float>(tiled_attention_scratch(a));
        tiled_attention(on_device(a), segments, cached, workspace.data(), stream);
      } else if (a.q.extent(1) <= attention_step_limit && a.k.extent(1) > a.q.extent(1)) {
        const auto call = on_device(a);
        const auto scratch = frame.template tensor<T>(attention_step_scratch(call));
        attention_step(call, segments, cached, scratch.data(), stream);
      } else {
        cuda::attention(on_device(a), segments, cached, stream);
      }
    });
  }
  template <class Ctx, DeviceNumber T>
  static void attention_backward(Ctx& ctx,
                                 const ssm::AttentionBackward<T, typename Ctx::Space>& g) {
    if constexpr (HalfStorage<T>) {
      if (!has_tiles(g) || !has_tensor_core_kernels()) {
        ssm::detail::run_wide_gradient<ssm::Attention>(
            ctx, g, [&](const auto& wide) { attention_backward(ctx, wide); });
        return;
      }
    }
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const auto segments = segments_on_device(ctx, frame, g.forward.segments);
      const auto cached = by_sequence(ctx, frame, g.forward.cached);
      if constexpr (HalfStorage<T>) {
        const auto workspace =
            frame.template tensor<float>(tiled_attention_backward_scratch(g.forward));
        tiled_attention_backward(on_device(g), segments, cached, workspace.data(), stream);
      } else {
        const auto workspace = frame.template tensor<T>(g.log_sum.extents());
        cuda::attention_backward(on_device(g), segments, cached, workspace.data(), stream);
      }
    });
  }
  template <class Ctx, DeviceNumber T>
  static void rotary(Ctx& ctx, const ssm::Rotary<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::rotary(on_device(a), segments_on_device(ctx, frame, a.segments),
                   by_sequence(ctx, frame, a.positions), stream);
    });
  }

 private:
  /// One number for each sequence where the device can read it; null stays null.
  template <class Ctx, class Frame>
  static const std::int64_t* by_sequence(Ctx& ctx, Frame& frame,
                                         std::span<const std::int64_t> numbers) {
    if (numbers.empty()) return nullptr;
    const auto copied = frame.template tensor<std::int64_t>(static_cast<Index>(numbers.size()));
    copy(copied.data(), numbers.data(), numbers.size_bytes(), ctx.resources().stream());
    return copied.data();
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
