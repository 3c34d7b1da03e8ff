// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include "ssm/model/normed_layer.hpp"

namespace ssm {

/// A residual connection around a layer, with the norm behind the sum.
///   y = norm(x + dropout(inner(x)))
/// x, y    [B, L, D]   y must not overlap x
/// state   the inner layer's
/// Tensors are named `norm_name` and `inner_name` before the parts' own names, as Residual's.
/// Source  Vaswani et al. 2017
template <class NormLayer, class Inner, FixedString norm_name = "norm",
          FixedString inner_name = "mixer">
class PostNorm : public detail::NormedLayer<PostNorm<NormLayer, Inner, norm_name, inner_name>,
                                            NormLayer, Inner, norm_name, inner_name> {
  using Base = detail::NormedLayer<PostNorm, NormLayer, Inner, norm_name, inner_name>;
  using Base::dropout_;
  using Base::inner_;
  using Base::norm_;

 public:
  template <class T, class Space = HostSpace>
  using Parameters = typename Base::template Parameters<T, Space>;
  template <class T, class Space = HostSpace>
  using State = typename Base::template State<T, Space>;
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    typename Inner::template Tape<T, Space> inner;
    DynamicTensor<T, 3, Space> sum;
    typename NormLayer::template Tape<T, Space> norm;
    LayerDropout::Tape dropout;
  };

  /// Throws  ArgumentError  where the inner layer does not take and give as many channels as the
  ///                        norm
  PostNorm() requires(
      std::is_default_constructible_v<NormLayer>&& std::is_default_constructible_v<Inner>)
      : PostNorm(NormLayer(), Inner()) {}
  /// `dropout` is the probability with which elements of what is added are left out in training.
  /// Throws  ArgumentError  unless it is in [0, 1) and the widths are one
  PostNorm(NormLayer norm, Inner inner, double dropout = 0)
      : Base("PostNorm", "the sum", "the norm", std::move(norm), std::move(inner), dropout) {}

  template <class B, class T>
    requires RunsOn<PostNorm, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Kept = Tape<T, typename B::Space>;
    auto frame = ctx.workspace().frame();
    const Buffers buffers(frame, tape);
    auto sum = buffers.at(&Kept::sum, x.extents());
    inner_.evaluate(ctx, p.inner, x, sum, buffers.part(&Kept::inner), options);
    dropout_.evaluate(ctx, sum, buffers.part(&Kept::dropout), options.dropout);
    add(ctx, Add<T, typename B::Space>{.a = x.flatten(), .b = sum.flatten(), .y = sum.flatten()});
    norm_.evaluate(ctx, p.norm, sum, y, buffers.part(&Kept::norm));
  }

  template <class B, class T>
    requires RunsOn<PostNorm, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    auto frame = ctx.workspace().frame();
    auto dsum = frame.template tensor<T>(dy.extents());
    norm_.differentiate(ctx, p.norm, tape.norm, dy, dsum, gradients.norm);
    const auto dinner = dropout_.template differentiated<T>(ctx, frame, tape.dropout, dsum);
    inner_.differentiate(ctx, p.inner, tape.inner, dinner, dx, gradients.inner, ends);
    add(ctx, Add<T, typename B::Space>{.a = dx.flatten(), .b = dsum.flatten(), .y = dx.flatten()});
  }
};

}  // namespace ssm
