// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/linear.hpp"
#include "ssm/op/activation.hpp"

namespace ssm {

struct SelectiveTransitionConfig {
  Index channels = dyn;
  Index hidden = dyn;
  Index width = dyn;  // channels of the hidden state that is selected from
};
/// The sizes of a SelectiveTransition that are given at run time.
using SelectiveTransitionOptions = SelectiveTransitionConfig;

/// Chooses, position by position, what a layer takes over from earlier layers' hidden states. As a
/// layer it is the gate a = SiLU(fc2(SiLU(fc1(x)))); `select` applies it, and one gate may serve
/// any number of sources.
///   y = h ⊙ a(x)
/// x      [B, L, channels]   the input of the layer that receives
/// a      [B, L, width]   must not overlap x
/// h, y   [B, L, width]
/// fc1.weight [hidden, channels]   fc2.weight [width, hidden]
/// Cost    2·B·L·hidden·(channels + width) operations
/// Source  He et al. 2024 (DenseSSM) §3.2; the published DenseRetNet has a SiLU after fc2 too
template <SelectiveTransitionConfig Config>
class SelectiveTransition : public LayerVerbs<SelectiveTransition<Config>> {
  static constexpr Index inner = Config.channels;
  static constexpr Index outer = Config.width;
  using Down = Linear<LinearConfig{.inputs = inner, .outputs = Config.hidden, .bias = false}>;
  using Up = Linear<LinearConfig{.inputs = Config.hidden, .outputs = outer, .bias = false}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<SelectiveTransition, T, Space> {
    typename Down::template Parameters<T, Space> fc1;
    typename Up::template Parameters<T, Space> fc2;
  };
  template <class, class = HostSpace>
  using State = NoState;
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 2, Space> fc1;  // before its activation
    DynamicTensor<T, 2, Space> hidden;
    DynamicTensor<T, 2, Space> fc2;  // before its activation
  };

  /// All sizes in the type.
  SelectiveTransition() requires(inner != dyn && outer != dyn && Config.hidden != dyn)
      : SelectiveTransition(SelectiveTransitionOptions{}) {}
  /// Sizes that are `dyn` in the type come from here.
  /// Throws  ArgumentError  for what contradicts the type
  explicit SelectiveTransition(SelectiveTransitionOptions options)
      : down_({.inputs = resolve_extent(inner, options.channels, "channels"),
               .outputs = resolve_extent(Config.hidden, options.hidden, "hidden")}),
        up_({.inputs = down_.outputs(), .outputs = resolve_extent(outer, options.width, "width")}) {
  }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && HasActivation<B, T>);

  Index inputs() const { return down_.inputs(); }
  Index outputs() const { return up_.outputs(); }

  /// The gate.
  template <class B, class T>
    requires RunsOn<SelectiveTransition, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, inner> x, Output<B, T, dyn, dyn, outer> gate,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<NoState>& = {}) const {
    using Space = typename B::Space;
    require_extents("selective_transition", "gate", gate, {x.extent(0), x.extent(1), outputs()});
    auto frame = ctx.workspace().frame();
    const auto rows = as_rows(x);
    const Index count = rows.extent(0);
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    auto hidden = buffers.at(&Kept::hidden, count, up_.inputs());
    if (tape != nullptr) tape->x = x;
    matmul(ctx,
           by_weight<T, Space>(p.fc1.weight, {.a = rows,
                                              .activation = ActivationKind::silu,
                                              .c = hidden,
                                              .z = buffers.kept(&Kept::fc1, count, up_.inputs())}));
    matmul(ctx,
           by_weight<T, Space>(p.fc2.weight, {.a = hidden,
                                              .activation = ActivationKind::silu,
                                              .c = as_rows(gate),
                                              .z = buffers.kept(&Kept::fc2, count, outputs())}));
  }

  /// From the gradient of the gate; dx is written as `dx_mode` says.
  template <class B, class T>
    requires RunsOn<SelectiveTransition, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, outer> dgate,
                     Output<B, T, dyn, dyn, inner> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<NoState>& = {},
                     WriteMode dx_mode = WriteMode::overwrite) const {
    using Space = typename B::Space;
    require_extents("selective_transition", "dgate", dgate,
                    {tape.x.extent(0), tape.x.extent(1), outputs()});
    require_extents_if_given("selective_transition", "dx", dx, tape.x.extents().to_array());
    auto frame = ctx.workspace().frame();
    const auto x = as_rows(tape.x);
    auto dfc2 = frame.template tensor<T>(x.extent(0), outputs());
    auto dfc1 = frame.template tensor<T>(x.extent(0), up_.inputs());
    activation_backward(
        ctx, ActivationBackward<T, Space>{.forward = {.kind = ActivationKind::silu, .x = tape.fc2},
                                          .dy = as_rows(dgate),
                                          .dx = dfc2});
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.fc2.weight,
                                                  .x = tape.hidden,
                                                  .dy = dfc2,
                                                  .dx = dfc1,
                                                  .dweight = gradients.fc2.weight});
    activation_backward(
        ctx, ActivationBackward<T, Space>{
                 .forward = {.kind = ActivationKind::silu, .x = tape.fc1}, .dy = dfc1, .dx = dfc1});
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.fc1.weight,
                                                  .x = x,
                                                  .dy = dfc1,
                                                  .accumulate = dx_mode == WriteMode::accumulate,
                                                  .dx = as_rows(dx),
                                                  .dweight = gradients.fc1.weight});
  }

  /// y = h ⊙ gate; y overwritten, may be the same memory as either.
  template <class T, class B>
    requires HasActivation<B, T>
  static void select(Context<B>& ctx, Input<B, T, dyn, dyn, outer> gate,
                     Input<B, T, dyn, dyn, outer> h, Output<B, T, dyn, dyn, outer> y) {
    using Space = typename B::Space;
    activation(ctx, Activation<T, Space>{.x = as_rows(h), .gate = as_rows(gate), .y = as_rows(y)});
  }

  /// dh = dy ⊙ gate, dgate = dy ⊙ h; both overwritten, dh may be the same memory as dy.
  template <class T, class B>
    requires HasActivation<B, T>
  static void select_backward(Context<B>& ctx, Input<B, T, dyn, dyn, outer> gate,
                              Input<B, T, dyn, dyn, outer> h, Input<B, T, dyn, dyn, outer> dy,
                              Output<B, T, dyn, dyn, outer> dh,
                              Output<B, T, dyn, dyn, outer> dgate) {
    using Space = typename B::Space;
    activation_backward(
        ctx, ActivationBackward<T, Space>{.forward = {.x = as_rows(h), .gate = as_rows(gate)},
                                          .dy = as_rows(dy),
                                          .dx = as_rows(dh),
                                          .dgate = as_rows(dgate)});
  }

  template <class T = float, class B>
  NoState initial_state(const Context<B>&, Index) const {
    return {};
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.fc1 = down_.template zero_parameters<T>(ctx);
    p.fc2 = up_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    down_.fill_parameters(p.fc1, seed.fork("fc1"));
    up_.fill_parameters(p.fc2, seed.fork("fc2"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Down::for_each_parameter(scoped("fc1", visit), p.fc1...);
    Up::for_each_parameter(scoped("fc2", visit), p.fc2...);
  }
  static void for_each_state(auto&&, auto&...) {}

 private:
  Down down_;
  Up up_;
};

}  // namespace ssm
