// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/layer/adds_residual.hpp"
#include "ssm/layer/dropout.hpp"
#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"
#include "ssm/model/fixed_string.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

/// A pre-norm residual connection around a layer.
///   y = x + dropout(inner(norm(x)))
/// x, y    [B, L, D]   y must not overlap x
/// state   the inner layer's
/// Tensors are named `norm_name` and `inner_name` before the parts' own names.
template <class NormLayer, class Inner, FixedString norm_name = "norm",
          FixedString inner_name = "mixer">
class Residual : public LayerVerbs<Residual<NormLayer, Inner, norm_name, inner_name>> {
 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Residual, T, Space> {
    typename NormLayer::template Parameters<T, Space> norm;
    typename Inner::template Parameters<T, Space> inner;
  };
  template <class T, class Space = HostSpace>
  using State = typename Inner::template State<T, Space>;
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
      std::is_default_constructible_v<NormLayer>&& std::is_default_constructible_v<Inner>) {
    require_widths();
  }
  /// `dropout` is the probability with which elements of what is added are left out in training.
  /// Throws  ArgumentError  unless it is in [0, 1) and the widths are one
  Residual(NormLayer norm, Inner inner, double dropout = 0)
      : norm_(std::move(norm)), inner_(std::move(inner)), dropout_("Residual", dropout) {
    require_widths();
  }

  Index channels() const { return norm_.channels(); }
  const Inner& inner() const { return inner_; }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<NormLayer, B, T> && RunsOn<Inner, B, T> &&
                                   HasRearrange<B, T>);

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
    inner_.differentiate(ctx, p.inner, tape.inner, dinner, dnormed, gradients.inner, ends);
    norm_.differentiate(ctx, p.norm, tape.norm, dnormed, dx, gradients.norm, {},
                        WriteMode::overwrite, dy);
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    return initial_state_of<T>(inner_, ctx, sequences, reserve);
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.norm = norm_.template zero_parameters<T>(ctx);
    p.inner = inner_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    norm_.fill_parameters(p.norm, seed.fork("norm"));
    inner_.fill_parameters(p.inner, seed.fork("inner"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    NormLayer::for_each_parameter(scoped(norm_name.text(), visit), p.norm...);
    Inner::for_each_parameter(scoped(inner_name.text(), visit), p.inner...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    Inner::for_each_state(visit, state...);
  }

 private:
  void require_widths() const {
    detail::require_fitting("Residual", "the norm", output_channels(norm_), "the inner layer",
                            input_channels(inner_));
    detail::require_fitting("Residual", "the inner layer", output_channels(inner_), "the sum",
                            input_channels(norm_));
  }

  NormLayer norm_;
  Inner inner_;
  LayerDropout dropout_;
};

}  // namespace ssm
