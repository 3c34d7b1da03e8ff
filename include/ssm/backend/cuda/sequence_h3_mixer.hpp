// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/composed/h3_mixer.hpp"
#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/tensor_core_mixer.hpp"

namespace ssm::cuda {

/// The compiled half of heads wider than one channel. T: float, double.
template <class T>
SSM_CUDA_API void h3_outer_product(const composed::H3OuterProduct<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void h3_outer_product_backward(const composed::H3OuterProductBackward<T, CudaSpace>& g,
                                            Stream stream);
template <class T>
SSM_CUDA_API void h3_contract(const composed::H3Contraction<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void h3_contract_backward(const composed::H3ContractionBackward<T, CudaSpace>& g,
                                       Stream stream);

/// What lies between the steps has positions contiguous, as a warp walks along one channel.
struct DeviceProducts {
  template <class T, class Frame>
  static auto sequences(Frame& frame, Index batch, Index length, Index channels) {
    return frame.template tensor<T>(batch, channels, length).transpose(1, 2);
  }
  template <class Ctx, class T, class Space>
  static void outer_product(Ctx& ctx, const composed::H3OuterProduct<T, Space>& a) {
    queue(ctx, [&](Stream stream) { h3_outer_product(on_device(a), stream); });
  }
  template <class Ctx, class T, class Space>
  static void outer_product_backward(Ctx& ctx,
                                     const composed::H3OuterProductBackward<T, Space>& g) {
    queue(ctx, [&](Stream stream) { h3_outer_product_backward(on_device(g), stream); });
  }
  template <class Ctx, class T, class Space>
  static void contract(Ctx& ctx, const composed::H3Contraction<T, Space>& a) {
    queue(ctx, [&](Stream stream) { h3_contract(on_device(a), stream); });
  }
  template <class Ctx, class T, class Space>
  static void contract_backward(Ctx& ctx, const composed::H3ContractionBackward<T, Space>& g) {
    queue(ctx, [&](Stream stream) { h3_contract_backward(on_device(g), stream); });
  }
};

namespace primitive {

/// From the backend's own shift_convolution and diagonal_scan. Of half types by the fused kernels
/// where they can and Choice has tensor cores scan. Else those of bf16, where tensor cores scan
/// heads of one channel, are composed in bf16, all others in float: one rounding more is within
/// what bf16 is good for, but not within what f16 is.
template <class Choice = Automatic>
struct BasicH3Mixer : composed::BasicH3Mixer<DeviceProducts> {
  using Composed = composed::BasicH3Mixer<DeviceProducts>;
  using Composed::h3_mixer;
  using Composed::h3_mixer_backward;

  template <class Ctx, HalfStorage T>
  static void h3_mixer(Ctx& ctx, const ssm::H3Mixer<T, typename Ctx::Space>& a) {
    const bool on_tensor_cores = scans_on_tensor_cores(a, false);
    if (on_tensor_cores && TensorCoreMixer<Ctx, T>::can(a))
      queue(ctx, [&](Stream stream) { TensorCoreMixer<Ctx, T>(ctx, a, stream).run(); });
    else if (on_tensor_cores && std::same_as<T, BFloat16>)
      Composed::compose(ctx, a);
    else
      ssm::detail::run_wide(ctx, a, [&](const auto& wide) { Composed::h3_mixer(ctx, wide); });
  }
  template <class Ctx, HalfStorage T>
  static void h3_mixer_backward(Ctx& ctx, const ssm::H3MixerBackward<T, typename Ctx::Space>& g) {
    const bool on_tensor_cores = scans_on_tensor_cores(g.forward, true);
    if (on_tensor_cores && TensorCoreMixer<Ctx, T>::can(g))
      queue(ctx, [&](Stream stream) {
        TensorCoreMixer<Ctx, T>(ctx, g.forward, stream).run_backward(g);
      });
    else if (on_tensor_cores && std::same_as<T, BFloat16>)
      Composed::compose_backward(ctx, g);
    else
      ssm::detail::run_wide_gradient<ssm::H3Mixer>(
          ctx, g, [&](const auto& wide) { Composed::h3_mixer_backward(ctx, wide); });
  }

 private:
  /// With one channel a head.
  template <class Operands>
  static bool scans_on_tensor_cores(const Operands& a, bool is_backward) {
    const SequenceWork work{a.q.extent(0), a.q.extent(1), a.q.extent(2), a.A.extent(1),
                            is_backward};
    return a.dt.extent(0) == a.q.extent(2) && a.A.extent(2) == 2 && a.A.extent(1) <= 32 &&
           Choice::diagonal_scan(work) && has_tensor_core_kernels();
  }
};
/// The Cuda backend's part for H3Mixer, its form chosen by the size of the work.
using H3Mixer = BasicH3Mixer<>;

}  // namespace primitive

}  // namespace ssm::cuda
