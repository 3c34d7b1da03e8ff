// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <ssm/backend/cuda/h3_mixer.hpp>

#include "device/launch.cuh"
#include "kernel/small_problem.cuh"
#include "scan/diagonal_scan_matrices.cuh"
#include "scan/diagonal_scan_plan.cuh"
#include "scan/h3_mixer_forward.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda {
namespace device {
namespace {

constexpr int kMixerWarps = hopper_multiprocessors * 12;  // resident at once

template <class T>
Sequences<const T> read(const Sequences<T>& s) {
  return {s.data, s.batch_stride, s.channel_stride};
}

template <class T>
DiagonalScanShape shape_of(const H3Mixer<T>& call) {
  return {call.batch, call.channels, call.modes, call.length};
}

template <class T>
void require_call(const H3Mixer<T>& call, const void* workspace, const char* operation) {
  require_sizes(shape_of(call), operation);
  require(call.tap_count >= 1 && call.tap_count <= kChunk, operation, "between 1 and 64 taps");
  require(workspace != nullptr, operation, "workspace is null");
}

template <class T>
Sequences<T> take_sequences(WorkspaceLayout& layout, const H3Mixer<T>& call) {
  const auto row = static_cast<std::int64_t>(call.length);
  return {layout.take<T>(static_cast<std::size_t>(call.batch) * call.channels * call.length),
          call.channels * row, row};
}

/// What a forward call leaves for the backward one.
template <class T>
struct Tape {
  Tape() = default;
  Tape(const H3Mixer<T>& call, WorkspaceLayout& layout) {
    shifted = take_sequences(layout, call), ungated = take_sequences(layout, call);
    checkpoints = layout.take<Complex<float>>(diagonal_scan_checkpoint_count<T>(shape_of(call)));
  }
  Sequences<T> shifted, ungated;
  Complex<float>* checkpoints = nullptr;
};

template <class T>
struct ForwardWorkspace {
  ForwardWorkspace(const H3Mixer<T>& call, void* base) : layout(base) {
    diagonal = layout.take<char>(ChannelLayout<T>::bytes * call.channels);
    shift = layout.take<char>(kShiftMatrices * shift_matrix_bytes<T> * call.channels);
  }
  WorkspaceLayout layout;
  char* diagonal;
  char* shift;
};

/// y = gate ⊙ diagonal(v ⊙ shift(k)), and what of the tape is there.
template <class T>
void forward(const H3Mixer<T>& call, const Sequences<const T>& gate, const Sequences<T>& y,
             const Tape<T>& tape, void* workspace, Stream stream, const char* operation) {
  const DiagonalScanShape shape = shape_of(call);
  const ForwardWorkspace<T> space(call, workspace);
  launch(build_matrices<T>, dim3(call.channels), 256, 0, stream, operation, call.diagonal,
         call.modes, 3, space.diagonal);
  launch(build_shift_matrices<T>, dim3(call.channels), 256, 0, stream, operation, call.taps,
         call.shift_skip, call.tap_count, 2, space.shift);
  const Plan plan = make_plan(shape, tile_positions<T>, mixer_warps<T>, kMixerWarps, 4);
  const MixerLaunch<T> mixer{shape,
                             call.diagonal.skip,
                             call.k,
                             call.v,
                             gate,
                             y,
                             tape.shifted,
                             tape.ungated,
                             tape.checkpoints,
                             space.diagonal,
                             space.shift,
                             plan.warps_per_sequence,
                             0};
  const bool keep = tape.checkpoints != nullptr, chained = plan.warps_per_sequence > 1;
  auto kernel = keep ? mixer_forward<T, true, true> : mixer_forward<T, false, true>;
  if (!chained) kernel = keep ? mixer_forward<T, true, false> : mixer_forward<T, false, false>;
  launch(kernel, dim3(call.channels, plan.groups), 32 * mixer_warps<T>, MixerShared<T>::bytes,
         stream, operation, mixer);
}

template <class T>
struct BackwardCalls {
  BackwardCalls(const H3MixerBackward<T>& adjoint, void* base) : layout(base) {
    const H3Mixer<T>& call = adjoint.forward;
    if (call.tape != nullptr) {
      WorkspaceLayout from(call.tape);
      tape = Tape<T>(call, from);
    } else {
      tape.shifted = take_sequences(layout, call);
      tape.checkpoints =
          layout.take<Complex<float>>(diagonal_scan_checkpoint_count<T>(shape_of(call)));
    }
    const Sequences<T> dshifted = take_sequences(layout, call);
    diagonal = DiagonalScanBackward<T>{.shape = shape_of(call),
                                       .parameters = call.diagonal,
                                       .x = read(tape.shifted),
                                       .gate_in = call.v,
                                       .gate_out = call.q,
                                       .checkpoints = tape.checkpoints,
                                       .dy = adjoint.dy};
    diagonal.x_is_gated = tapes_gated_input<T>;
    diagonal.dx = dshifted, diagonal.dgate_in = adjoint.dv;
    if (call.tape != nullptr)
      diagonal.dgate_out = adjoint.dq, diagonal.ungated = read(tape.ungated);
    diagonal.ddt = adjoint.ddt, diagonal.da = adjoint.da, diagonal.db = adjoint.db,
    diagonal.dc = adjoint.dc, diagonal.dskip = adjoint.dskip;
    shift = ShiftConvolutionBackward<T>{.batch = call.batch,
                                        .channels = call.channels,
                                        .length = call.length,
                                        .taps = call.tap_count,
                                        .x = call.k,
                                        .kernel = call.taps,
                                        .skip = call.shift_skip,
                                        .dy = read(dshifted),
                                        .dx = adjoint.dk,
                                        .dkernel = adjoint.dtaps,
                                        .dskip = adjoint.dshift_skip};
    workspace = layout.take<char>(std::max({ForwardWorkspace<T>(call, nullptr).layout.used(),
                                            diagonal_scan_backward_workspace(diagonal),
                                            shift_convolution_backward_workspace(shift)}));
  }
  WorkspaceLayout layout;
  Tape<T> tape;
  DiagonalScanBackward<T> diagonal;
  ShiftConvolutionBackward<T> shift;
  char* workspace;
};

/// A small 16-bit call, in float.
template <class T>
H3Mixer<float> upcast_call(const H3Mixer<T>& of, UpcastSequences<T>& copies) {
  return {.batch = of.batch,
          .channels = of.channels,
          .length = of.length,
          .tap_count = of.tap_count,
          .modes = of.modes,
          .q = copies.input(of.q),
          .k = copies.input(of.k),
          .v = copies.input(of.v),
          .taps = of.taps,
          .shift_skip = of.shift_skip,
          .diagonal = of.diagonal,
          .y = copies.output(of.y),
          .tape = of.tape};
}
template <class T>
struct UpcastForward {
  UpcastForward(const H3Mixer<T>& of, void* base)
      : layout(base),
        copies(layout, of.batch, of.channels, of.length),
        call(upcast_call(of, copies)) {
    workspace = layout.take<char>(h3_mixer_workspace<float>(call));
  }
  WorkspaceLayout layout;
  UpcastSequences<T> copies;
  H3Mixer<float> call;
  char* workspace;
};
template <class T>
struct UpcastBackward {
  UpcastBackward(const H3MixerBackward<T>& of, void* base)
      : layout(base), copies(layout, of.forward.batch, of.forward.channels, of.forward.length) {
    H3Mixer<T> forward = of.forward;
    forward.y = {};
    call = {.forward = upcast_call(forward, copies),
            .dy = copies.input(of.dy),
            .dq = copies.output(of.dq),
            .dk = copies.output(of.dk),
            .dv = copies.output(of.dv),
            .dtaps = of.dtaps,
            .dshift_skip = of.dshift_skip,
            .ddt = of.ddt,
            .da = of.da,
            .db = of.db,
            .dc = of.dc,
            .dskip = of.dskip};
    workspace = layout.take<char>(h3_mixer_backward_workspace<float>(call));
  }
  WorkspaceLayout layout;
  UpcastSequences<T> copies;
  H3MixerBackward<float> call;
  char* workspace;
};

}  // namespace
}  // namespace device

template <class T>
std::size_t h3_mixer_workspace(const H3Mixer<T>& call) {
  if (device::computes_in_float<T>(call.batch, call.channels, call.length))
    return device::UpcastForward<T>(call, nullptr).layout.used();
  return device::ForwardWorkspace<T>(call, nullptr).layout.used();
}

template <class T>
std::size_t h3_mixer_tape(const H3Mixer<T>& call) {
  device::WorkspaceLayout layout(nullptr);
  if (device::computes_in_float<T>(call.batch, call.channels, call.length)) {
    device::UpcastSequences<T> copies(layout, call.batch, call.channels, call.length);
    return h3_mixer_tape(device::upcast_call(call, copies));
  }
  const device::Tape<T> tape(call, layout);
  return layout.used();
}

template <class T>
void h3_mixer(const H3Mixer<T>& call, void* workspace, Stream stream) {
  const char* const operation = "h3_mixer";
  device::require_call(call, workspace, operation);
  if (device::computes_in_float<T>(call.batch, call.channels, call.length)) {
    const device::UpcastForward<T> upcast(call, workspace);
    return upcast.copies.around(stream, operation,
                                [&] { h3_mixer(upcast.call, upcast.workspace, stream); });
  }
  device::Tape<T> tape;
  if (call.tape != nullptr) {
    device::WorkspaceLayout layout(call.tape);
    tape = device::Tape<T>(call, layout);
  }
  device::forward(call, call.q, call.y, tape, workspace, stream, operation);
}

template <class T>
std::size_t h3_mixer_backward_workspace(const H3MixerBackward<T>& call) {
  if (device::computes_in_float<T>(call.forward.batch, call.forward.channels, call.forward.length))
    return device::UpcastBackward<T>(call, nullptr).layout.used();
  return device::BackwardCalls<T>(call, nullptr).layout.used();
}

template <class T>
void h3_mixer_backward(const H3MixerBackward<T>& call, void* workspace, Stream stream) {
  const char* const operation = "h3_mixer_backward";
  device::require_call(call.forward, workspace, operation);
  if (device::computes_in_float<T>(call.forward.batch, call.forward.channels,
                                   call.forward.length)) {
    const device::UpcastBackward<T> upcast(call, workspace);
    return upcast.copies.around(stream, operation,
                                [&] { h3_mixer_backward(upcast.call, upcast.workspace, stream); });
  }
  const device::BackwardCalls<T> calls(call, workspace);
  // Without a tape the forward pass runs again, with dy for a gate: that is the gradient of q.
  if (call.forward.tape == nullptr)
    device::forward(call.forward, call.dy, call.dq, calls.tape, calls.workspace, stream, operation);
  diagonal_scan_backward(calls.diagonal, calls.workspace, stream);
  shift_convolution_backward(calls.shift, calls.workspace, stream);
}

#define SSM_INSTANTIATE(T)                                                                   \
  template SSM_CUDA_API void h3_mixer<T>(const H3Mixer<T>&, void*, Stream);                  \
  template SSM_CUDA_API std::size_t h3_mixer_workspace<T>(const H3Mixer<T>&);                \
  template SSM_CUDA_API std::size_t h3_mixer_tape<T>(const H3Mixer<T>&);                     \
  template SSM_CUDA_API void h3_mixer_backward<T>(const H3MixerBackward<T>&, void*, Stream); \
  template SSM_CUDA_API std::size_t h3_mixer_backward_workspace<T>(const H3MixerBackward<T>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
