// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "ssm/backend/composed/h3_mixer.hpp"
#include "ssm/backend/cuda/batched_h3_mixer.hpp"
#include "ssm/backend/cuda/channel_major.hpp"
#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/diagonal_scan.hpp"
#include "ssm/backend/cuda/h3_pairs.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/rearrange.hpp"  // fill
#include "ssm/backend/cuda/scan_rows.hpp"
#include "ssm/backend/cuda/shift_convolution.hpp"
#include "ssm/backend/cuda/shift_taps_and_states.hpp"
#include "ssm/op/h3_mixer.hpp"

namespace ssm::cuda {

/// Arguments of h3_mixer with one channel a head; states start at zero.
/// q k v       [B, D, L]
/// taps shift_skip       [D, tap_count], [D] or null   the shift SSM's kernel
/// diagonal              the diagonal SSM, `modes` stored modes
/// y           [B, D, L]  overwritten; must not alias an input
/// tape        h3_mixer_tape bytes, 256-byte aligned, or null: what the backward pass need not
///             compute again
template <class T>
struct H3Mixer {
  int batch = 0;
  int channels = 0;
  int length = 0;
  int tap_count = 0;
  int modes = 0;
  Sequences<const T> q, k, v;
  const float* taps = nullptr;
  const float* shift_skip = nullptr;
  DiagonalScanParameters diagonal;
  Sequences<T> y;
  void* tape = nullptr;
};

/// The H3 layer between its projections:
///   y = q ⊙ diagonal(v ⊙ shift(k))
/// Cuda::h3_mixer, which ssm::H3 calls, is this for sequences in half types; of floats it is
/// composed of shift_convolution and diagonal_scan. One pass: v ⊙ shift(k) is formed on the way
/// into the state-space model and never stored. 16-bit data of at most 64 channels or 1024
/// positions are copied to floats first, as by diagonal_scan.
/// Cost    320 multiply-adds an element, 8 bytes an element of 16-bit data; 4 more with a tape
/// Throws  Failure  if a size is out of range or a launch fails
/// Source  Fu et al. 2023 (H3) algorithm 1
template <class T>
SSM_CUDA_API void h3_mixer(const H3Mixer<T>& call, void* workspace, Stream stream);

/// Bytes of workspace of h3_mixer, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t h3_mixer_workspace(const H3Mixer<T>& call);

/// Bytes of a tape of h3_mixer: shift(k), for bf16 data v ⊙ shift(k); the diagonal model's output
/// before q; each [B, D, L]; and its checkpoints.
template <class T>
SSM_CUDA_API std::size_t h3_mixer_tape(const H3Mixer<T>& call);

/// Arguments of h3_mixer_backward: the forward call's (its tape as that call left it, or null:
/// recomputed), and
/// dy, dq dk dv          [B, D, L]  the latter overwritten
/// the others            as the parameters; added to; the skips' may be null
template <class T>
struct H3MixerBackward {
  H3Mixer<T> forward;  // its y is not used
  Sequences<const T> dy;
  Sequences<T> dq, dk, dv;
  float* dtaps = nullptr;
  float* dshift_skip = nullptr;
  float* ddt = nullptr;
  Complex<float>* da = nullptr;
  Complex<float>* db = nullptr;
  Complex<float>* dc = nullptr;
  float* dskip = nullptr;
};

/// The adjoint of h3_mixer. Throws as h3_mixer.
template <class T>
SSM_CUDA_API void h3_mixer_backward(const H3MixerBackward<T>& call, void* workspace, Stream stream);

/// Bytes of workspace of h3_mixer_backward, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t h3_mixer_backward_workspace(const H3MixerBackward<T>& call);

/// ssm::H3Mixer by the fused tensor-core kernels: operands in their layout, the shift as a filter.
/// T   the scalar of the sequences: float or a half type
template <class Ctx, class T>
class TensorCoreMixer {
 public:
  using Space = typename Ctx::Space;

  /// Whether they can: heads of one channel, 64 taps and 32 complex modes at most, sequences that
  /// are not packed and begin at zero, in sizes that an int counts.
  static bool can(const ssm::H3Mixer<T, Space>& a) {
    constexpr Index max_positions = Index{1} << 30;
    constexpr Index max_sequences = 65535 * 4;
    return a.dt.extent(0) == a.q.extent(2) && a.shift_B.extent(1) >= 1 &&
           a.shift_B.extent(1) <= 64 && a.A.extent(2) == 2 && a.A.extent(1) >= 1 &&
           a.A.extent(1) <= 32 && a.segments.empty() && !a.initial_shift && !a.final_shift &&
           !a.initial_diagonal && !a.final_diagonal && a.q.size() > 0 &&
           a.q.extent(0) <= max_sequences && a.q.extent(1) <= max_positions &&
           a.q.extent(2) <= std::numeric_limits<int>::max() && a.shift_skip.is_contiguous();
  }
  static bool can(const ssm::H3MixerBackward<T, Space>& g) {
    auto forward = g.forward;
    forward.final_shift = {};  // which are not computed
    forward.final_diagonal = {};
    return can(forward) && !g.dfinal_shift && !g.dfinal_diagonal && !g.dinitial_shift &&
           !g.dinitial_diagonal;
  }

  TensorCoreMixer(Ctx& ctx, const ssm::H3Mixer<T, Space>& a, Stream stream)
      : a_(a), sequences_(ctx, stream), stream_(stream), taps_(taps()) {
    shift_taps<float>(shift(), taps_, stream);
    diagonal_ = scan_parameters(
        scan(), [&] { return scan_rows(); }, stream);
  }

  void run() {
    H3Mixer<T> call = operands();
    call.y = sequences_.output(a_.y);
    void* const workspace = sequences_.bytes(h3_mixer_workspace(call));
    cuda::h3_mixer(call, workspace, stream_);
    sequences_.finish();
  }

  void run_backward(const ssm::H3MixerBackward<T, Space>& g) {
    const auto dtaps = taps();
    cuda::fill(ssm::Fill<float, CudaSpace>{.y = dtaps.flatten()}, stream_);
    H3MixerBackward<T> call;
    call.forward = operands();
    call.dy = sequences_.input(g.dy);
    call.dq = sequences_.output(g.dq);
    call.dk = sequences_.output(g.dk);
    call.dv = sequences_.output(g.dv);
    call.dtaps = dtaps.data();
    ssm::DiagonalScanBackward<float, CudaSpace> dscan{.forward = scan()};
    dscan.ddt = on_device_view(g.ddt);
    dscan.dA = on_device_view(g.dA);
    dscan.dB = on_device_view(g.dB);
    dscan.dC = on_device_view(g.dC);
    dscan.dskip = on_device_view(g.dskip);
    const auto add_to = [&](const ScanRows& gradient) {
      gradient.take_gradients_of(call, static_cast<bool>(a_.skip));
      void* const workspace = sequences_.bytes(h3_mixer_backward_workspace(call));
      cuda::h3_mixer_backward(call, workspace, stream_);
    };
    add_scan_gradients(
        dscan, [&] { return scan_rows(); }, add_to, stream_);
    sequences_.finish();
    ssm::ShiftConvolutionBackward<float, CudaSpace> dshift{.forward = shift()};
    dshift.dB = on_device_view(g.dshift_B);
    dshift.dC = on_device_view(g.dshift_C);
    dshift.dskip = on_device_view(g.dshift_skip);
    add_shift_gradients<float>(dshift, dtaps, {}, stream_);
  }

 private:
  Index channels() const { return a_.q.extent(2); }
  Index modes() const { return a_.A.extent(1); }
  template <class V>
  static View<typename V::Element, V::rank(), CudaSpace> on_device_view(const V& view) {
    return std::bit_cast<View<typename V::Element, V::rank(), CudaSpace>>(view);
  }

  H3Mixer<T> operands() {
    H3Mixer<T> call;
    call.batch = static_cast<int>(a_.q.extent(0));
    call.channels = static_cast<int>(channels());
    call.length = static_cast<int>(a_.q.extent(1));
    call.tap_count = static_cast<int>(a_.shift_B.extent(1));
    call.modes = static_cast<int>(modes());
    call.q = sequences_.input(a_.q);
    call.k = sequences_.input(a_.k);
    call.v = sequences_.input(a_.v);
    call.taps = taps_.data();
    call.shift_skip = a_.shift_skip.data();
    call.diagonal = diagonal_;
    return call;
  }
  /// The parameters of the shift and of the scan, for what is done with them alone: sequences of no
  /// positions.
  View<const float, 3, CudaSpace> nothing() const {
    return {nullptr, DynamicExtents<3>(Index{0}, Index{0}, channels())};
  }
  ssm::ShiftConvolution<float, CudaSpace> shift() const {
    return {.B = on_device_view(a_.shift_B),
            .C = on_device_view(a_.shift_C),
            .skip = on_device_view(a_.shift_skip),
            .x = nothing()};
  }
  ssm::DiagonalScan<float, CudaSpace> scan() const {
    ssm::DiagonalScan<float, CudaSpace> scan;
    scan.dt = on_device_view(a_.dt);
    scan.A = on_device_view(a_.A);
    scan.B = on_device_view(a_.B);
    scan.C = on_device_view(a_.C);
    scan.skip = on_device_view(a_.skip);
    scan.discretization = a_.discretization;
    scan.x = nothing();
    return scan;
  }
  View<float, 2, CudaSpace> taps() {
    const auto taps = sequences_.frame().template tensor<float>(a_.shift_B.extents());
    return {taps.data(), a_.shift_B.extents()};
  }
  ScanRows scan_rows() {
    const Index count = ScanRows::float_count(channels(), modes());
    return {sequences_.frame().template tensor<float>(count).data(), channels(), modes()};
  }

  const ssm::H3Mixer<T, Space>& a_;
  ChannelMajor<Ctx, T> sequences_;
  Stream stream_;
  View<float, 2, CudaSpace> taps_;
  DiagonalScanParameters diagonal_;
};

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

/// From the backend's own shift_convolution and diagonal_scan. Where Choice has tensor cores scan,
/// bf16 in batches goes to batched_h3_mixer, in place, and half types without states to the fused
/// kernels, where these can. Else those of bf16, where tensor cores scan heads of one channel, are
/// composed in bf16, all others in float: one rounding more is within what bf16 is good for, but
/// not within what f16 is.
template <class Choice = Automatic>
struct BasicH3Mixer : composed::BasicH3Mixer<DeviceProducts> {
  using Composed = composed::BasicH3Mixer<DeviceProducts>;

  /// Of batched_h3_mixer alone.
  template <class T, class Space>
  static Index h3_mixer_tape(const ssm::H3Mixer<T, Space>& a) {
    if constexpr (std::same_as<T, BFloat16>)
      if (scans_on_tensor_cores(a, false) && suits_batched(a) && BatchedH3::can(a))
        return batched_h3_tape(on_device(a));
    return 0;
  }
  template <class Ctx, DeviceNumber T>
    requires HasShiftConvolution<typename Ctx::BackendType, T> &&
        HasDiagonalScan<typename Ctx::BackendType, T>
  static void h3_mixer(Ctx& ctx, const ssm::H3Mixer<T, typename Ctx::Space>& a) {
    if constexpr (Real<T>) {
      Composed::h3_mixer(ctx, a);
    } else {
      const bool on_tensor_cores = scans_on_tensor_cores(a, false);
      if constexpr (std::same_as<T, BFloat16>) {
        if (suits_pairs(a) && PairedScan<Ctx>::can(a)) return scan_pairs(ctx, a);
        if (on_tensor_cores && suits_batched(a) && BatchedH3::can(a)) {
          queue(ctx, [&](Stream stream) {
            ChannelMajor<Ctx, T> memory(ctx, stream);
            const auto call = on_device(a);
            batched_h3_mixer(call, memory.bytes(batched_h3_workspace(call)), stream);
          });
          return;
        }
      }
      if (on_tensor_cores && TensorCoreMixer<Ctx, T>::can(a))
        queue(ctx, [&](Stream stream) { TensorCoreMixer<Ctx, T>(ctx, a, stream).run(); });
      else if (on_tensor_cores && std::same_as<T, BFloat16>)
        Composed::compose(ctx, a);
      else
        ssm::detail::run_wide(ctx, a, [&](const auto& wide) { Composed::h3_mixer(ctx, wide); });
    }
  }
  template <class Ctx, DeviceNumber T>
    requires HasShiftConvolution<typename Ctx::BackendType, T> &&
        HasDiagonalScan<typename Ctx::BackendType, T>
  static void h3_mixer_backward(Ctx& ctx, const ssm::H3MixerBackward<T, typename Ctx::Space>& g) {
    if constexpr (Real<T>) {
      Composed::h3_mixer_backward(ctx, g);
    } else {
      const bool on_tensor_cores = scans_on_tensor_cores(g.forward, true);
      if constexpr (std::same_as<T, BFloat16>) {
        auto batched = g;
        if (g.dk.extent(1) >= g.forward.shift_B.extent(1)) batched.dfinal_shift = {};
        if (suits_pairs(g.forward) && PairedScan<Ctx>::can(g)) return scan_pairs_backward(ctx, g);
        if (on_tensor_cores && suits_batched(g.forward) && BatchedH3::can(batched)) {
          queue(ctx, [&](Stream stream) {
            ChannelMajor<Ctx, T> memory(ctx, stream);
            const auto call = on_device(batched);
            batched_h3_mixer_backward(call, memory.bytes(batched_h3_workspace(call)), stream);
          });
          if (g.dfinal_shift) add_end_of_shift(ctx, g);
          return;
        }
      }
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
  }

 private:
  /// What the gradient of the shift's final state adds to that of the last positions of k, on which
  /// alone the state depends, and to that of the shift's parameters.
  template <class Ctx, class T>
  static void add_end_of_shift(Ctx& ctx, const ssm::H3MixerBackward<T, typename Ctx::Space>& g) {
    using Space = typename Ctx::Space;
    auto frame = ctx.workspace().frame();
    const Index end = g.dk.extent(1), begin = end - g.forward.shift_B.extent(1);
    const auto dk = g.dk.slice(1, begin, end);
    const auto all = frame.template tensor<T>(dk.extents());
    const auto part = frame.template tensor<T>(dk.extents());
    const auto dy = frame.template tensor<T>(dk.extents());
    ssm::fill(ctx, ssm::Fill<T, Space>{.y = dy.flatten()});
    ssm::shift_convolution_backward(ctx, ssm::ShiftConvolutionBackward<T, Space>{
                                             .forward = {.B = g.forward.shift_B,
                                                         .C = g.forward.shift_C,
                                                         .x = g.forward.k.slice(1, begin, end)},
                                             .dy = dy,
                                             .dfinal_state = g.dfinal_shift,
                                             .dx = part,
                                             .dB = g.dshift_B});
    ssm::rearrange(ctx, ssm::Rearrange<T, Space>{.x = dk, .y = all});
    ssm::add(ctx, ssm::Add<T, Space>{.a = all.flatten(), .b = part.flatten(), .y = all.flatten()});
    ssm::rearrange(ctx, ssm::Rearrange<T, Space>{.x = all, .y = dk});
  }
  /// The scan of wider heads without their outer products.
  template <class Ctx, class Space = typename Ctx::Space>
  static void scan_pairs(Ctx& ctx, const ssm::H3Mixer<BFloat16, Space>& a) {
    auto frame = ctx.workspace().frame();
    const auto shifted = frame.template tensor<BFloat16>(a.k.extents());
    ssm::shift_convolution(ctx, Composed::shift_of(a, shifted, true));
    PairedScan<Ctx>(ctx, frame, a).multiply(a.q, shifted, a.v, a.y, false);
  }
  template <class Ctx, class Space = typename Ctx::Space>
  static void scan_pairs_backward(Ctx& ctx, const ssm::H3MixerBackward<BFloat16, Space>& g) {
    const auto& a = g.forward;
    auto frame = ctx.workspace().frame();
    const auto shifted = frame.template tensor<BFloat16>(a.k.extents());
    const auto dshifted = frame.template tensor<BFloat16>(a.k.extents());
    ssm::shift_convolution(ctx, Composed::shift_of(a, shifted, false));
    PairedScan<Ctx> scan(ctx, frame, a);
    scan.add_gradients(g, shifted);
    scan.multiply(g.dy, a.v, shifted, g.dq, false);
    scan.multiply(a.v, g.dy, a.q, dshifted, true);
    scan.multiply(shifted, a.q, g.dy, g.dv, true);
    ssm::shift_convolution_backward(ctx, Composed::shift_backward_of(g, shifted, dshifted));
  }
  template <class Operands>
  static bool suits_pairs(const Operands& a) {
    const Index width = a.q.extent(2) / a.dt.extent(0);
    return width >= kFewestPairedChannels && Choice::pairs_positions(a.q.extent(1), width) &&
           has_tensor_core_kernels();
  }
  template <class Operands>
  static bool suits_batched(const Operands& a) {
    return BatchedH3::suits(a.q.extent(0), a.q.extent(1), a.q.extent(2));
  }
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
