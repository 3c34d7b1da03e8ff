// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "ssm/backend/cuda/channel_major.hpp"
#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/launch.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/rearrange.hpp"  // fill
#include "ssm/backend/cuda/scan_rows.hpp"
#include "ssm/op/diagonal_scan.hpp"

namespace ssm::cuda {

/// One diagonal state-space model per channel; conjugate-halved, N/2 = modes stored numbers.
/// dt     [D]         positive
/// a b c  [D, modes]
/// skip   [D]         or null
struct DiagonalScanParameters {
  const float* dt = nullptr;
  const Complex<float>* a = nullptr;
  const Complex<float>* b = nullptr;
  const Complex<float>* c = nullptr;
  const float* skip = nullptr;
  Discretization discretization = Discretization::bilinear;
};

/// The parameters of a call: its operands where they lie as rows, else copies in `memory()`, which
/// gives ScanRows.
template <class Memory>
DiagonalScanParameters scan_parameters(const ssm::DiagonalScan<float, CudaSpace>& a,
                                       const Memory& memory, Stream stream) {
  DiagonalScanParameters p;
  p.discretization = a.discretization;
  if (lie_as_rows(a.x.extent(2), a.dt, a.A, a.B, a.C, a.skip)) {
    p.dt = a.dt.data();
    p.a = reinterpret_cast<const Complex<float>*>(a.A.data());
    p.b = reinterpret_cast<const Complex<float>*>(a.B.data());
    p.c = reinterpret_cast<const Complex<float>*>(a.C.data());
    if (a.skip) p.skip = a.skip.data();
    return p;
  }
  const ScanRows rows = memory();
  expand_scan_rows(a, rows, stream);
  p.dt = rows.dt;
  p.a = rows.A;
  p.b = rows.B;
  p.c = rows.C;
  if (a.skip) p.skip = rows.skip;
  return p;
}

/// Runs add_to(rows), which adds gradients of all channels to ScanRows: to the operands where they
/// lie so, else in `memory()` that begins as zeros, from which they are added to the operands.
template <class Memory, class AddTo>
void add_scan_gradients(const ssm::DiagonalScanBackward<float, CudaSpace>& g, const Memory& memory,
                        const AddTo& add_to, Stream stream) {
  const Index channels = g.forward.x.extent(2);
  if ((g.dskip || !g.forward.skip) && lie_as_rows(channels, g.ddt, g.dA, g.dB, g.dC, g.dskip)) {
    add_to(ScanRows(g));
    return;
  }
  const ScanRows rows = memory();
  const Index count = ScanRows::float_count(channels, g.forward.A.extent(1));
  cuda::fill(ssm::Fill<float, CudaSpace>{.y = {rows.dt, {count}}}, stream);
  add_to(rows);
  add_scan_rows(g, rows, stream);
}

/// Sizes. With `segments` the batch is one packed row of `length` positions, cut at
/// segments[0] = 0 ≤ … ≤ segments[segment_count] = length (device memory); empty segments are
/// legal.
struct DiagonalScanShape {
  int batch = 0;
  int channels = 0;
  int modes = 0;                  // 1 … 32
  int length = 0;                 // 1 … 2^30
  const int* segments = nullptr;  // [segment_count + 1]
  int segment_count = 0;

  constexpr int sequences() const { return segments != nullptr ? segment_count : batch; }
};

/// Arguments of diagonal_scan. `S` is shape.sequences().
/// x gate_in gate_out  [B, D, L]      gates may be null
/// initial_state       [S, D, modes]  may be null: zero
/// y                   [B, D, L]      overwritten; must not alias an input
/// final_state         [S, D, modes]  may be null; overwritten
/// checkpoints         checkpoint_count(shape) numbers, may be null; what the backward pass can
///                     start from
template <class T>
struct DiagonalScan {
  DiagonalScanShape shape;
  DiagonalScanParameters parameters;
  Sequences<const T> x, gate_in, gate_out;
  const Complex<float>* initial_state = nullptr;
  Sequences<T> y;
  Complex<float>* final_state = nullptr;
  Complex<float>* checkpoints = nullptr;
};

/// Runs a diagonal state-space model over every channel by state passing; nothing of length L is
/// stored.
///   u_t = gate_in_t · x_t
///   s_t = a·s_{t−1} + b·u_t
///   y_t = gate_out_t · (2·Re Σ_n c_n·s_t,n + skip·u_t)
/// Chunks of 64 positions are three 64 × 64 products on tensor cores (bf16 operands; two bf16 terms
/// for half data, three for float data), joined by a scan of the states in float. 16-bit data of at
/// most 64 channels or 1024 positions (of all sequences together) are copied to floats first, so
/// that gradients of few numbers keep the data's accuracy.
/// Cost    192 multiply-adds an element, each input read once, each output written once
/// Throws  Failure  if a size is out of range or the launch fails
/// Source  Fu et al. 2023 (H3) algorithm 2; Gu et al. 2022 (S4D) eq. 3
template <class T>
SSM_CUDA_API void diagonal_scan(const DiagonalScan<T>& call, void* workspace, Stream stream);

/// Bytes of workspace of diagonal_scan, 256-byte aligned; contents need not survive the call.
template <class T>
SSM_CUDA_API std::size_t diagonal_scan_workspace(const DiagonalScanShape& shape);

/// Number of complex numbers in `checkpoints`: one state for each 2048 (bf16) or 1024 (half, float,
/// 16-bit data copied to floats) positions.
template <class T>
SSM_CUDA_API std::size_t diagonal_scan_checkpoint_count(const DiagonalScanShape& shape);

/// Arguments of diagonal_scan_backward: the forward call's, and
/// dy                        [B, D, L]
/// checkpoints               as the forward pass left them, or null: recomputed
/// dfinal_state              [S, D, modes]  or null: zero
/// dx dgate_in dgate_out     [B, D, L]      overwritten; the gates' are null where the gates are;
///                                          dgate_out may be null
/// dinitial_state            [S, D, modes]  or null; overwritten
/// ddt da db dc dskip      as the parameters; added to; dskip may be null
/// ungated                   [B, D, L]      y of a forward call without gate_out, or null:
///                                          recomputed
/// x_is_gated                x holds gate_in · x, or x where |gate_in| < 2^−100, as h3_mixer's tape
///                           does. Only for bf16 data that is not copied to floats, with gate_in,
///                           checkpoints, and ungated where dgate_out is wanted
/// Gradients of complex numbers are ∂/∂re + i·∂/∂im.
template <class T>
struct DiagonalScanBackward {
  DiagonalScanShape shape;
  DiagonalScanParameters parameters;
  Sequences<const T> x, gate_in, gate_out;
  const Complex<float>* initial_state = nullptr;
  const Complex<float>* checkpoints = nullptr;
  Sequences<const T> dy;
  const Complex<float>* dfinal_state = nullptr;
  Sequences<T> dx, dgate_in, dgate_out;
  Complex<float>* dinitial_state = nullptr;
  float* ddt = nullptr;
  Complex<float>* da = nullptr;
  Complex<float>* db = nullptr;
  Complex<float>* dc = nullptr;
  float* dskip = nullptr;
  Sequences<const T> ungated;
  bool x_is_gated = false;
};

/// The adjoint of diagonal_scan. States are recomputed from checkpoints tile by tile, the adjoint
/// states walk backwards, and the parameters' gradients are products over chunks whose sums stay in
/// registers; partial sums are added in a fixed order, so the same call gives the same bits. The
/// gradient of gate_out is the forward pass with dy for a gate, unless `ungated` is there.
/// Cost    about 450 multiply-adds an element, each input read once (x twice without checkpoints)
/// Throws  Failure  if a size is out of range or a launch fails
template <class T>
SSM_CUDA_API void diagonal_scan_backward(const DiagonalScanBackward<T>& call, void* workspace,
                                         Stream stream);

/// Bytes of workspace of diagonal_scan_backward, 256-byte aligned.
template <class T>
SSM_CUDA_API std::size_t diagonal_scan_backward_workspace(const DiagonalScanBackward<T>& call);

/// ssm::DiagonalScan by the tensor-core kernels: operands in their layout, one row of coefficients
/// a channel, contiguous states.
/// T   the scalar of the sequences: float or a half type
template <class Ctx, class T>
class TensorCoreScan {
 public:
  using Space = typename Ctx::Space;

  /// Whether they can: complex modes, 32 at most, in sizes that an int counts.
  static bool can(const ssm::DiagonalScan<T, Space>& a) {
    constexpr Index max_positions = Index{1} << 30;
    constexpr Index max_sequences = 65535 * 4;
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    return a.A.extent(2) == 2 && a.A.extent(1) >= 1 && a.A.extent(1) <= 32 && a.x.size() > 0 &&
           a.x.extent(1) <= max_positions && sequences <= max_sequences &&
           a.x.extent(2) <= std::numeric_limits<int>::max();
  }

  /// Numbers of `kept`: those of the states that its forward pass passes on.
  static Index kept_numbers(const ssm::DiagonalScan<T, Space>& a) {
    if (!a.segments.empty()) return 0;
    return 2 * static_cast<Index>(diagonal_scan_checkpoint_count<T>(shape_of(a)));
  }

  TensorCoreScan(Ctx& ctx, const ssm::DiagonalScan<T, Space>& a, Stream stream)
      : a_(a), sequences_(ctx, stream), stream_(stream), segments_(narrowed(ctx)) {
    parameters_ = scan_parameters(
        without_sequences(a), [&] { return scan_rows(); }, stream);
  }

  void run() {
    DiagonalScan<T> call;
    call.shape = shape();
    call.parameters = parameters_;
    call.x = sequences_.input(a_.x);
    call.gate_in = sequences_.input(a_.gate_in);
    call.gate_out = sequences_.input(a_.gate_out);
    call.initial_state = state(a_.initial_state);
    call.y = sequences_.output(a_.y);
    if (a_.final_state) call.final_state = states();
    if (a_.kept.size() > 0) call.checkpoints = as_complex(a_.kept.data());
    void* const workspace = sequences_.bytes(diagonal_scan_workspace<T>(call.shape));
    cuda::diagonal_scan(call, workspace, stream_);
    sequences_.finish();
    if (a_.final_state)
      unpack_scan_states(call.final_state, device_states(a_.final_state), stream_);
  }

  void run_backward(const ssm::DiagonalScanBackward<T, Space>& g) {
    DiagonalScanBackward<T> call;
    call.shape = shape();
    call.parameters = parameters_;
    call.x = sequences_.input(a_.x);
    call.gate_in = sequences_.input(a_.gate_in);
    call.gate_out = sequences_.input(a_.gate_out);
    call.initial_state = state(a_.initial_state);
    if (g.kept.size() > 0) call.checkpoints = as_complex(g.kept.data());
    call.dy = sequences_.input(g.dy);
    call.dfinal_state = state(g.dfinal_state);
    call.dx = sequences_.gradient(g.dx, a_.x);
    call.dgate_in = sequences_.gradient(g.dgate_in, a_.gate_in);
    call.dgate_out = sequences_.gradient(g.dgate_out, a_.gate_out);
    if (g.dinitial_state) call.dinitial_state = states();
    const auto add_to = [&](const ScanRows& gradient) {
      gradient.take_gradients_of(call, static_cast<bool>(a_.skip));
      void* const workspace = sequences_.bytes(diagonal_scan_backward_workspace(call));
      cuda::diagonal_scan_backward(call, workspace, stream_);
    };
    add_scan_gradients(
        without_sequences(g), [&] { return scan_rows(); }, add_to, stream_);
    sequences_.finish();
    if (g.dinitial_state)
      unpack_scan_states(call.dinitial_state, device_states(g.dinitial_state), stream_);
  }

 private:
  Index channels() const { return a_.x.extent(2); }
  Index modes() const { return a_.A.extent(1); }
  static DiagonalScanShape shape_of(const ssm::DiagonalScan<T, Space>& a) {
    DiagonalScanShape shape;
    shape.batch = static_cast<int>(a.x.extent(0));
    shape.channels = static_cast<int>(a.x.extent(2));
    shape.modes = static_cast<int>(a.A.extent(1));
    shape.length = static_cast<int>(a.x.extent(1));
    return shape;
  }
  DiagonalScanShape shape() const {
    DiagonalScanShape shape = shape_of(a_);
    shape.segments = segments_;
    shape.segment_count = segments_ != nullptr ? static_cast<int>(a_.segments.size()) - 1 : 0;
    return shape;
  }
  static Complex<float>* as_complex(float* numbers) {
    return reinterpret_cast<Complex<float>*>(numbers);
  }
  static const Complex<float>* as_complex(const float* numbers) {
    return reinterpret_cast<const Complex<float>*>(numbers);
  }
  const int* narrowed(Ctx& ctx) {
    if (a_.segments.empty()) return nullptr;
    const auto offsets = segments_on_device(ctx, sequences_.frame(), a_.segments);
    const auto narrow = sequences_.frame().template tensor<int>(offsets.count + 1);
    narrow_offsets(offsets, narrow.data(), stream_);
    return narrow.data();
  }
  ScanRows scan_rows() {
    const Index count = ScanRows::float_count(channels(), modes());
    return {sequences_.frame().template tensor<float>(count).data(), channels(), modes()};
  }
  /// [S, D, P], contiguous.
  Complex<float>* states() {
    const Index count = sequence_count(a_.x.extent(0), a_.segments) * channels() * modes();
    return sequences_.frame().template tensor<Complex<float>>(count).data();
  }
  const Complex<float>* state(const View<const float, 4, Space>& given) {
    if (!given) return nullptr;
    Complex<float>* const packed = states();
    pack_scan_states(device_states(given), packed, stream_);
    return packed;
  }
  template <class S>
  static View<S, 4, CudaSpace> device_states(const View<S, 4, Space>& states) {
    return std::bit_cast<View<S, 4, CudaSpace>>(states);
  }
  const ssm::DiagonalScan<T, Space>& a_;
  ChannelMajor<Ctx, T> sequences_;
  Stream stream_;
  const int* segments_;
  DiagonalScanParameters parameters_;
};

/// The compiled half for every call that ssm::DiagonalScan allows: a warp runs one channel of one
/// sequence, a lane a mode. States are kept in T. T: float, double.
template <class T>
SSM_CUDA_API void general_diagonal_scan(const ssm::DiagonalScan<T, CudaSpace>& a,
                                        DeviceSegments segments, Stream stream);
/// States are computed again from one kept every kKeptScanState positions.
/// workspace   general_diagonal_scan_backward_workspace(g) scalars
template <class T>
SSM_CUDA_API void general_diagonal_scan_backward(const ssm::DiagonalScanBackward<T, CudaSpace>& g,
                                                 DeviceSegments segments, T* workspace,
                                                 Stream stream);

/// How far apart the states are that general_diagonal_scan_backward keeps.
inline constexpr Index kKeptScanState = 64;  // positions from one to the next

/// Rows of kept states: those of sequence s begin at row begin(s)/kKeptScanState + s, where packed.
template <class T, class Space>
Index kept_scan_states(const ssm::DiagonalScan<T, Space>& a) {
  const Index sequences = sequence_count(a.x.extent(0), a.segments);
  if (!a.segments.empty()) return a.x.extent(1) / kKeptScanState + sequences;
  return sequences * ((a.x.extent(1) + kKeptScanState - 1) / kKeptScanState);
}

/// O(B·L/64·D·P + S·D·P).
template <class T, class Space>
Index general_diagonal_scan_backward_workspace(const ssm::DiagonalScanBackward<T, Space>& g) {
  const auto& a = g.forward;
  const Index channels = a.x.extent(2);
  const Index numbers = a.A.extent(1) * a.A.extent(2);
  const Index states = kept_scan_states(a) * channels * numbers;
  const Index gradients = sequence_count(a.x.extent(0), a.segments) * channels * (3 * numbers + 1);
  return states + gradients;
}

namespace primitive {

template <class Choice = Automatic>
struct BasicDiagonalScan {
  template <class Ctx, DeviceNumber T>
  static Index kept_numbers(Ctx&, const ssm::DiagonalScan<T, typename Ctx::Space>& a) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreScan<Ctx, T>::can(a) && chosen(a, false) && chosen(a, true))
        return TensorCoreScan<Ctx, T>::kept_numbers(a);
    return 0;
  }
  template <class Ctx, DeviceNumber T>
  static void diagonal_scan(Ctx& ctx, const ssm::DiagonalScan<T, typename Ctx::Space>& a) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreScan<Ctx, T>::can(a) && chosen(a, false)) {
        queue(ctx, [&](Stream stream) { TensorCoreScan<Ctx, T>(ctx, a, stream).run(); });
        return;
      }
    if constexpr (HalfStorage<T>) {
      ssm::detail::run_wide(ctx, a, [&](const auto& wide) { diagonal_scan(ctx, wide); });
    } else {
      queue(ctx, [&](Stream stream) {
        auto frame = ctx.workspace().frame();
        general_diagonal_scan(on_device(a), segments_on_device(ctx, frame, a.segments), stream);
      });
    }
  }
  template <class Ctx, DeviceNumber T>
  static void diagonal_scan_backward(Ctx& ctx,
                                     const ssm::DiagonalScanBackward<T, typename Ctx::Space>& g) {
    if constexpr (!std::same_as<T, double>)
      if (TensorCoreScan<Ctx, T>::can(g.forward) && chosen(g.forward, true)) {
        queue(ctx, [&](Stream stream) {
          TensorCoreScan<Ctx, T>(ctx, g.forward, stream).run_backward(g);
        });
        return;
      }
    if constexpr (HalfStorage<T>) {
      ssm::detail::run_wide_gradient<ssm::DiagonalScan>(
          ctx, g, [&](const auto& wide) { diagonal_scan_backward(ctx, wide); });
    } else {
      queue(ctx, [&](Stream stream) {
        auto frame = ctx.workspace().frame();
        const auto segments = segments_on_device(ctx, frame, g.forward.segments);
        const Index count = general_diagonal_scan_backward_workspace(g);
        const auto workspace = frame.template tensor<T>(count);
        general_diagonal_scan_backward(on_device(g), segments, workspace.data(), stream);
      });
    }
  }

 private:
  template <class Operands>
  static bool chosen(const Operands& a, bool is_backward) {
    const SequenceWork work{a.x.extent(0), a.x.extent(1), a.x.extent(2), a.A.extent(1),
                            is_backward};
    return Choice::diagonal_scan(work) && has_tensor_core_kernels();
  }
};
/// The Cuda backend's part for DiagonalScan, its form chosen by the size of the work.
using DiagonalScan = BasicDiagonalScan<>;

}  // namespace primitive

}  // namespace ssm::cuda
