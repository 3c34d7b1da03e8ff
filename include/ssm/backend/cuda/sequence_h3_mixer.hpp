// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/composed/h3_mixer.hpp"
#include "ssm/backend/cuda/on_device.hpp"

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
/// From the backend's own shift_convolution and diagonal_scan.
using H3Mixer = composed::BasicH3Mixer<DeviceProducts>;
}  // namespace primitive

}  // namespace ssm::cuda
