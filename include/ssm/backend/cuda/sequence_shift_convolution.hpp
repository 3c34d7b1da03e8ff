// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/correlation.hpp"
#include "ssm/backend/cuda/tensor_core_shift.hpp"

namespace ssm::cuda {

/// The compiled half for every call that ssm::ShiftConvolution allows: the direct sum over the
/// taps, a thread an element. One position is one kernel.
/// workspace   D·N scalars
template <class T>
SSM_CUDA_API void general_shift_convolution(const ssm::ShiftConvolution<T, CudaSpace>& a,
                                            DeviceSegments segments, T* workspace, Stream stream);
/// workspace   general_shift_convolution_backward_workspace(g) scalars
template <class T>
SSM_CUDA_API void general_shift_convolution_backward(
    const ssm::ShiftConvolutionBackward<T, CudaSpace>& g, DeviceSegments segments, T* workspace,
    Stream stream);

/// Without taps there still is the skip, whose gradient is that of lag 0.
template <class T, class Space>
Correlation shift_correlation(const ssm::ShiftConvolution<T, Space>& a) {
  return {.positions = a.x.extent(0) * a.x.extent(1),
          .channels = a.x.extent(2),
          .lags = std::max<Index>(a.B.extent(1), 1)};
}
template <class T, class Space>
Index general_shift_convolution_backward_workspace(
    const ssm::ShiftConvolutionBackward<T, Space>& g) {
  const Correlation shape = shift_correlation(g.forward);
  return 2 * shape.channels * shape.lags + shape.workspace();
}

namespace primitive {

template <class Choice = Automatic>
struct BasicShiftConvolution {
  template <class Ctx, DeviceNumber T>
  static void shift_convolution(Ctx& ctx, const ssm::ShiftConvolution<T, typename Ctx::Space>& a) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreShift<Ctx, T>::can(a) && chosen(a, false)) {
        queue(ctx, [&](Stream stream) { TensorCoreShift<Ctx, T>(ctx, a, stream).run(); });
        return;
      }
    if constexpr (HalfStorage<T>) {
      ssm::detail::run_wide(ctx, a, [&](const auto& wide) { shift_convolution(ctx, wide); });
    } else {
      queue(ctx, [&](Stream stream) {
        auto frame = ctx.workspace().frame();
        const auto segments = segments_on_device(ctx, frame, a.segments);
        const auto workspace = frame.template tensor<T>(a.B.extents());
        general_shift_convolution(on_device(a), segments, workspace.data(), stream);
      });
    }
  }
  template <class Ctx, DeviceNumber T>
  static void shift_convolution_backward(
      Ctx& ctx, const ssm::ShiftConvolutionBackward<T, typename Ctx::Space>& g) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreShift<Ctx, T>::can(g) && chosen(g.forward, true)) {
        queue(ctx, [&](Stream stream) {
          TensorCoreShift<Ctx, T>(ctx, g.forward, stream).run_backward(g);
        });
        return;
      }
    if constexpr (HalfStorage<T>) {
      ssm::detail::run_wide_gradient<ssm::ShiftConvolution>(
          ctx, g, [&](const auto& wide) { shift_convolution_backward(ctx, wide); });
    } else {
      queue(ctx, [&](Stream stream) {
        auto frame = ctx.workspace().frame();
        const auto segments = segments_on_device(ctx, frame, g.forward.segments);
        const Index count = general_shift_convolution_backward_workspace(g);
        const auto workspace = frame.template tensor<T>(count);
        general_shift_convolution_backward(on_device(g), segments, workspace.data(), stream);
      });
    }
  }

 private:
  template <class Operands>
  static bool chosen(const Operands& a, bool is_backward) {
    const SequenceWork work{a.x.extent(0), a.x.extent(1), a.x.extent(2), a.B.extent(1),
                            is_backward};
    return Choice::shift_convolution(work) && has_tensor_core_kernels();
  }
};
/// The Cuda backend's part for ShiftConvolution, its form chosen by the size of the work.
using ShiftConvolution = BasicShiftConvolution<>;

}  // namespace primitive

}  // namespace ssm::cuda
