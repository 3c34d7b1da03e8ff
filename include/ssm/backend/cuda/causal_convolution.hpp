// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "ssm/backend/cuda/channel_major.hpp"
#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/correlation.hpp"
#include "ssm/backend/cuda/launch.hpp"
#include "ssm/op/causal_convolution.hpp"

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
/// Transform, filter, inverse, gates and skip in one kernel, all products on tensor cores with half
/// operands and float sums. bf16 data: up to 4096 positions, with gates 8192, a transform over
/// blocks of 32 positions and, at each of its frequencies, Toeplitz products within and between
/// them; up to kLongestBf16Block a whole transform; beyond, rows of 16384 or 32768 positions, with
/// one more stage across them in workspace, a few channels at a time. Relative error before
/// rounding 5e-4 to 1.2e-3. Float and half data, up to kBlockConvolutionLength: pairs of sequences
/// are the real and imaginary part of one complex transform, whose operands are two halves each;
/// about 1e-6. Longer ones: spectra of blocks of kBlockConvolutionLength in workspace, multiplied
/// like polynomials over the block index.
/// Cost    bf16 192 (1024 positions) to 640 multiply-adds an element, each input read once, beyond
///         kLongestBf16Block twice; else 256 to 576 times three; longer sequences
///         O(B·D·L·(log L + L/8192))
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
/// finishes the transforms of u and dy and sums over the batch, beyond 16384 positions by spectra
/// in workspace. Float and half data: one kernel, spectra of u and dy are made once and serve every
/// gradient. Longer sequences: every gradient is a causal convolution of reversed sequences, by
/// blocks. Sums over the batch have one order, so
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

/// ssm::CausalConvolution by the tensor-core kernels.
/// T   the scalar of the sequences: float or a half type
template <class Ctx, class T>
class TensorCoreConvolution {
 public:
  using Space = typename Ctx::Space;

  /// Whether they can: sequences of at most 2^20 positions that are not packed, kernels without
  /// gaps.
  static bool can(const ssm::CausalConvolution<T, Space>& a) {
    constexpr Index max_positions = Index{1} << 20;
    constexpr Index limit = std::numeric_limits<int>::max();
    return a.segments.empty() && a.x.size() > 0 && a.x.extent(0) <= limit &&
           a.x.extent(1) <= max_positions && a.x.extent(2) <= limit && a.kernel.extent(1) >= 1 &&
           a.kernel.extent(1) <= limit && a.kernel.is_contiguous() &&
           (!a.skip || a.skip.is_contiguous());
  }
  /// Backwards the gradients of kernel and skip are without gaps too.
  static bool can(const ssm::CausalConvolutionBackward<T, Space>& g) {
    return can(g.forward) && (!g.dkernel || g.dkernel.is_contiguous()) &&
           (!g.dskip || g.dskip.is_contiguous());
  }

  TensorCoreConvolution(Ctx& ctx, const ssm::CausalConvolution<T, Space>& a, Stream stream)
      : a_(a), sequences_(ctx, stream), stream_(stream) {}

  void run() {
    CausalConvolution<T> call;
    set_operands(call);
    call.y = sequences_.output(a_.y);
    void* const workspace = sequences_.bytes(causal_convolution_workspace(call));
    cuda::causal_convolution(call, workspace, stream_);
    sequences_.finish();
  }

  void run_backward(const ssm::CausalConvolutionBackward<T, Space>& g) {
    CausalConvolutionBackward<T> call;
    set_operands(call);
    call.dy = sequences_.input(g.dy);
    call.dx = sequences_.gradient(g.dx, a_.x);
    call.dgate_in = sequences_.gradient(g.dgate_in, a_.gate_in);
    call.dgate_out = sequences_.gradient(g.dgate_out, a_.gate_out);
    call.dkernel = g.dkernel ? g.dkernel.data() : unwanted();
    call.dskip = g.dskip.data();
    void* const workspace = sequences_.bytes(causal_convolution_backward_workspace(call));
    cuda::causal_convolution_backward(call, workspace, stream_);
    sequences_.finish();
  }

 private:
  template <class Call>
  void set_operands(Call& call) {
    call.batch = static_cast<int>(a_.x.extent(0));
    call.channels = static_cast<int>(a_.x.extent(2));
    call.length = static_cast<int>(a_.x.extent(1));
    call.taps = static_cast<int>(a_.kernel.extent(1));
    call.x = sequences_.input(a_.x);
    call.gate_in = sequences_.input(a_.gate_in);
    call.gate_out = sequences_.input(a_.gate_out);
    call.kernel = a_.kernel.data();
    call.skip = a_.skip.data();
  }
  /// A gradient of the kernel that the kernel writes, wanted or not.
  float* unwanted() {
    return sequences_.frame().template tensor<float>(a_.kernel.extents()).data();
  }

  const ssm::CausalConvolution<T, Space>& a_;
  ChannelMajor<Ctx, T> sequences_;
  Stream stream_;
};

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
