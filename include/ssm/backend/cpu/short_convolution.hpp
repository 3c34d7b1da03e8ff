// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/short_convolution_backward.hpp"
#include "ssm/backend/cpu/short_convolution_forward.hpp"

namespace ssm::cpu {

/// ssm::short_convolution: by registers of channels for a sequence, channel by channel for a single
/// position.
template <class Arch>
struct ShortConvolution {
  template <class Ctx, Real T>
  static void short_convolution(Ctx& ctx, const ssm::ShortConvolution<T, typename Ctx::Space>& a) {
    if (a.x.extent(1) == 1 && a.segments.empty())
      ShortConvolutionStep<T, Arch>::run(ctx, a);
    else
      ShortConvolutionForward<T, Arch>::run(ctx, a);
  }

  template <class Ctx, Real T>
  static void short_convolution_backward(
      Ctx& ctx, const ssm::ShortConvolutionBackward<T, typename Ctx::Space>& g) {
    ShortConvolutionBackward<T, Arch>::run(ctx, g);
  }
};

}  // namespace ssm::cpu
