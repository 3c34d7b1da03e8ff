// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "device/launch.cuh"
#include "kernel/small_problem.cuh"
#include "scan/shift_convolution.cuh"
#include "scan/shift_convolution_backward.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda {
namespace device {
namespace {

void require_shift(int batch, int channels, int length, int taps, const char* operation) {
  require(batch >= 1 && channels >= 1 && length >= 1, operation, "sizes must be positive");
  require(length <= (1 << 30), operation, "sequences are at most 2^30 positions long");
  require(taps >= 1 && taps <= kChunk, operation, "between 1 and 64 taps");
}

template <class T>
char* take_matrices(WorkspaceLayout& layout, int channels) {
  return layout.take<char>(kShiftMatrices * shift_matrix_bytes<T> * channels);
}

/// Blocks that share a channel: enough for a few waves of 528 resident blocks.
int share(int channels, long long steps) {
  return static_cast<int>(std::clamp<long long>(16 * hopper_multiprocessors / channels, 1,
                                                std::min<long long>(steps, 65535)));
}

template <class T>
void walk(const ShiftLaunch<T>& shift, int channels, Stream stream, const char* operation) {
  const long long tiles = (shift.length + tile_positions<T> - 1) / tile_positions<T>;
  launch(shift_tiles<T>,
         dim3(channels, share(channels, (shift.batch * tiles + kWarps - 1) / kWarps)), kThreads,
         shift_shared_bytes<T>, stream, operation, shift);
}

template <class T>
struct TapsPlan {
  explicit TapsPlan(const ShiftConvolutionBackward<T>& call, void* base) : layout(base) {
    constexpr int positions = step_chunks<T> * kChunk;
    const long long steps = (call.length + positions - 1) / positions;
    groups = share(call.channels, (call.batch * steps + 3) / 4);
    matrices = take_matrices<T>(layout, call.channels);
    partial = layout.take<float>(std::size_t{kChunk} * groups * call.channels);
  }
  WorkspaceLayout layout;
  int groups;
  char* matrices;
  float* partial;
};

/// A small 16-bit call, in float.
template <class T>
struct UpcastForward {
  UpcastForward(const ShiftConvolution<T>& of, void* base)
      : layout(base), copies(layout, of.batch, of.channels, of.length) {
    call = {.batch = of.batch,
            .channels = of.channels,
            .length = of.length,
            .taps = of.taps,
            .x = copies.input(of.x),
            .gate = copies.input(of.gate),
            .kernel = of.kernel,
            .skip = of.skip,
            .y = copies.output(of.y)};
    workspace = layout.take<char>(shift_convolution_workspace<float>(call));
  }
  WorkspaceLayout layout;
  UpcastSequences<T> copies;
  ShiftConvolution<float> call;
  char* workspace;
};
template <class T>
struct UpcastBackward {
  UpcastBackward(const ShiftConvolutionBackward<T>& of, void* base)
      : layout(base), copies(layout, of.batch, of.channels, of.length) {
    call = {.batch = of.batch,
            .channels = of.channels,
            .length = of.length,
            .taps = of.taps,
            .x = copies.input(of.x),
            .gate = copies.input(of.gate),
            .kernel = of.kernel,
            .skip = of.skip,
            .dy = copies.input(of.dy),
            .dx = copies.output(of.dx),
            .dgate = copies.output(of.dgate),
            .dkernel = of.dkernel,
            .dskip = of.dskip};
    workspace = layout.take<char>(shift_convolution_backward_workspace<float>(call));
  }
  WorkspaceLayout layout;
  UpcastSequences<T> copies;
  ShiftConvolutionBackward<float> call;
  char* workspace;
};

}  // namespace
}  // namespace device

template <class T>
std::size_t shift_convolution_workspace(const ShiftConvolution<T>& call) {
  if (device::computes_in_float<T>(call.batch, call.channels, call.length))
    return device::UpcastForward<T>(call, nullptr).layout.used();
  device::WorkspaceLayout layout(nullptr);
  device::take_matrices<T>(layout, call.channels);
  return layout.used();
}

template <class T>
void shift_convolution(const ShiftConvolution<T>& call, void* workspace, Stream stream) {
  using namespace device;
  const char* const operation = "shift_convolution";
  require_shift(call.batch, call.channels, call.length, call.taps, operation);
  require(workspace != nullptr, operation, "workspace is null");
  if (computes_in_float<T>(call.batch, call.channels, call.length)) {
    const UpcastForward<T> upcast(call, workspace);
    return upcast.copies.around(stream, operation,
                                [&] { shift_convolution(upcast.call, upcast.workspace, stream); });
  }
  char* const matrices = static_cast<char*>(workspace);
  launch(build_shift_matrices<T>, dim3(call.channels), 256, 0, stream, operation, call.kernel,
         call.skip, call.taps, 2, matrices);
  walk<T>({call.x, call.gate, call.y, matrices, call.batch, call.length, 0}, call.channels, stream,
          operation);
}

template <class T>
std::size_t shift_convolution_backward_workspace(const ShiftConvolutionBackward<T>& call) {
  if (device::computes_in_float<T>(call.batch, call.channels, call.length))
    return device::UpcastBackward<T>(call, nullptr).layout.used();
  return device::TapsPlan<T>(call, nullptr).layout.used();
}

template <class T>
void shift_convolution_backward(const ShiftConvolutionBackward<T>& call, void* workspace,
                                Stream stream) {
  using namespace device;
  const char* const operation = "shift_convolution_backward";
  require_shift(call.batch, call.channels, call.length, call.taps, operation);
  require(workspace != nullptr, operation, "workspace is null");
  if (computes_in_float<T>(call.batch, call.channels, call.length)) {
    const UpcastBackward<T> upcast(call, workspace);
    return upcast.copies.around(stream, operation, [&] {
      shift_convolution_backward(upcast.call, upcast.workspace, stream);
    });
  }
  const TapsPlan<T> plan(call, workspace);
  launch(build_shift_matrices<T>, dim3(call.channels), 256, 0, stream, operation, call.kernel,
         call.skip, call.taps, 4, plan.matrices);
  // dgate = dy ⊙ shift(x), dx = shiftᵀ(gate ⊙ dy)
  if (call.gate.data != nullptr)
    walk<T>({call.x, call.dy, call.dgate, plan.matrices, call.batch, call.length, 0}, call.channels,
            stream, operation);
  launch(shift_backward<T>, dim3(call.channels, plan.groups), kThreads,
         ShiftBackwardShared<T>::bytes, stream, operation,
         ShiftBackwardLaunch<T>{call, plan.matrices, plan.partial});
  launch(finish_taps, dim3(call.channels), kChunk, 0, stream, operation, plan.partial, plan.groups,
         call.taps, call.dkernel, call.dskip);
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void shift_convolution<T>(const ShiftConvolution<T>&, void*, Stream);   \
  template SSM_CUDA_API std::size_t shift_convolution_workspace<T>(const ShiftConvolution<T>&); \
  template SSM_CUDA_API void shift_convolution_backward<T>(const ShiftConvolutionBackward<T>&,  \
                                                           void*, Stream);                      \
  template SSM_CUDA_API std::size_t shift_convolution_backward_workspace<T>(                    \
      const ShiftConvolutionBackward<T>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
