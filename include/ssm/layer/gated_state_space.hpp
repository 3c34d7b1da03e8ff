// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/diagonal_ssm.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/op/activation.hpp"

namespace ssm {

struct GatedStateSpaceConfig {
  Index channels = dyn;
  Index gate_channels = dyn;   // F, of the gate
  Index state_channels = dyn;  // H, of the SSM; fewer than the input has
  Index state = 64;            // N
};
/// The sizes and choices of a GatedStateSpace that are given at run time.
struct GatedStateSpaceOptions {
  Index channels = dyn;
  Index gate_channels = dyn;
  Index state_channels = dyn;
  Index state = dyn;  // left out: the type's, or 64
  Discretization discretization = Discretization::zero_order_hold;
  DiagonalMeasure measure = DiagonalMeasure::lin;  // initialization, as is what follows
  double dt_min = 0.001;                           // seconds
  double dt_max = 0.1;
};

/// The gated state-space layer (GSS): an SSM over few channels, lifted and gated by a nonlinear
/// function of the input.
///   u = gelu(to_state(x))      v = gelu(to_gate(x))      y = out(lift(diagonal(u)) ⊙ v)
/// x, y     [B, L, channels]   y must not overlap x
/// states   diagonal [B, H, N/2, 2]
/// Cost    2·B·L·(channels·H + H·F + 2·channels·F) operations and O(B·L·H·N)
/// Throws  ShapeError; ArgumentError  for an odd N, which does not compile in the type
/// Source  Mehta et al. 2022 (GSS) §3, with S4D's kernel in place of DSS's; there is no published
///         code
template <GatedStateSpaceConfig Config>
class GatedStateSpace : public LayerVerbs<GatedStateSpace<Config>> {
  static_assert(Config.state == dyn || Config.state % 2 == 0,
                "GatedStateSpace: state must be even: complex modes come in conjugate pairs");
  static constexpr Index width = Config.channels;
  static constexpr Index gates = Config.gate_channels;
  static constexpr Index few = Config.state_channels;
  using ToState = Linear<LinearConfig{.inputs = width, .outputs = few}>;
  using ToGate = Linear<LinearConfig{.inputs = width, .outputs = gates}>;
  using Lift = Linear<LinearConfig{.inputs = few, .outputs = gates}>;
  using Out = Linear<LinearConfig{.inputs = gates, .outputs = width}>;
  using Diagonal = DiagonalSsm<DiagonalSsmConfig{.channels = few, .state = Config.state}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<GatedStateSpace, T, Space> {
    typename ToState::template Parameters<T, Space> to_state;
    typename ToGate::template Parameters<T, Space> to_gate;
    typename Diagonal::template Parameters<T, Space> diagonal;
    typename Lift::template Parameters<T, Space> lift;
    typename Out::template Parameters<T, Space> out_proj;
  };
  template <class T, class Space = HostSpace>
  using State = typename Diagonal::template State<T, Space>;
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> few;       // before its nonlinearity
    DynamicTensor<T, 3, Space> u;         // what the SSM reads
    DynamicTensor<T, 3, Space> filtered;  // what it makes of it
    DynamicTensor<T, 3, Space> gate;      // before its nonlinearity
    DynamicTensor<T, 3, Space> lifted;
    DynamicTensor<T, 3, Space> mixed;  // what out_proj reads
    typename Diagonal::template Tape<T, Space> diagonal;
  };

  /// All sizes in the type.
  GatedStateSpace() requires(width != dyn && gates != dyn && few != dyn && Config.state != dyn)
      : GatedStateSpace(GatedStateSpaceOptions{}) {}
  /// Sizes that are `dyn` in the type, the discretization and the initialization come from here.
  /// Throws  ArgumentError  for what contradicts the type, an odd state, and steps that are no
  ///                        range
  explicit GatedStateSpace(GatedStateSpaceOptions options)
      : to_state_({.inputs = resolve_extent(width, options.channels, "channels"),
                   .outputs = resolve_extent(few, options.state_channels, "state_channels")}),
        to_gate_({.inputs = to_state_.inputs(),
                  .outputs = resolve_extent(gates, options.gate_channels, "gate_channels")}),
        lift_({.inputs = to_state_.outputs(), .outputs = to_gate_.outputs()}),
        out_({.inputs = to_gate_.outputs(), .outputs = to_state_.inputs()}),
        diagonal_({.channels = to_state_.outputs(),
                   .state = options.state,
                   .discretization = options.discretization,
                   .measure = options.measure,
                   .dt_min = options.dt_min,
                   .dt_max = options.dt_max}) {}

  Index channels() const { return to_state_.inputs(); }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && HasActivation<B, T> &&
                                   RunsOn<Diagonal, B, T>);

  template <class B, class T>
    requires RunsOn<GatedStateSpace, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const DynamicExtents<3> narrow(x.extent(0), x.extent(1), to_state_.outputs());
    const DynamicExtents<3> wide(x.extent(0), x.extent(1), to_gate_.outputs());
    auto few_channels = buffers.at(&Kept::few, narrow);
    auto u = buffers.at(&Kept::u, narrow);
    auto filtered = buffers.at(&Kept::filtered, narrow);
    auto gate = buffers.at(&Kept::gate, wide);
    auto lifted = buffers.at(&Kept::lifted, wide);
    auto mixed = buffers.at(&Kept::mixed, wide);
    if (tape != nullptr) tape->x = x;
    to_state_.evaluate(ctx, p.to_state, x, few_channels, nullptr);
    to_gate_.evaluate(ctx, p.to_gate, x, gate, nullptr);
    activation(ctx, gelu<T, Space>(few_channels, {}, as_rows(u)));
    diagonal_.evaluate(ctx, p.diagonal, u, filtered, buffers.part(&Kept::diagonal), options);
    lift_.evaluate(ctx, p.lift, filtered, lifted, nullptr);
    activation(ctx, gelu<T, Space>(gate, lifted, as_rows(mixed)));
    out_.evaluate(ctx, p.out_proj, mixed, y, nullptr);
  }

  template <class B, class T>
    requires RunsOn<GatedStateSpace, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    auto dgate = frame.template tensor<T>(tape.gate.extents());
    auto dlifted = frame.template tensor<T>(tape.gate.extents());
    auto dfew = frame.template tensor<T>(tape.few.extents());
    auto dfiltered = frame.template tensor<T>(tape.few.extents());
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.out_proj.weight,
                                                  .x = as_rows(tape.mixed),
                                                  .dy = as_rows(dy),
                                                  .dx = as_rows(dgate),
                                                  .dweight = gradients.out_proj.weight,
                                                  .dbias = gradients.out_proj.bias});
    activation_backward(
        ctx, ActivationBackward<T, Space>{.forward = gelu<T, Space>(tape.gate, tape.lifted, {}),
                                          .dy = as_rows(dgate),
                                          .dx = as_rows(dgate),
                                          .dgate = as_rows(dlifted)});
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.lift.weight,
                                                  .x = as_rows(tape.filtered),
                                                  .dy = as_rows(dlifted),
                                                  .dx = as_rows(dfiltered),
                                                  .dweight = gradients.lift.weight,
                                                  .dbias = gradients.lift.bias});
    diagonal_.differentiate(ctx, p.diagonal, tape.diagonal, dfiltered, dfew, gradients.diagonal,
                            ends);
    activation_backward(
        ctx,
        ActivationBackward<T, Space>{
            .forward = gelu<T, Space>(tape.few, {}, {}), .dy = as_rows(dfew), .dx = as_rows(dfew)});
    const auto x = as_rows(tape.x);
    const auto dx_rows = as_rows(dx);
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.to_state.weight,
                                                  .x = x,
                                                  .dy = as_rows(dfew),
                                                  .dx = dx_rows,
                                                  .dweight = gradients.to_state.weight,
                                                  .dbias = gradients.to_state.bias});
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.to_gate.weight,
                                                  .x = x,
                                                  .dy = as_rows(dgate),
                                                  .accumulate = true,
                                                  .dx = dx_rows,
                                                  .dweight = gradients.to_gate.weight,
                                                  .dbias = gradients.to_gate.bias});
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences) const {
    return diagonal_.template initial_state<T>(ctx, sequences);
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.to_state = to_state_.template zero_parameters<T>(ctx);
    p.to_gate = to_gate_.template zero_parameters<T>(ctx);
    p.diagonal = diagonal_.template zero_parameters<T>(ctx);
    p.lift = lift_.template zero_parameters<T>(ctx);
    p.out_proj = out_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    to_state_.fill_parameters(p.to_state, seed.fork("to_state"));
    to_gate_.fill_parameters(p.to_gate, seed.fork("to_gate"));
    diagonal_.fill_parameters(p.diagonal, seed.fork("diagonal"));
    lift_.fill_parameters(p.lift, seed.fork("lift"));
    out_.fill_parameters(p.out_proj, seed.fork("out_proj"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    ToState::for_each_parameter(scoped("to_state", visit), p.to_state...);
    ToGate::for_each_parameter(scoped("to_gate", visit), p.to_gate...);
    Diagonal::for_each_parameter(visit, p.diagonal...);
    Lift::for_each_parameter(scoped("lift", visit), p.lift...);
    Out::for_each_parameter(scoped("out_proj", visit), p.out_proj...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    Diagonal::for_each_state(visit, state...);
  }

 private:
  template <class T, class Space>
  static Activation<T, Space> gelu(View<const T, 3, Space> x, View<const T, 3, Space> gate,
                                   View<T, 2, Space> y) {
    return {.kind = ActivationKind::gelu_tanh,
            .x = as_rows(x),
            .gate = gate ? as_rows(gate) : View<const T, 2, Space>{},
            .y = y};
  }

  ToState to_state_;
  ToGate to_gate_;
  Lift lift_;
  Out out_;
  Diagonal diagonal_;
};

}  // namespace ssm
