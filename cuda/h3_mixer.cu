// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <ssm/backend/cuda/h3_mixer.hpp>

#include "launch.cuh"

namespace ssm::cuda {
namespace device {
namespace {

/// The calls that a mixer is made of, and what lies between them.
template <class T>
struct MixerPlan {
  MixerPlan(const H3Mixer<T>& call, const H3MixerBackward<T>* adjoint, void* base) : carver(base) {
    const std::size_t size = static_cast<std::size_t>(call.batch) * call.channels * call.length;
    const auto between = [&] {
      return Sequences<T>{carver.template take<T>(size),
                          static_cast<std::int64_t>(call.channels) * call.length, call.length};
    };
    const auto read = [](const Sequences<T>& s) {
      return Sequences<const T>{s.data, s.batch_stride, s.channel_stride};
    };
    const Sequences<T> u = between();
    const DiagonalScanShape shape{call.batch, call.channels, call.modes, call.length};
    shift = {call.batch,     call.channels,   call.length,
             call.tap_count, call.k,          call.v,
             call.taps,      call.shift_skip, u};
    diagonal = {shape, call.diagonal, read(u), {}, call.q, nullptr, call.y};
    std::size_t bytes =
        std::max(shift_convolution_workspace(shift), diagonal_scan_workspace<T>(shape));
    if (adjoint != nullptr) {
      const Sequences<T> du = between();
      diagonal_backward = {shape,  call.diagonal, read(u), {},
                           call.q, nullptr,       nullptr, adjoint->dy};
      diagonal_backward.dx = du, diagonal_backward.dgate_out = adjoint->dq;
      diagonal_backward.dstep = adjoint->dstep, diagonal_backward.da = adjoint->da;
      diagonal_backward.db = adjoint->db, diagonal_backward.dc = adjoint->dc,
      diagonal_backward.dskip = adjoint->dskip;
      shift_backward = {
          call.batch,  call.channels,  call.length,         call.tap_count, call.k,
          call.v,      call.taps,      call.shift_skip,     read(du),       adjoint->dk,
          adjoint->dv, adjoint->dtaps, adjoint->dshift_skip};
      bytes = std::max({bytes, diagonal_scan_backward_workspace(diagonal_backward),
                        shift_convolution_backward_workspace(shift_backward)});
    }
    workspace = carver.template take<char>(bytes);
  }
  Carver carver;
  ShiftConvolution<T> shift;
  DiagonalScan<T> diagonal;
  ShiftConvolutionBackward<T> shift_backward;
  DiagonalScanBackward<T> diagonal_backward;
  char* workspace;
};

}  // namespace
}  // namespace device

template <class T>
std::size_t h3_mixer_workspace(const H3Mixer<T>& call) {
  return device::MixerPlan<T>(call, nullptr, nullptr).carver.used();
}

template <class T>
void h3_mixer(const H3Mixer<T>& call, void* workspace, Stream stream) {
  device::require(workspace != nullptr, "h3_mixer", "workspace is null");
  const device::MixerPlan<T> plan(call, nullptr, workspace);
  shift_convolution(plan.shift, plan.workspace, stream);
  diagonal_scan(plan.diagonal, plan.workspace, stream);
}

template <class T>
std::size_t h3_mixer_backward_workspace(const H3MixerBackward<T>& call) {
  return device::MixerPlan<T>(call.forward, &call, nullptr).carver.used();
}

template <class T>
void h3_mixer_backward(const H3MixerBackward<T>& call, void* workspace, Stream stream) {
  device::require(workspace != nullptr, "h3_mixer_backward", "workspace is null");
  const device::MixerPlan<T> plan(call.forward, &call, workspace);
  shift_convolution(plan.shift, plan.workspace, stream);
  diagonal_scan_backward(plan.diagonal_backward, plan.workspace, stream);
  shift_convolution_backward(plan.shift_backward, plan.workspace, stream);
}

#define SSM_INSTANTIATE(T)                                                                   \
  template SSM_CUDA_API void h3_mixer<T>(const H3Mixer<T>&, void*, Stream);                  \
  template SSM_CUDA_API std::size_t h3_mixer_workspace<T>(const H3Mixer<T>&);                \
  template SSM_CUDA_API void h3_mixer_backward<T>(const H3MixerBackward<T>&, void*, Stream); \
  template SSM_CUDA_API std::size_t h3_mixer_backward_workspace<T>(const H3MixerBackward<T>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(Bfloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
