// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/core/adjacent.hpp"
#include "ssm/core/weight.hpp"
#include "ssm/layer/adds_residual.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/op/normalized_matmul.hpp"

namespace ssm {

struct LinearConfig {
  Index inputs = dyn;
  Index outputs = dyn;
  bool bias = true;                  // whether there may be one
  bool transposed_in_files = false;  // the weight is [inputs, outputs] there, as GPT-2's
};
/// The sizes and choices of a Linear that are given at run time.
struct LinearOptions {
  Index inputs = dyn;
  Index outputs = dyn;
  std::optional<bool> bias = {};  // left out: if the type allows it
};

/// The product x·Wᵀ by a weight in the form that it is kept in: the call with b filled in.
///   matmul(ctx, by_weight<T, Space>(p.weight, {.a = x, .bias = p.bias, .c = y}));
template <class T, class Space>
Matmul<T, Space> by_weight(const WeightView<T, Space>& weight, Matmul<T, Space> call) {
  call.b = weight.full.transpose(0, 1);
  call.b_bf16 = weight.bf16.transpose(0, 1);
  call.b_f16 = weight.f16.transpose(0, 1);
  call.b_int8 = weight.int8.transpose(0, 1);
  call.b_scale = weight.scale;
  call.by_parameters = true;
  return call;
}

/// The product y = x·Wᵀ + bias of the parameters of a Linear, for calls of several at once.
template <class T, class Space, class P>
Matmul<T, Space> linear_product(const P& parameters, const View<const T, 3, Space>& x,
                                const View<T, 3, Space>& y) {
  return by_weight<T, Space>(parameters.weight,
                             {.a = as_rows(x), .bias = parameters.bias, .c = as_rows(y)});
}

/// The vector–Jacobian product of one linear map y = x·Wᵀ + bias.
///   dx = dy·W      dweight += dyᵀ·x      dbias += Σ_m dy[m]
/// x, dx [M, in]   dy [M, out]   weight, dweight [out, in]   dbias [out]
template <class T, class Space>
struct LinearBackward {
  View<const T, 2, Space> weight{};
  View<const T, 2, Space> x{};
  View<const T, 2, Space> dy{};
  bool accumulate = false;  // dx is added to
  View<T, 2, Space> dx{};   // optional, overwritten
  View<Wide<T>, 2, Space> dweight{};
  View<Wide<T>, 1, Space> dbias{};  // optional
};

/// Whether products of one x are joined to one: of half types, in spaces where their weights and
/// what they write can lie together.
template <class T, class Space>
inline constexpr bool joins_products = HalfStorage<T>&& HasAdjacentBlocks<Space>;
/// Products of so few rows are not: backends read the weights of several in one kernel.
inline constexpr Index rows_apart = 16;

namespace detail {

template <class B, class T>
void linear_backward_input(Context<B>& ctx, const LinearBackward<T, typename B::Space>& g) {
  if (!g.weight) refuse_training_of_rounded_weights("linear");
  if (g.dx)
    matmul(ctx, Matmul<T, typename B::Space>{
                    .a = g.dy, .b = g.weight, .accumulate = g.accumulate, .c = g.dx});
}
template <class T, class Space>
WeightGradient<T, Space> of_weight(const LinearBackward<T, Space>& g) {
  return {.dy = g.dy, .x = g.x, .dweight = g.dweight, .dbias = g.dbias};
}

/// Several maps of one x as one, where weights, dy and gradients lie one behind the other; dweight
/// of others is null.
template <class T, class Space>
LinearBackward<T, Space> joined_maps(std::span<const LinearBackward<T, Space>> maps) {
  if constexpr (joins_products<T, Space>) {
    using One = LinearBackward<T, Space>;
    One whole = maps.front();
    whole.weight = joined(0, maps, [](const One& g) { return g.weight; });
    whole.dy = joined(1, maps, [](const One& g) { return g.dy; });
    whole.dweight = joined(0, maps, [](const One& g) { return g.dweight; });
    whole.dbias = joined(0, maps, [](const One& g) { return g.dbias; });
    if (whole.weight && whole.dy && whole.dweight && bool{whole.dbias} == bool{maps[0].dbias})
      return whole;
  }
  return {};
}

}  // namespace detail

/// Computes LinearBackward.
/// Throws  ArgumentError  where the weight is kept in another form and so not given
template <class B, class T>
  requires HasMatmul<B, T>
void linear_backward(Context<B>& ctx, const LinearBackward<T, typename B::Space>& g) {
  detail::linear_backward_input<B, T>(ctx, g);
  weight_gradient<B, T>(ctx, detail::of_weight(g));
}

/// Computes LinearBackward of several maps of one x, whose dx is their sum; at once where weights,
/// dy and gradients lie one behind the other.
/// other   of another map whose dx has been computed and whose weight's gradient has not, which
///         goes with theirs, before dx is written; or null
template <class B, class T>
  requires HasMatmul<B, T>
void linear_backward(Context<B>& ctx, std::span<const LinearBackward<T, typename B::Space>> maps,
                     const LinearBackward<T, typename B::Space>* other = nullptr) {
  if (const auto whole = detail::joined_maps<T, typename B::Space>(maps); whole.dweight) {
    if (other == nullptr) return linear_backward<B, T>(ctx, whole);
    const WeightGradient<T, typename B::Space> both[] = {detail::of_weight(*other),
                                                         detail::of_weight(whole)};
    weight_gradient<B, T>(ctx, std::span(both));
    return detail::linear_backward_input<B, T>(ctx, whole);
  }
  if (other != nullptr) weight_gradient<B, T>(ctx, detail::of_weight(*other));
  bool is_first = true;
  for (auto g : maps) {
    g.accumulate = g.accumulate || !is_first;
    linear_backward<B, T>(ctx, g);
    is_first = false;
  }
}

/// y = x·Wᵀ + bias at every position, added to a residual if there is one.
/// x        [B, L, inputs]
/// y        [B, L, outputs]   must not overlap x
/// weight   [outputs, inputs]   in any WeightForm
/// Cost    2·B·L·inputs·outputs operations
template <LinearConfig Config>
class Linear : public LayerVerbs<Linear<Config>> {
 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;
  static constexpr bool adds_residual = true;
  static constexpr bool takes_norm = true;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Linear, T, Space> {
    Weight<T, Extents<Config.outputs, Config.inputs>, Space> weight;
    Tensor<Wide<T>, Extents<Config.outputs>, Space> bias;  // empty without bias
  };
  template <class, class = HostSpace>
  using State = NoState;
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    View<const T, 3, Space> x;
  };

  /// All sizes in the type.
  Linear() requires(Config.inputs != dyn && Config.outputs != dyn) : Linear(LinearOptions{}) {}
  /// Sizes that are `dyn` in the type come from here.
  /// Throws  ArgumentError  for what contradicts the type
  explicit Linear(LinearOptions options)
      : inputs_(resolve_extent(Config.inputs, options.inputs, "inputs")),
        outputs_(resolve_extent(Config.outputs, options.outputs, "outputs")),
        has_bias_(resolve_presence(Config.bias, options.bias, "bias")) {}

  template <class B, class T>
  static constexpr bool runs_on = HasMatmul<B, T>;

  Index inputs() const { return inputs_; }
  Index outputs() const { return outputs_; }

  template <class B, class T>
    requires RunsOn<Linear, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, Config.inputs> x, Output<B, T, dyn, dyn, Config.outputs> y,
                NonDeduced<Tape<T, typename B::Space>>* tape, const SequenceOptions<NoState>& = {},
                Input<B, T, dyn, dyn, Config.outputs> residual = {},
                NonDeduced<FirstNorm<B, T>> norm = nullptr) const {
    using Space = typename B::Space;
    require_extents("linear", "y", y, {x.extent(0), x.extent(1), outputs_});
    if (tape != nullptr) tape->x = x;
    const Matmul<T, Space> product = by_weight<T, Space>(
        p.weight,
        {.a = as_rows(x), .bias = p.bias, .residual = as_rows(residual), .c = as_rows(y)});
    normalized_matmul<B, T>(ctx, norm, std::span(&product, 1));
  }

  template <class B, class T>
    requires RunsOn<Linear, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape,
                     Input<B, T, dyn, dyn, Config.outputs> dy,
                     Output<B, T, dyn, dyn, Config.inputs> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<NoState>& = {}) const {
    using Space = typename B::Space;
    const auto shape = tape.x.extents().to_array();
    require_extents("linear", "dy", dy, {shape[0], shape[1], outputs_});
    require_extents_if_given("linear", "dx", dx, shape);
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.weight,
                                                  .x = as_rows(tape.x),
                                                  .dy = as_rows(dy),
                                                  .dx = as_rows(dx),
                                                  .dweight = gradients.weight,
                                                  .dbias = gradients.bias});
  }

  template <class T = float, class B>
  NoState initial_state(const Context<B>&, Index) const {
    return {};
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>&) const {
    Parameters<T, typename B::Space> p;
    p.weight.reset({outputs_, inputs_});
    if (has_bias_) p.bias.reset({outputs_});
    return p;
  }

  /// Uniform in ±1/√inputs.
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    const double bound = 1 / std::sqrt(static_cast<double>(inputs_));
    if (seed.draws_weights())
      seed.fork("weight").fill_uniform(p.weight.data(), p.weight.size(), -bound, bound);
    if (p.bias) seed.fork("bias").fill_uniform(p.bias.data(), p.bias.size(), -bound, bound);
  }

  static void for_each_parameter(auto&& visit, auto& p, auto&... more) {
    visit(ParameterSpec{.name = "weight",
                        .role = ParameterRole::weight,
                        .gradient_by_products = true,
                        .transposed_in_files = Config.transposed_in_files},
          p.weight, more.weight...);
    if constexpr (Config.bias)
      if (p.bias)
        visit(ParameterSpec{.name = "bias", .role = ParameterRole::bias}, p.bias, more.bias...);
  }
  static void for_each_state(auto&&, auto&...) {}

 private:
  Index inputs_;
  Index outputs_;
  bool has_bias_;
};

}  // namespace ssm
