// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include "ssm/layer/adds_residual.hpp"
#include "ssm/model/normed_layer.hpp"

namespace ssm {

/// A pre-norm residual connection around a layer.
///   y = x + dropout(inner(norm(x)))
/// x, y    [B, L, D]   y must not overlap x
/// state   the inner layer's
/// Tensors are named `norm_name` and `inner_name` before the parts' own names.
template <class NormLayer, class Inner, FixedString norm_name = "norm",
          FixedString inner_name = "mixer">
class Residual : public detail::NormedLayer<Residual<NormLayer, Inner, norm_name, inner_name>,
                                            NormLayer, Inner, norm_name, inner_name> {
  using Base = detail::NormedLayer<Residual, NormLayer, Inner, norm_name, inner_name>;
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
    typename NormLayer::template Tape<T, Space> norm;
    DynamicTensor<T, 3, Space> normed;
    typename Inner::template Tape<T, Space> inner;
    LayerDropout::Tape dropout;
  };

  /// Throws  ArgumentError  where the inner layer does not take and give as many channels as the
  ///                        norm
  Residual() requires(
      std::is_default_constructible_v<NormLayer>&& std::is_default_constructible_v<Inner>)
      : Residual(NormLayer(), Inner()) {}
  /// `dropout` is the probability with which elements of what is added are left out in training.
  /// Throws  ArgumentError  unless it is in [0, 1) and the widths are one
  Residual(NormLayer norm, Inner inner, double dropout = 0)
      : Base("Residual", "the norm", "the sum", std::move(norm), std::move(inner), dropout) {}

  template <class B, class T>
    requires RunsOn<Residual, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    auto normed = buffers.at(&Kept::normed, x.extents());
    if constexpr (HasNormalizedMatmul<B, T> && TakesNorm<Inner> &&
                  requires { norm_.template call<T, Space>(p.norm, x, normed); })
      if (tape == nullptr) {
        const auto norm = norm_.template call<T, Space>(p.norm, x, normed);
        return inner_.evaluate(ctx, p.inner, normed, y, nullptr, options, x, &norm);
      }
    norm_.evaluate(ctx, p.norm, x, normed, buffers.part(&Kept::norm));
    const auto inner = buffers.part(&Kept::inner);
    const auto dropout = buffers.part(&Kept::dropout);
    if constexpr (AddsResidual<Inner>) {
      if (!dropout_.drops(dropout, options.dropout)) {
        inner_.evaluate(ctx, p.inner, normed, y, inner, options, x);
        dropout_.evaluate(ctx, y, dropout, options.dropout);  // nothing, as the tape is to know
        return;
      }
    }
    inner_.evaluate(ctx, p.inner, normed, y, inner, options);
    dropout_.evaluate(ctx, y, dropout, options.dropout);
    add(ctx, Add<T, Space>{.a = x.flatten(), .b = y.flatten(), .y = y.flatten()});
  }

  template <class B, class T>
    requires RunsOn<Residual, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    auto frame = ctx.workspace().frame();
    auto dnormed = frame.template tensor<T>(dy.extents());
    const auto dinner = dropout_.template differentiated<T>(ctx, frame, tape.dropout, dy);
    const auto differentiate_norm = [&](const auto&... residual_sum) {
      norm_.differentiate(ctx, p.norm, tape.norm, dnormed, dx, gradients.norm, {},
                          WriteMode::overwrite, dy, residual_sum...);
    };
    if constexpr (LeavesOutputBias<Inner> && requires { requires bool{NormLayer::sums_residual}; })
      if (!tape.dropout) {  // the norm reads what the inner layer's last bias sums
        const auto bias = Inner::output_bias(gradients.inner);
        inner_.differentiate(ctx, p.inner, tape.inner, dinner, dnormed, gradients.inner, ends,
                             OutputBias::left_out);
        return differentiate_norm(bias);
      }
    inner_.differentiate(ctx, p.inner, tape.inner, dinner, dnormed, gradients.inner, ends);
    differentiate_norm();
  }
};

}  // namespace ssm
