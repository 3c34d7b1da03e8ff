// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/launch.hpp>

namespace ssm::cuda {

/// Longest sequence that one block transforms; beyond it the sequence and the kernel are cut into such blocks.
inline constexpr int kBlockConvolutionLength = 8192;

/// Arguments of causal_convolution.
/// x gate_in gate_out  [B, D, L]  gates may be null
/// kernel              [D, taps]  contiguous; taps beyond L do nothing
/// skip                [D]        or null
/// y                   [B, D, L]  overwritten; must not alias an input
template <class T>
struct CausalConvolution {
  int batch = 0;
  int channels = 0;
  int length = 0;  // 1 … 2^20
  int taps = 0;
  Sequences<const T> x, gate_in, gate_out;
  const float* kernel = nullptr;
  const float* skip = nullptr;
  Sequences<T> y;
};

/// Convolves each channel with its own kernel:
///   u_t = gate_in_t · x_t,   y_t = gate_out_t · (Σ_{s ≤ t} kernel_s · u_{t−s} + skip · u_t)
/// One kernel: padding, transform, filter, inverse, gates and skip, as small discrete Fourier transforms on tensor
/// cores; pairs of sequences are the real and imaginary part of one complex transform. Half operands (relative error
/// below 1e-3) for bf16 data, two half terms (about 1e-6) for half and float data.
/// Sequences longer than kBlockConvolutionLength: spectra of blocks of that length in workspace, multiplied like
/// polynomials over the block index, a few channels at a time.
/// Cost    O(B·D·L·log L), 256 to 576 multiply-adds an element, each input read once; longer sequences
///         O(B·D·L·(log L + L/8192))
/// Throws  Failure  if a size is out of range or the launch fails
/// Source  Fu et al. 2023 (H3) §4.1
template <class T>
SSM_CUDA_API void causal_convolution(const CausalConvolution<T>& call, void* workspace,
                                     Stream stream);

/// Bytes of workspace of causal_convolution, 256-byte aligned: the kernels' spectra.
template <class T>
SSM_CUDA_API std::size_t causal_convolution_workspace(const CausalConvolution<T>& call);

/// Arguments of causal_convolution_backward: the forward call's, and
/// dy                     [B, D, L]
/// spectra                the forward call's workspace, if it still holds what that call left; null: made anew
/// dx dgate_in dgate_out  [B, D, L]  overwritten; the gates' are null where the gates are
/// dkernel dskip          as the parameters; added to; dskip may be null
template <class T>
struct CausalConvolutionBackward {
  int batch = 0;
  int channels = 0;
  int length = 0;  // 1 … kBlockConvolutionLength
  int taps = 0;
  Sequences<const T> x, gate_in, gate_out;
  const float* kernel = nullptr;
  const float* skip = nullptr;
  const void* spectra = nullptr;
  Sequences<const T> dy;
  Sequences<T> dx, dgate_in, dgate_out;
  float* dkernel = nullptr;
  float* dskip = nullptr;
};

/// The adjoint of causal_convolution in one kernel. Spectra of u and dy are made once and serve every gradient; the
/// forward result, needed for dgate_out, is recomputed. A block walks over the whole batch of a channel in order, so
/// the same call gives the same bits.
/// Cost    1.5 times the forward pass, twice with gates
/// Throws  Failure  if a size is out of range or the launch fails
template <class T>
SSM_CUDA_API void causal_convolution_backward(const CausalConvolutionBackward<T>& call,
                                              void* workspace, Stream stream);

/// Bytes of workspace of causal_convolution_backward, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t causal_convolution_backward_workspace(
    const CausalConvolutionBackward<T>& call);

}  // namespace ssm::cuda
