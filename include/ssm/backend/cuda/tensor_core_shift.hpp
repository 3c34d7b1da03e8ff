// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "ssm/backend/cuda/channel_major.hpp"
#include "ssm/backend/cuda/rearrange.hpp"  // fill
#include "ssm/backend/cuda/shift_convolution.hpp"
#include "ssm/backend/cuda/shift_taps_and_states.hpp"

namespace ssm::cuda {

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

}  // namespace ssm::cuda
