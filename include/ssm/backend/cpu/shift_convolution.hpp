// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/shift_convolution_backward.hpp"
#include "ssm/backend/cpu/shift_convolution_forward.hpp"

namespace ssm::cpu {

/// ssm::shift_convolution: a filter over channels in lanes for a sequence, the state itself for a
/// single position.
template <class Arch>
struct ShiftConvolution {
  template <class Ctx, Real T>
  static void shift_convolution(Ctx& ctx, const ssm::ShiftConvolution<T, typename Ctx::Space>& a) {
    if (a.x.extent(1) == 1 && a.segments.empty())
      ShiftConvolutionStep<T, Arch>::run(ctx, a);
    else
      ShiftConvolutionForward<T, Arch>::run(ctx, a);
  }

  template <class Ctx, Real T>
  static void shift_convolution_backward(
      Ctx& ctx, const ssm::ShiftConvolutionBackward<T, typename Ctx::Space>& g) {
    ShiftConvolutionBackward<T, Arch>::run(ctx, g);
  }
};

}  // namespace ssm::cpu
