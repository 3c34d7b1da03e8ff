// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/causal_convolution_direct.hpp"
#include "ssm/backend/cpu/causal_convolution_fft.hpp"
#include "ssm/backend/cpu/fft_lanes.hpp"

namespace ssm::cpu {

/// ssm::causal_convolution: term by term where the kernel is short, in the frequency domain where
/// it is long. `Fft` is LaneFft, or EigenFft or FftwFft from their headers: libraries to compare
/// with.
template <class Arch, class Fft = LaneFft>
struct CausalConvolution {
  template <class Ctx, Real T>
  static void causal_convolution(Ctx& ctx,
                                 const ssm::CausalConvolution<T, typename Ctx::Space>& a) {
    if (direct_is_cheaper(a))
      CausalConvolutionDirect<T, Arch>::run(ctx, a);
    else
      CausalConvolutionFft<T, Arch, Fft>::run(ctx, a);
  }

  template <class Ctx, Real T>
  static void causal_convolution_backward(
      Ctx& ctx, const ssm::CausalConvolutionBackward<T, typename Ctx::Space>& g) {
    if (direct_is_cheaper(g.forward))
      CausalConvolutionDirect<T, Arch>::run_backward(ctx, g);
    else
      CausalConvolutionFft<T, Arch, Fft>::run_backward(ctx, g);
  }

 private:
  template <class T>
  static bool direct_is_cheaper(const ssm::CausalConvolution<T, HostSpace>& a) {
    const Index batch = a.x.extent(0), length = a.x.extent(1);
    const Index terms = std::min(a.kernel.extent(1), longest_sequence(length, a.segments));
    return terms <= 8 || ConvolutionCut::direct_cost(batch, length, a.segments, terms) <=
                             ConvolutionCut::best(batch, length, a.segments, terms).cost;
  }
};

/// Term by term whatever the length.
template <class Arch>
struct DirectCausalConvolution {
  template <class Ctx, Real T>
  static void causal_convolution(Ctx& ctx,
                                 const ssm::CausalConvolution<T, typename Ctx::Space>& a) {
    CausalConvolutionDirect<T, Arch>::run(ctx, a);
  }
  template <class Ctx, Real T>
  static void causal_convolution_backward(
      Ctx& ctx, const ssm::CausalConvolutionBackward<T, typename Ctx::Space>& g) {
    CausalConvolutionDirect<T, Arch>::run_backward(ctx, g);
  }
};

}  // namespace ssm::cpu
