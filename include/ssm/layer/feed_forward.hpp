// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/adds_residual.hpp"
#include "ssm/layer/dropout.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/op/activation.hpp"
#include "ssm/op/normalized_matmul.hpp"

namespace ssm {

struct FeedForwardConfig {
  Index channels = dyn;
  Index hidden = dyn;
  bool gated = false;  // SwiGLU and its kin: the activation multiplies a second projection
  bool bias = true;    // of all projections
  bool gpt2 = false;   // tensors as GPT-2's: c_fc and c_proj, in files [inputs, outputs]
};
/// The sizes and choices of a FeedForward that are given at run time.
struct FeedForwardOptions {
  Index channels = dyn;
  Index hidden = dyn;
  ActivationKind activation = ActivationKind::gelu_tanh;
  double dropout = 0;  // training only: of what fc2 reads
};

/// Two linear maps with a nonlinearity between them, at every position.
///   plain   y = fc2(act(fc1(x)))
///   gated   y = fc2(act(fc1(x)) ⊙ gate(x))
/// x, y               [B, L, channels]   y must not overlap x
/// fc1, gate weight   [hidden, channels]     fc2 weight [channels, hidden]
/// Cost    4 (gated: 6)·B·L·channels·hidden operations
/// Source  Vaswani et al. 2017 §3.3; Shazeer 2020 (GLU variants)
template <FeedForwardConfig Config>
class FeedForward : public LayerVerbs<FeedForward<Config>> {
  static constexpr Index width = Config.channels;
  using Up = Linear<LinearConfig{.inputs = width,
                                 .outputs = Config.hidden,
                                 .bias = Config.bias,
                                 .transposed_in_files = Config.gpt2}>;
  using Down = Linear<LinearConfig{.inputs = Config.hidden,
                                   .outputs = width,
                                   .bias = Config.bias,
                                   .transposed_in_files = Config.gpt2}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;
  static constexpr bool adds_residual = true;
  static constexpr bool takes_norm = true;
  static constexpr bool leaves_output_bias = true;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<FeedForward, T, Space> {
    typename Up::template Parameters<T, Space> fc1;
    typename Up::template Parameters<T, Space> gate;  // empty unless gated
    typename Down::template Parameters<T, Space> fc2;
  };
  template <class, class = HostSpace>
  using State = NoState;
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 2, Space> fc1;  // before the activation
    DynamicTensor<T, 2, Space> gate;
    DynamicTensor<T, 2, Space> hidden;  // what fc2 reads; empty where it is made again
    LayerDropout::Tape dropout;
  };

  /// All sizes in the type.
  FeedForward() requires(Config.channels != dyn && Config.hidden != dyn)
      : FeedForward(FeedForwardOptions{}) {}
  /// Sizes that are `dyn` in the type, the activation and the dropout come from here.
  /// Throws  ArgumentError  for what contradicts the type, and a dropout that is not in [0, 1)
  explicit FeedForward(FeedForwardOptions options)
      : up_({.inputs = resolve_extent(Config.channels, options.channels, "channels"),
             .outputs = resolve_extent(Config.hidden, options.hidden, "hidden")}),
        down_({.inputs = up_.outputs(), .outputs = up_.inputs()}),
        activation_(options.activation),
        dropout_("FeedForward", options.dropout) {}

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && HasActivation<B, T>);

  Index channels() const { return up_.inputs(); }

  template <class B, class T>
    requires RunsOn<FeedForward, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<NoState>& options = {},
                Input<B, T, dyn, dyn, width> residual = {},
                NonDeduced<FirstNorm<B, T>> norm = nullptr) const {
    using Space = typename B::Space;
    require_extents("feed_forward", "y", y, {x.extent(0), x.extent(1), channels()});
    auto frame = ctx.workspace().frame();
    const auto rows = as_rows(x);
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const DynamicExtents<2> shape(rows.extent(0), up_.outputs());
    auto hidden =
        makes_hidden_again<T> ? frame.template tensor<T>(shape) : buffers.at(&Kept::hidden, shape);
    if (tape != nullptr) tape->x = x;
    const auto down = by_weight<T, Space>(
        p.fc2.weight,
        {.a = hidden, .bias = p.fc2.bias, .residual = as_rows(residual), .c = as_rows(y)});
    if constexpr (Config.gated) {
      auto fc1 = buffers.at(&Kept::fc1, shape);
      auto gate = buffers.at(&Kept::gate, shape);
      const Matmul<T, Space> products[] = {
          by_weight<T, Space>(p.gate.weight, {.a = rows, .bias = p.gate.bias, .c = gate}),
          by_weight<T, Space>(p.fc1.weight, {.a = rows, .bias = p.fc1.bias, .c = fc1})};
      normalized_matmul<B, T>(ctx, norm, products);
      activation(ctx,
                 Activation<T, Space>{.kind = activation_, .x = fc1, .gate = gate, .y = hidden});
    } else {
      const Matmul<T, Space> product =
          by_weight<T, Space>(p.fc1.weight, {.a = rows,
                                             .bias = p.fc1.bias,
                                             .activation = activation_,
                                             .c = hidden,
                                             .z = buffers.kept(&Kept::fc1, shape)});
      // Nothing is dropped without a tape.
      if (tape == nullptr) return matmul_pair<B, T>(ctx, norm, product, down);
      normalized_matmul<B, T>(ctx, norm, std::span(&product, 1));
    }
    dropout_.evaluate(ctx, hidden, buffers.part(&Kept::dropout),
                      detail::fork(options.dropout, std::string_view("hidden")));
    matmul(ctx, down);
  }

  template <class B, class T>
    requires RunsOn<FeedForward, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<NoState>& = {},
                     OutputBias output_bias = OutputBias::summed) const {
    using Space = typename B::Space;
    require_extents("feed_forward", "dy", dy, tape.x.extents().to_array());
    require_extents_if_given("feed_forward", "dx", dx, tape.x.extents().to_array());
    auto frame = ctx.workspace().frame();
    const auto x = as_rows(tape.x);
    const auto dx_rows = as_rows(dx);
    const DynamicExtents<2> shape(x.extent(0), up_.outputs());
    View<T, 2, Space> dhidden;
    LinearBackward<T, Space> down{.weight = p.fc2.weight,
                                  .x = tape.hidden,
                                  .dy = as_rows(dy),
                                  .dweight = gradients.fc2.weight,
                                  .dbias = bias_unless_left_out(gradients.fc2, output_bias)};
    auto dfc1_bias = gradients.fc1.bias.view();
    if constexpr (Config.gated) down.dx = dhidden = frame.template tensor<T>(shape);
    if constexpr (makes_hidden_again<T>) {
      if (!down.weight) detail::refuse_training_of_rounded_weights("linear");
      dhidden = frame.template tensor<T>(shape);
      auto part = ctx.workspace().frame();
      const auto hidden = part.template tensor<T>(shape);
      if (!tape.dropout && dfc1_bias &&
          sloped_matmul_again(ctx, SlopedMatmulAgain<T, Space>{.a = as_rows(dy),
                                                               .b = p.fc2.weight,
                                                               .activation = activation_,
                                                               .x = tape.fc1,
                                                               .c = dhidden,
                                                               .y = hidden,
                                                               .dbias = dfc1_bias})) {
        dfc1_bias = {};
      } else {
        activation(ctx, Activation<T, Space>{.kind = activation_, .x = tape.fc1, .y = hidden});
        dropout_.differentiate(ctx, tape.dropout, hidden);  // drops the same elements
        go_back(ctx, dy, p, tape, dhidden);
      }
      down.x = hidden;
      linear_backward(ctx, down);
    } else {
      linear_backward(ctx, down);
      if constexpr (!Config.gated) {
        dhidden = frame.template tensor<T>(shape);
        go_back(ctx, dy, p, tape, dhidden);
      }
    }
    dropout_.differentiate(ctx, tape.dropout, dhidden);  // after or before a slope is all one
    View<T, 2, Space> dgate;
    if constexpr (Config.gated) {
      dgate = frame.template tensor<T>(shape);
      activation_backward(ctx,
                          ActivationBackward<T, Space>{
                              .forward = {.kind = activation_, .x = tape.fc1, .gate = tape.gate},
                              .dy = dhidden,
                              .dx = dhidden,
                              .dgate = dgate});
    }
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.fc1.weight,
                                                  .x = x,
                                                  .dy = dhidden,
                                                  .dx = dx_rows,
                                                  .dweight = gradients.fc1.weight,
                                                  .dbias = dfc1_bias});
    if constexpr (Config.gated)
      linear_backward(ctx, LinearBackward<T, Space>{.weight = p.gate.weight,
                                                    .x = x,
                                                    .dy = dgate,
                                                    .accumulate = true,
                                                    .dx = dx_rows,
                                                    .dweight = gradients.gate.weight,
                                                    .dbias = gradients.gate.bias});
  }

  static auto output_bias(auto& gradients) { return bias_of(gradients.fc2); }

  template <class T = float, class B>
  NoState initial_state(const Context<B>&, Index) const {
    return {};
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.fc1 = up_.template zero_parameters<T>(ctx);
    if (Config.gated) p.gate = up_.template zero_parameters<T>(ctx);
    p.fc2 = down_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    up_.fill_parameters(p.fc1, seed.fork("fc1"));
    if (Config.gated) up_.fill_parameters(p.gate, seed.fork("gate"));
    down_.fill_parameters(p.fc2, seed.fork("fc2"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Up::for_each_parameter(scoped(Config.gpt2 ? "c_fc" : "fc1", visit), p.fc1...);
    if constexpr (Config.gated) Up::for_each_parameter(scoped("gate", visit), p.gate...);
    Down::for_each_parameter(scoped(Config.gpt2 ? "c_proj" : "fc2", visit), p.fc2...);
  }
  static void for_each_state(auto&&, auto&...) {}

 private:
  /// Whether fc2's input is computed from fc1's output once more instead of kept: a third of what
  /// the tape would hold, for a pass over memory.
  template <class T>
  static constexpr bool makes_hidden_again = !Config.gated && HalfStorage<T>;

  /// The gradient of what the activation of fc1 read.
  template <class B, class T, class Sequence>
  void go_back(Context<B>& ctx, const Sequence& dy, const Parameters<T, typename B::Space>& p,
               const Tape<T, typename B::Space>& tape,
               const View<T, 2, typename B::Space>& dhidden) const {
    sloped_matmul(ctx, SlopedMatmul<T, typename B::Space>{.a = as_rows(dy),
                                                          .b = p.fc2.weight,
                                                          .activation = activation_,
                                                          .x = tape.fc1,
                                                          .c = dhidden});
  }

  Up up_;
  Down down_;
  ActivationKind activation_;
  LayerDropout dropout_;
};

}  // namespace ssm
