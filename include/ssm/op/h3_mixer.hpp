// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/discretization.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct H3MixerBackward;

/// The heart of H3 between its projections: shift → outer product with v → diagonal
/// SSM → contraction with q.
///   k̃           = shift(k)                  ShiftConvolution per channel, D channels
///   kv[i,j,h]   = k̃[h·hd+i] · v[h·hd+j]     channel c = h·hd + sub-channel, h the slow index
///   s[i,j,h]    = diagonal(kv[i,j,h])       DiagonalScan, one SSM per head h, with its skip
///   y[h·hd+j]   = Σ_i q[h·hd+i] · s[i,j,h]
/// q, k, v            [B, L, D]
/// shift_B, shift_C   [D, N]
/// shift_skip         [D]
/// dt, skip           [H]                  H = D / hd heads; hd = D / H
/// A, B, C            [H, P, 1|2]
/// shift states       [S, D, N]            initial optional (zero); final optional, may be the same
///                                         memory
/// diagonal states    [S, hd, hd, H, P, 1|2]   axes sequence, i, j, h, mode, number
/// y                  [B, L, D]            overwritten; must not alias the inputs
/// tape               h3_mixer_tape(ctx, a) numbers, or none: what a forward call leaves for its
///                    gradient, which else computes it again
/// Cost    O(B·L·D·(N + hd·P)), O(B·L·D·hd) of workspace
/// Throws  ShapeError
/// Source  Fu et al. 2023 (H3) §3.2 and Algorithm 1; order of channels as in the CUDA kernel of
///         HazyResearch/H3
template <class T, class Space>
struct H3Mixer {
  View<const T, 3, Space> q{};
  View<const T, 3, Space> k{};
  View<const T, 3, Space> v{};
  View<const Wide<T>, 2, Space> shift_B{};
  View<const Wide<T>, 2, Space> shift_C{};
  View<const Wide<T>, 1, Space> shift_skip{};
  View<const Wide<T>, 1, Space> dt{};
  View<const Wide<T>, 3, Space> A{};
  View<const Wide<T>, 3, Space> B{};
  View<const Wide<T>, 3, Space> C{};
  View<const Wide<T>, 1, Space> skip{};
  Discretization discretization = Discretization::bilinear;
  Segments segments{};
  View<const Wide<T>, 3, Space> initial_shift{};
  View<Wide<T>, 3, Space> final_shift{};
  View<const Wide<T>, 6, Space> initial_diagonal{};
  View<Wide<T>, 6, Space> final_diagonal{};
  View<T, 3, Space> y{};
  View<Wide<T>, 1, Space> tape{};

  static constexpr const char* name = "h3_mixer";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = H3MixerBackward<T, Space>;
    visit(input("q", "BLD").with_gradient(), &H3Mixer::q, &Gradient::dq);
    visit(input("k", "BLD").with_gradient(), &H3Mixer::k, &Gradient::dk);
    visit(input("v", "BLD").with_gradient(), &H3Mixer::v, &Gradient::dv);
    visit(parameter("shift_B", "DN").with_gradient(), &H3Mixer::shift_B, &Gradient::dshift_B);
    visit(parameter("shift_C", "DN").with_gradient(), &H3Mixer::shift_C, &Gradient::dshift_C);
    visit(parameter("shift_skip", "D").with_gradient(), &H3Mixer::shift_skip,
          &Gradient::dshift_skip);
    visit(parameter("dt", "H").with_gradient(), &H3Mixer::dt, &Gradient::ddt);
    visit(parameter("A", "HPZ").with_gradient(), &H3Mixer::A, &Gradient::dA);
    visit(parameter("B", "HPZ").with_gradient(), &H3Mixer::B, &Gradient::dB);
    visit(parameter("C", "HPZ").with_gradient(), &H3Mixer::C, &Gradient::dC);
    visit(parameter("skip", "H").with_gradient(), &H3Mixer::skip, &Gradient::dskip);
    visit(ssm::initial_state("initial_shift", "SDN"), &H3Mixer::initial_shift,
          &Gradient::dinitial_shift);
    visit(ssm::final_state("final_shift", "SDN"), &H3Mixer::final_shift, &Gradient::dfinal_shift);
    visit(ssm::initial_state("initial_diagonal", "SWWHPZ"), &H3Mixer::initial_diagonal,
          &Gradient::dinitial_diagonal);
    visit(ssm::final_state("final_diagonal", "SWWHPZ"), &H3Mixer::final_diagonal,
          &Gradient::dfinal_diagonal);
    visit(output("y", "BLD"), &H3Mixer::y, &Gradient::dy);
  }
  void fix_extents(ExtentsByLetter& n) const {
    const Index heads = dt.extent(0), channels = q.extent(2);
    if (q && dt && (heads == 0 || channels % heads != 0))
      n.refuse("dt",
               message({"has ", heads, " heads, which do not divide the ", channels, " channels"}));
    if (heads > 0) n.set('W', channels / heads);
  }
};

/// The vector–Jacobian product of H3Mixer. Gradients of q, k, v and the initial states are
/// overwritten, gradients of the parameters are added to.
template <class T, class Space>
struct H3MixerBackward {
  H3Mixer<T, Space> forward;  // y, the final states and the tape are not read
  View<const T, 3, Space> dy{};
  View<const Wide<T>, 3, Space> dfinal_shift{};     // optional, zero if left out
  View<const Wide<T>, 6, Space> dfinal_diagonal{};  // optional, zero if left out
  View<T, 3, Space> dq{};
  View<T, 3, Space> dk{};
  View<T, 3, Space> dv{};
  View<Wide<T>, 3, Space> dinitial_shift{};     // optional
  View<Wide<T>, 6, Space> dinitial_diagonal{};  // optional
  View<Wide<T>, 2, Space> dshift_B{};
  View<Wide<T>, 2, Space> dshift_C{};
  View<Wide<T>, 1, Space> dshift_skip{};
  View<Wide<T>, 1, Space> ddt{};
  View<Wide<T>, 3, Space> dA{};
  View<Wide<T>, 3, Space> dB{};
  View<Wide<T>, 3, Space> dC{};
  View<Wide<T>, 1, Space> dskip{};
  View<const Wide<T>, 1, Space> tape{};  // as the forward call of these operands left it, or none
};

/// Backends that have the primitive H3Mixer.
template <class B, class T = float>
concept HasH3Mixer = requires(Context<B>& ctx, const H3Mixer<Wide<T>, typename B::Space>& a,
                              const H3MixerBackward<Wide<T>, typename B::Space>& g) {
  B::h3_mixer(ctx, a);
  B::h3_mixer_backward(ctx, g);
};

/// How many numbers a tape of this call has; none where the backend keeps nothing of it. A backend
/// that has h3_mixer_tape writes the tape in its h3_mixer and reads it in its h3_mixer_backward.
/// Where sequences lie across ranks it is that of the call on this rank's stretch.
template <class B, class T>
Index h3_mixer_tape(const Context<B>&, const H3Mixer<T, typename B::Space>& a) {
  if constexpr (requires { B::h3_mixer_tape(a); })
    return B::h3_mixer_tape(a);
  else
    return 0;
}

namespace detail {
template <class B, class T>
void require_mixer_tape(const Context<B>& ctx, const H3Mixer<T, typename B::Space>& a, Index size) {
  if (size > 0 && size != h3_mixer_tape(ctx, a))
    throw ShapeError("h3_mixer", "tape", "must have as many numbers as h3_mixer_tape says");
}
}  // namespace detail

/// Computes H3Mixer, whose docstring says the rest.
template <class B, class T>
  requires HasH3Mixer<B, T>
void h3_mixer(Context<B>& ctx, const H3Mixer<T, typename B::Space>& a) {
  require_operands(a);
  detail::require_mixer_tape(ctx, a, a.tape.size());
  if constexpr (requires { B::h3_mixer(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::h3_mixer(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { h3_mixer(ctx, wide); });
  }
}

/// Computes H3MixerBackward, whose docstring says the rest.
template <class B, class T>
  requires HasH3Mixer<B, T>
void h3_mixer_backward(Context<B>& ctx, const H3MixerBackward<T, typename B::Space>& g) {
  require_gradients<H3Mixer<T, typename B::Space>>(g);
  detail::require_mixer_tape(ctx, g.forward, g.tape.size());
  if constexpr (requires { B::h3_mixer_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::h3_mixer_backward(ctx, g);
  } else {
    detail::run_wide_gradient<H3Mixer>(ctx, g,
                                       [&](const auto& wide) { h3_mixer_backward(ctx, wide); });
  }
}

}  // namespace ssm
