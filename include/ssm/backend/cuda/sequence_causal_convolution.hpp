// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/correlation.hpp"
#include "ssm/backend/cuda/tensor_core_convolution.hpp"

namespace ssm::cuda {

/// The compiled half for every call that ssm::CausalConvolution allows: the direct sum, a thread an
/// element, O(B·D·L·K). Sums over the kernel's terms are in T. T: float, double.
template <class T>
SSM_CUDA_API void general_causal_convolution(const ssm::CausalConvolution<T, CudaSpace>& a,
                                             DeviceSegments segments, Stream stream);
/// workspace   convolution_correlation(g).workspace() scalars
template <class T>
SSM_CUDA_API void general_causal_convolution_backward(
    const ssm::CausalConvolutionBackward<T, CudaSpace>& g, DeviceSegments segments, T* workspace,
    Stream stream);

/// The gradient of skip is that of lag 0, without a kernel too.
template <class T, class Space>
Correlation convolution_correlation(const ssm::CausalConvolutionBackward<T, Space>& g) {
  const auto& x = g.forward.x;
  const Index lags = g.dkernel ? std::max<Index>(g.dkernel.extent(1), 1) : g.dskip ? 1 : 0;
  return {.positions = x.extent(0) * x.extent(1), .channels = x.extent(2), .lags = lags};
}

namespace primitive {

template <class Choice = Automatic>
struct BasicCausalConvolution {
  template <class Ctx, DeviceNumber T>
  static void causal_convolution(Ctx& ctx,
                                 const ssm::CausalConvolution<T, typename Ctx::Space>& a) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreConvolution<Ctx, T>::can(a) && chosen(a, false)) {
        queue(ctx, [&](Stream stream) { TensorCoreConvolution<Ctx, T>(ctx, a, stream).run(); });
        return;
      }
    if constexpr (HalfStorage<T>) {
      ssm::detail::run_wide(ctx, a, [&](const auto& wide) { causal_convolution(ctx, wide); });
    } else {
      queue(ctx, [&](Stream stream) {
        auto frame = ctx.workspace().frame();
        const auto segments = segments_on_device(ctx, frame, a.segments);
        general_causal_convolution(on_device(a), segments, stream);
      });
    }
  }
  template <class Ctx, DeviceNumber T>
  static void causal_convolution_backward(
      Ctx& ctx, const ssm::CausalConvolutionBackward<T, typename Ctx::Space>& g) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreConvolution<Ctx, T>::can(g) && chosen(g.forward, true)) {
        queue(ctx, [&](Stream stream) {
          TensorCoreConvolution<Ctx, T>(ctx, g.forward, stream).run_backward(g);
        });
        return;
      }
    if constexpr (HalfStorage<T>) {
      ssm::detail::run_wide_gradient<ssm::CausalConvolution>(
          ctx, g, [&](const auto& wide) { causal_convolution_backward(ctx, wide); });
    } else {
      queue(ctx, [&](Stream stream) {
        auto frame = ctx.workspace().frame();
        const auto segments = segments_on_device(ctx, frame, g.forward.segments);
        const auto workspace = frame.template tensor<T>(convolution_correlation(g).workspace());
        general_causal_convolution_backward(on_device(g), segments, workspace.data(), stream);
      });
    }
  }

 private:
  template <class Operands>
  static bool chosen(const Operands& a, bool is_backward) {
    const SequenceWork work{a.x.extent(0), a.x.extent(1), a.x.extent(2), a.kernel.extent(1),
                            is_backward};
    return Choice::causal_convolution(work) && has_tensor_core_kernels();
  }
};
/// The Cuda backend's part for CausalConvolution, its form chosen by the size of the work.
using CausalConvolution = BasicCausalConvolution<>;

}  // namespace primitive

}  // namespace ssm::cuda
