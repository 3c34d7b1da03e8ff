// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "ssm/backend/cuda/channel_major.hpp"
#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/correlation.hpp"
#include "ssm/backend/cuda/launch.hpp"
#include "ssm/backend/cuda/rearrange.hpp"  // fill
#include "ssm/backend/cuda/shift_taps_and_states.hpp"

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

/// ssm::ShiftConvolution by the tensor-core kernels: the filter alone, the states' part beside it.
/// T   the scalar of the sequences: float or a half type
template <class Ctx, class T>
class TensorCoreShift {
 public:
  using Space = typename Ctx::Space;

  /// Whether they can: 64 taps at most, sequences that are not packed, in sizes that an int counts.
  static bool can(const ssm::ShiftConvolution<T, Space>& a) {
    constexpr Index max_positions = Index{1} << 30;
    constexpr Index limit = std::numeric_limits<int>::max();
    return a.B.extent(1) >= 1 && a.B.extent(1) <= 64 && a.segments.empty() && a.x.size() > 0 &&
           a.x.extent(0) <= limit && a.x.extent(1) <= max_positions && a.x.extent(2) <= limit &&
           (!a.skip || a.skip.stride(0) == 1);
  }
  static bool can(const ssm::ShiftConvolutionBackward<T, Space>& g) {
    return can(g.forward) && !g.dfinal_state;  // which has a part in every gradient
  }

  TensorCoreShift(Ctx& ctx, const ssm::ShiftConvolution<T, Space>& a, Stream stream)
      : a_(a), sequences_(ctx, stream), stream_(stream), taps_(taps()) {
    shift_taps<T>(on_device(a), taps_, stream);
  }

  void run() {
    ShiftConvolution<T> call;
    set_operands(call);
    call.y = sequences_.output(a_.y);
    void* const workspace = sequences_.bytes(shift_convolution_workspace(call));
    cuda::shift_convolution(call, workspace, stream_);
    sequences_.finish();
    if (a_.initial_state) add_shift_initial_state(on_device(a_), {}, stream_);
    if (a_.final_state) shift_final_state(on_device(a_), {}, stream_);
  }

  void run_backward(const ssm::ShiftConvolutionBackward<T, Space>& g) {
    const auto dtaps = taps();
    cuda::fill(ssm::Fill<float, CudaSpace>{.y = dtaps.flatten()}, stream_);
    ShiftConvolutionBackward<T> call;
    set_operands(call);
    call.dy = sequences_.input(g.dy);
    call.dx = sequences_.gradient(g.dx, a_.x);
    call.dkernel = dtaps.data();
    void* const workspace = sequences_.bytes(shift_convolution_backward_workspace(call));
    cuda::shift_convolution_backward(call, workspace, stream_);
    sequences_.finish();
    if (g.dinitial_state) shift_initial_gradient(on_device(g), {}, stream_);
    add_shift_gradients<T>(on_device(g), dtaps, {}, stream_);
  }

 private:
  template <class Call>
  void set_operands(Call& call) {
    call.batch = static_cast<int>(a_.x.extent(0));
    call.channels = static_cast<int>(a_.x.extent(2));
    call.length = static_cast<int>(a_.x.extent(1));
    call.taps = static_cast<int>(a_.B.extent(1));
    call.x = sequences_.input(a_.x);
    call.kernel = taps_.data();
    call.skip = a_.skip.data();
  }
  View<float, 2, CudaSpace> taps() {
    const auto taps = sequences_.frame().template tensor<float>(a_.B.extents());
    return {taps.data(), a_.B.extents()};
  }

  const ssm::ShiftConvolution<T, Space>& a_;
  ChannelMajor<Ctx, T> sequences_;
  Stream stream_;
  View<float, 2, CudaSpace> taps_;
};

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
