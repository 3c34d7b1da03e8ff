// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/launch.hpp>

namespace ssm::cuda {

/// Arguments of shift_convolution.
/// x gate  [B, D, L]     gate may be null
/// kernel  [D, taps]     1 … 64 taps, contiguous: of a shift SSM, kernel_t = Σ_j B_j·C_{j+t}
/// skip    [D]           or null
/// y       [B, D, L]     overwritten; must not alias an input
template <class T>
struct ShiftConvolution {
  int batch = 0;
  int channels = 0;
  int length = 0;
  int taps = 0;
  Sequences<const T> x, gate;
  const float* kernel = nullptr;
  const float* skip = nullptr;
  Sequences<T> y;
};

/// Convolves each channel with its own short kernel, as block-Toeplitz products on tensor cores:
///   y_t = gate_t · (Σ_{s < taps} kernel_s · x_{t−s} + skip · x_t)
/// 16-bit data of at most 64 channels or 1024 positions are copied to floats first, as by
/// diagonal_scan.
/// Cost    128 multiply-adds an element whatever the number of taps, each input read once, any
///         length
/// Throws  Failure  if a size is out of range or the launch fails
/// Source  Fu et al. 2023 (H3) §3.1
template <class T>
SSM_CUDA_API void shift_convolution(const ShiftConvolution<T>& call, void* workspace,
                                    Stream stream);

/// Bytes of workspace of shift_convolution, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t shift_convolution_workspace(const ShiftConvolution<T>& call);

/// Arguments of shift_convolution_backward: the forward call's, and
/// dy            [B, D, L]
/// dx dgate      [B, D, L]  overwritten; dgate null where gate is
/// dkernel dskip            as the parameters; added to; dskip may be null
template <class T>
struct ShiftConvolutionBackward {
  int batch = 0;
  int channels = 0;
  int length = 0;
  int taps = 0;
  Sequences<const T> x, gate;
  const float* kernel = nullptr;
  const float* skip = nullptr;
  Sequences<const T> dy;
  Sequences<T> dx, dgate;
  float* dkernel = nullptr;
  float* dskip = nullptr;
};

/// The adjoint of shift_convolution: the same products transposed, and the taps' gradient as
/// products over chunks. Sums have a fixed order. Throws as shift_convolution.
template <class T>
SSM_CUDA_API void shift_convolution_backward(const ShiftConvolutionBackward<T>& call,
                                             void* workspace, Stream stream);

/// Bytes of workspace of shift_convolution_backward, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t shift_convolution_backward_workspace(
    const ShiftConvolutionBackward<T>& call);

}  // namespace ssm::cuda
