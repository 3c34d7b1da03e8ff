// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "ssm/backend/cuda/causal_convolution.hpp"
#include "ssm/backend/cuda/channel_major.hpp"
#include "ssm/op/causal_convolution.hpp"

namespace ssm::cuda {

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

}  // namespace ssm::cuda
