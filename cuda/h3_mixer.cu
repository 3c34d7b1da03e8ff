// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <ssm/backend/cuda/h3_mixer.hpp>

#include "diagonal_scan_matrices.cuh"
#include "diagonal_scan_plan.cuh"
#include "few_numbers.cuh"
#include "h3_mixer_forward.cuh"
#include "launch.cuh"

namespace ssm::cuda {
namespace device {
namespace {

constexpr int kMixerWarps = 132 * 12;  // resident at once on a Hopper card

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
Sequences<T> take_sequences(Carver& carver, const H3Mixer<T>& call) {
  const auto row = static_cast<std::int64_t>(call.length);
  return {carver.take<T>(static_cast<std::size_t>(call.batch) * call.channels * call.length),
          call.channels * row, row};
}

/// What a forward call leaves for the backward one.
template <class T>
struct Tape {
  Tape() = default;
  Tape(const H3Mixer<T>& call, Carver& carver) {
    shifted = take_sequences(carver, call), ungated = take_sequences(carver, call);
    checkpoints = carver.take<Complex>(diagonal_scan_checkpoint_count<T>(shape_of(call)));
  }
  Sequences<T> shifted, ungated;
  Complex* checkpoints = nullptr;
};

template <class T>
struct ForwardWorkspace {
  ForwardWorkspace(const H3Mixer<T>& call, void* base) : carver(base) {
    diagonal = carver.take<char>(ChannelLayout<T>::bytes * call.channels);
    shift = carver.take<char>(kShiftMatrices * shift_matrix_bytes<T> * call.channels);
  }
  Carver carver;
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
  BackwardCalls(const H3MixerBackward<T>& adjoint, void* base) : carver(base) {
    const H3Mixer<T>& call = adjoint.forward;
    if (call.tape != nullptr) {
      Carver from(call.tape);
      tape = Tape<T>(call, from);
    } else {
      tape.shifted = take_sequences(carver, call);
      tape.checkpoints = carver.take<Complex>(diagonal_scan_checkpoint_count<T>(shape_of(call)));
    }
    const Sequences<T> dshifted = take_sequences(carver, call);
    diagonal = {shape_of(call), call.diagonal, read(tape.shifted), call.v,
                call.q,         nullptr,       tape.checkpoints,   adjoint.dy};
    diagonal.x_is_product = keeps_products<T>;
    diagonal.dx = dshifted, diagonal.dgate_in = adjoint.dv;
    if (call.tape != nullptr)
      diagonal.dgate_out = adjoint.dq, diagonal.ungated = read(tape.ungated);
    diagonal.dstep = adjoint.dstep, diagonal.da = adjoint.da, diagonal.db = adjoint.db,
    diagonal.dc = adjoint.dc, diagonal.dskip = adjoint.dskip;
    shift = {call.batch, call.channels, call.length,        call.tap_count, call.k,
             {},         call.taps,     call.shift_skip,    read(dshifted), adjoint.dk,
             {},         adjoint.dtaps, adjoint.dshift_skip};
    workspace = carver.take<char>(std::max({ForwardWorkspace<T>(call, nullptr).carver.used(),
                                            diagonal_scan_backward_workspace(diagonal),
                                            shift_convolution_backward_workspace(shift)}));
  }
  Carver carver;
  Tape<T> tape;
  DiagonalScanBackward<T> diagonal;
  ShiftConvolutionBackward<T> shift;
  char* workspace;
};

/// A call over few numbers, in float.
template <class T>
H3Mixer<float> widened(const H3Mixer<T>& of, FloatCopies<T>& copies) {
  return {of.batch, of.channels,        of.length,          of.tap_count,
          of.modes, copies.input(of.q), copies.input(of.k), copies.input(of.v),
          of.taps,  of.shift_skip,      of.diagonal,        copies.output(of.y),
          of.tape};
}
template <class T>
struct WideForward {
  WideForward(const H3Mixer<T>& of, void* base)
      : carver(base), copies(carver, of.batch, of.channels, of.length), call(widened(of, copies)) {
    workspace = carver.take<char>(h3_mixer_workspace<float>(call));
  }
  Carver carver;
  FloatCopies<T> copies;
  H3Mixer<float> call;
  char* workspace;
};
template <class T>
struct WideBackward {
  WideBackward(const H3MixerBackward<T>& of, void* base)
      : carver(base), copies(carver, of.forward.batch, of.forward.channels, of.forward.length) {
    H3Mixer<T> forward = of.forward;
    forward.y = {};
    call = {widened(forward, copies),
            copies.input(of.dy),
            copies.output(of.dq),
            copies.output(of.dk),
            copies.output(of.dv),
            of.dtaps,
            of.dshift_skip,
            of.dstep,
            of.da,
            of.db,
            of.dc,
            of.dskip};
    workspace = carver.take<char>(h3_mixer_backward_workspace<float>(call));
  }
  Carver carver;
  FloatCopies<T> copies;
  H3MixerBackward<float> call;
  char* workspace;
};

}  // namespace
}  // namespace device

template <class T>
std::size_t h3_mixer_workspace(const H3Mixer<T>& call) {
  if (device::in_float<T>(call.batch, call.channels, call.length))
    return device::WideForward<T>(call, nullptr).carver.used();
  return device::ForwardWorkspace<T>(call, nullptr).carver.used();
}

template <class T>
std::size_t h3_mixer_tape(const H3Mixer<T>& call) {
  device::Carver carver(nullptr);
  if (device::in_float<T>(call.batch, call.channels, call.length)) {
    device::FloatCopies<T> copies(carver, call.batch, call.channels, call.length);
    return h3_mixer_tape(device::widened(call, copies));
  }
  const device::Tape<T> tape(call, carver);
  return carver.used();
}

template <class T>
void h3_mixer(const H3Mixer<T>& call, void* workspace, Stream stream) {
  const char* const operation = "h3_mixer";
  device::require_call(call, workspace, operation);
  if (device::in_float<T>(call.batch, call.channels, call.length)) {
    const device::WideForward<T> wide(call, workspace);
    return wide.copies.around(stream, operation,
                              [&] { h3_mixer(wide.call, wide.workspace, stream); });
  }
  device::Tape<T> tape;
  if (call.tape != nullptr) {
    device::Carver carver(call.tape);
    tape = device::Tape<T>(call, carver);
  }
  device::forward(call, call.q, call.y, tape, workspace, stream, operation);
}

template <class T>
std::size_t h3_mixer_backward_workspace(const H3MixerBackward<T>& call) {
  if (device::in_float<T>(call.forward.batch, call.forward.channels, call.forward.length))
    return device::WideBackward<T>(call, nullptr).carver.used();
  return device::BackwardCalls<T>(call, nullptr).carver.used();
}

template <class T>
void h3_mixer_backward(const H3MixerBackward<T>& call, void* workspace, Stream stream) {
  const char* const operation = "h3_mixer_backward";
  device::require_call(call.forward, workspace, operation);
  if (device::in_float<T>(call.forward.batch, call.forward.channels, call.forward.length)) {
    const device::WideBackward<T> wide(call, workspace);
    return wide.copies.around(stream, operation,
                              [&] { h3_mixer_backward(wide.call, wide.workspace, stream); });
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
SSM_INSTANTIATE(Bfloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
