// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/core/scalar.hpp"
#include "ssm/op/diagonal_kernel.hpp"
#include "ssm/op/h3_mixer.hpp"

namespace ssm::cuda {

/// Channels of a head that are taken by pairs of positions, at least, where a scan is not as fast,
/// and at most; and the positions of a tile.
inline constexpr Index kFewestPairedChannels = 4, kPairedChannels = 16;
inline constexpr Index kPairedTile = 64;

/// The scan of an H3 head as attention: with the kernel K_h of the head's SSM, its skip in K_h[0],
///   y_t = Σ_{s≤t} K_h[t−s]·(a_t·b_s)·c_s          over the channels of the head
/// and with `backwards` the same over s ≥ t, with K_h[s−t]. By tiles of 64 × 64 positions on tensor
/// cores; products a·b are rounded to bf16 after K_h is applied, sums are in float.
/// a, b, c   [B, L, H·W]   W ≤ kPairedChannels
/// kernel    [H, L]
/// skip      [H]
/// y         [B, L, H·W]   overwritten
struct H3Pairs {
  View<const BFloat16, 3, CudaSpace> a, b, c;
  View<const float, 2, CudaSpace> kernel;
  View<const float, 1, CudaSpace> skip;
  View<BFloat16, 3, CudaSpace> y;
  bool backwards = false;
};
SSM_CUDA_API void h3_pairs(const H3Pairs& call, Stream stream);

/// The gradient of the kernel:  dkernel[h,l] = Σ_{b, t−s=l} (q_t·k_s)·(dy_t·v_s)
/// dkernel   [H, L]   overwritten
/// dskip     [H]      dkernel[h,0] is added
/// parts     h3_pair_parts numbers
struct H3PairKernelGradient {
  View<const BFloat16, 3, CudaSpace> q, k, v, dy;
  View<float, 2, CudaSpace> dkernel;
  View<float, 1, CudaSpace> dskip;
};
SSM_CUDA_API void h3_pair_kernel_gradient(const H3PairKernelGradient& call, float* parts,
                                          Stream stream);

constexpr Index paired_tiles(Index length) { return (length + kPairedTile - 1) / kPairedTile; }
/// Groups of sequences whose sums are kept apart: for about 4096 blocks.
constexpr Index h3_pair_groups(Index batch, Index length, Index heads) {
  const Index blocks = std::max<Index>(1, heads * paired_tiles(length));
  return std::clamp<Index>(4096 / blocks, 1, std::max<Index>(1, batch));
}
constexpr Index h3_pair_parts(Index batch, Index length, Index heads) {
  return h3_pair_groups(batch, length, heads) * heads * paired_tiles(length) * 2 * kPairedTile;
}

/// The scan of ssm::H3Mixer in bf16 by pairs of positions, with heads of several channels, from the
/// shifted k on.
template <class Ctx>
class PairedScan {
 public:
  using Space = typename Ctx::Space;
  using Sequences = View<const BFloat16, 3, Space>;

  /// Heads of at most kPairedChannels, sequences that are not packed and begin at zero.
  static bool can(const ssm::H3Mixer<BFloat16, Space>& a) {
    constexpr Index most = 65535;  // rows of a grid of blocks
    return a.q.size() > 0 && a.q.extent(2) <= kPairedChannels * a.dt.extent(0) &&
           a.segments.empty() && !a.initial_diagonal && !a.final_diagonal &&
           a.q.extent(0) <= most && a.dt.extent(0) <= most;
  }
  static bool can(const ssm::H3MixerBackward<BFloat16, Space>& g) {
    auto forward = g.forward;
    forward.final_diagonal = {};  // which is not computed
    return can(forward) && !g.dfinal_diagonal && !g.dinitial_diagonal;
  }

  PairedScan(Ctx& ctx, typename Workspace<Space>::Frame& frame,
             const ssm::H3Mixer<BFloat16, Space>& a)
      : ctx_(ctx), frame_(frame), a_(a), kernel_(kernel()) {
    auto call = kernel_call();
    call.kernel = kernel_;
    ssm::diagonal_kernel(ctx, call);
  }

  /// As H3Pairs.
  void multiply(const Sequences& a, const Sequences& b, const Sequences& c,
                const View<BFloat16, 3, Space>& y, bool backwards) const {
    queue(ctx_, [&](Stream stream) {
      h3_pairs({.a = device_view(a),
                .b = device_view(b),
                .c = device_view(c),
                .kernel = device_view(View<const float, 2, Space>(kernel_)),
                .skip = device_view(a_.skip),
                .y = device_view(y),
                .backwards = backwards},
               stream);
    });
  }
  /// Adds those of the diagonal model's parameters.
  void add_gradients(const ssm::H3MixerBackward<BFloat16, Space>& g, const Sequences& shifted) {
    const auto dkernel = kernel();
    const auto parts = frame_.template tensor<float>(
        h3_pair_parts(a_.q.extent(0), a_.q.extent(1), a_.dt.extent(0)));
    queue(ctx_, [&](Stream stream) {
      h3_pair_kernel_gradient({.q = device_view(a_.q),
                               .k = device_view(shifted),
                               .v = device_view(a_.v),
                               .dy = device_view(g.dy),
                               .dkernel = device_view(dkernel),
                               .dskip = device_view(g.dskip)},
                              parts.data(), stream);
    });
    ssm::diagonal_kernel_backward(
        ctx_, ssm::DiagonalKernelBackward<float, Space>{.forward = kernel_call(),
                                                        .dkernel = dkernel,
                                                        .ddt = g.ddt,
                                                        .dA = g.dA,
                                                        .dB = g.dB,
                                                        .dC = g.dC});
  }

 private:
  template <class V>
  static View<typename V::Element, V::rank(), CudaSpace> device_view(const V& view) {
    return std::bit_cast<View<typename V::Element, V::rank(), CudaSpace>>(view);
  }
  View<float, 2, Space> kernel() const {
    return frame_.template tensor<float>(a_.dt.extent(0), a_.q.extent(1));
  }
  ssm::DiagonalKernel<float, Space> kernel_call() const {
    return {.dt = a_.dt, .A = a_.A, .B = a_.B, .C = a_.C, .discretization = a_.discretization};
  }

  Ctx& ctx_;
  typename Workspace<Space>::Frame& frame_;
  const ssm::H3Mixer<BFloat16, Space>& a_;
  View<float, 2, Space> kernel_;
};

}  // namespace ssm::cuda
