// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "ssm/layer/dropout.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/op/activation.hpp"

namespace ssm {

struct GluReadoutConfig {
  Index channels = dyn;
};
/// The sizes and choices of a GluReadout that are given at run time.
struct GluReadoutOptions {
  Index channels = dyn;
  double dropout = 0;  // training only: of what the projection reads
};

/// What follows the state-space model in a block of S4D with a gated output:
///   (a | b) = output_linear(gelu_erf(x))      y = a ⊙ sigmoid(b)
/// x, y                   [B, L, channels]   y must not overlap x
/// output_linear weight   [2·channels, channels]
/// Cost    4·B·L·channels² operations
/// Source  Gu et al. 2022 (S4D), code of state-spaces/s4; Dauphin et al. 2017 (GLU)
template <GluReadoutConfig Config>
class GluReadout : public LayerVerbs<GluReadout<Config>> {
  static constexpr Index width = Config.channels;
  using Projection =
      Linear<LinearConfig{.inputs = width, .outputs = width == dyn ? dyn : 2 * width}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<GluReadout, T, Space> {
    typename Projection::template Parameters<T, Space> output_linear;
  };
  template <class, class = HostSpace>
  using State = NoState;
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> hidden;     // what output_linear reads
    DynamicTensor<T, 3, Space> projected;  // a and b
    LayerDropout::Tape dropout;
  };

  /// All sizes in the type.
  GluReadout() requires(width != dyn) : GluReadout(GluReadoutOptions{}) {}
  /// Sizes that are `dyn` in the type, and the dropout, come from here.
  /// Throws  ArgumentError  for what contradicts the type, and a dropout that is not in [0, 1)
  explicit GluReadout(GluReadoutOptions options)
      : channels_(resolve_extent(width, options.channels, "channels")),
        projection_({.inputs = channels_, .outputs = 2 * channels_}),
        dropout_("GluReadout", options.dropout) {}

  Index channels() const { return channels_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && HasActivation<B, T>);

  template <class B, class T>
    requires RunsOn<GluReadout, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<NoState>& options = {}) const {
    using Space = typename B::Space;
    using Kept = Tape<T, Space>;
    require_extents("glu_readout", "y", y, {x.extent(0), x.extent(1), channels_});
    auto frame = ctx.workspace().frame();
    const Buffers buffers(frame, tape);
    auto hidden = buffers.at(&Kept::hidden, x.extent(0), x.extent(1), channels_);
    auto projected = buffers.at(&Kept::projected, x.extent(0), x.extent(1), 2 * channels_);
    if (tape != nullptr) tape->x = x;
    auto first = nonlinearity<T, Space>(x);
    first.y = as_rows(hidden);
    activation(ctx, first);
    dropout_.evaluate(ctx, hidden, buffers.part(&Kept::dropout),
                      detail::fork(options.dropout, std::string_view("hidden")));
    projection_.evaluate(ctx, p.output_linear, hidden, projected, nullptr);
    auto second = gate<T, Space>(as_rows(projected));
    second.y = as_rows(y);
    activation(ctx, second);
  }

  template <class B, class T>
    requires RunsOn<GluReadout, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<NoState>& = {}) const {
    using Space = typename B::Space;
    require_extents("glu_readout", "dy", dy, tape.x.extents().to_array());
    require_extents("glu_readout", "dx", dx, tape.x.extents().to_array());
    auto frame = ctx.workspace().frame();
    const View<const T, 2, Space> projected = as_rows(tape.projected);
    View<T, 2, Space> dprojected =
        frame.template tensor<T>(projected.extent(0), projected.extent(1));
    activation_backward(ctx, ActivationBackward<T, Space>{.forward = gate<T, Space>(projected),
                                                          .dy = as_rows(dy),
                                                          .dx = half(dprojected, 1),
                                                          .dgate = half(dprojected, 0)});
    auto dhidden = frame.template tensor<T>(tape.hidden.extents());
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.output_linear.weight,
                                                  .x = as_rows(tape.hidden),
                                                  .dy = dprojected,
                                                  .dx = as_rows(dhidden),
                                                  .dweight = gradients.output_linear.weight,
                                                  .dbias = gradients.output_linear.bias});
    dropout_.differentiate(ctx, tape.dropout, dhidden);
    activation_backward(ctx, ActivationBackward<T, Space>{.forward = nonlinearity<T, Space>(tape.x),
                                                          .dy = as_rows(dhidden),
                                                          .dx = as_rows(dx)});
  }

  template <class T = float, class B>
  NoState initial_state(const Context<B>&, Index) const {
    return {};
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.output_linear = projection_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    projection_.fill_parameters(p.output_linear, seed.fork("output_linear"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Projection::for_each_parameter(scoped("output_linear", visit), p.output_linear...);
  }
  static void for_each_state(auto&&, auto&...) {}

 private:
  template <class T, class Space>
  static Activation<T, Space> nonlinearity(View<const T, 3, Space> x) {
    return {.kind = ActivationKind::gelu_erf, .x = as_rows(x)};
  }
  /// a or b of both.
  template <class V>
  V half(const V& both, Index which) const {
    return both.slice(1, which * channels_, (which + 1) * channels_);
  }
  template <class T, class Space>
  Activation<T, Space> gate(View<const T, 2, Space> both) const {
    return {.kind = ActivationKind::sigmoid, .x = half(both, 1), .gate = half(both, 0)};
  }

  Index channels_;
  Projection projection_;
  LayerDropout dropout_;
};

}  // namespace ssm
