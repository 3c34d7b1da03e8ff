// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/launch.hpp>

namespace ssm::cuda {

/// Longest sequence of float and half data that one block of threads transforms; longer ones, and
/// their kernels, are cut into such blocks.
inline constexpr int kBlockConvolutionLength = 8192;
/// The same of bf16 data.
inline constexpr int kLongestBf16Block = 32768;

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
/// Padding, transform, filter, inverse, gates and skip in one kernel, all products on tensor cores
/// with half operands and float sums. bf16 data, up to kLongestBf16Block positions: a transform
/// over blocks of 32 positions and, at each of its frequencies, Toeplitz products within and
/// between them; relative error before rounding 5e-4. Float and half data, up to
/// kBlockConvolutionLength: pairs of sequences are the real and imaginary part of one complex
/// transform, whose operands are two halves each; about 1e-6. Longer sequences: spectra of blocks
/// of kBlockConvolutionLength in workspace, multiplied like polynomials over the block index, a few
/// channels at a time.
/// Cost    bf16 192 (1024 positions) to 640 (8192) and 1664 (32768) multiply-adds an element, else
///         256 to 576 times three, each input read once; longer sequences O(B·D·L·(log L + L/8192))
/// Throws  Failure  if a size is out of range or the launch fails
/// Source  Fu et al. 2023 (H3) §4.1
template <class T>
SSM_CUDA_API void causal_convolution(const CausalConvolution<T>& call, void* workspace,
                                     Stream stream);

/// Bytes of workspace of causal_convolution, 256-byte aligned: what is made from the kernels, and
/// longer sequences' spectra.
template <class T>
SSM_CUDA_API std::size_t causal_convolution_workspace(const CausalConvolution<T>& call);

/// Arguments of causal_convolution_backward: the forward call's, and
/// dy                     [B, D, L]
/// spectra                the forward call's workspace, if it still holds what that call left;
///                        null: made anew. Not used by sequences longer than
///                        kBlockConvolutionLength
/// dx dgate_in dgate_out  [B, D, L]  overwritten; the gates' are null where the gates are
/// dkernel dskip          as the parameters; added to; dskip may be null
template <class T>
struct CausalConvolutionBackward {
  int batch = 0;
  int channels = 0;
  int length = 0;  // 1 … 2^20
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

/// The adjoint of causal_convolution. bf16 data: dgate_out is the forward product with dy as its
/// gate, dx and dgate_in are the same product backwards in time, and dkernel is a kernel that
/// finishes the transforms of u and dy and sums over the batch. Float and half data: one kernel,
/// spectra of u and dy are made once and serve every gradient. Longer sequences: every gradient is
/// a causal convolution of reversed sequences, by blocks. Sums over the batch have one order, so
/// the same call gives the same bits.
/// Cost    1.5 to 3.5 times the forward pass
/// Throws  Failure  if a size is out of range or the launch fails
template <class T>
SSM_CUDA_API void causal_convolution_backward(const CausalConvolutionBackward<T>& call,
                                              void* workspace, Stream stream);

/// Bytes of workspace of causal_convolution_backward, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t causal_convolution_backward_workspace(
    const CausalConvolutionBackward<T>& call);

}  // namespace ssm::cuda
