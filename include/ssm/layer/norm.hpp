// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/layer.hpp"
#include "ssm/op/normalization.hpp"

namespace ssm {

struct NormConfig {
  NormalizationKind kind = NormalizationKind::layer;
  Index channels = dyn;
  bool weight = true;
  bool bias = kind == NormalizationKind::layer;  // which is the only one to have any
};
/// The sizes and choices of a Norm that are given at run time.
struct NormOptions {
  Index channels = dyn;
  double eps = 1e-5;
};

/// Normalizes the channels of every position, with a learned scale and offset.
///   layer   y = (x − mean) / √(variance + eps) · weight + bias
///   rms     y = x / √(mean(x²) + eps) · weight
/// x, y           [B, L, channels]   y must not overlap x
/// weight, bias   [channels]
/// Cost    O(B·L·channels)
/// Source  Ba et al. 2016; Zhang & Sennrich 2019
template <NormConfig Config>
class Norm : public LayerVerbs<Norm<Config>> {
  static constexpr Index width = Config.channels;
  static constexpr bool has_bias = Config.bias;
  static_assert(!has_bias || Config.kind == NormalizationKind::layer,
                "RMS normalization has no bias");

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;
  static constexpr bool sums_residual = true;  // differentiate takes residual_sum

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Norm, T, Space> {
    Tensor<Wide<T>, Extents<width>, Space> weight;
    Tensor<Wide<T>, Extents<width>, Space> bias;
  };
  template <class, class = HostSpace>
  using State = NoState;
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<Wide<T>, 1, Space> mean;
    DynamicTensor<Wide<T>, 1, Space> scale;
  };

  /// All sizes in the type.
  Norm() requires(width != dyn) : Norm(NormOptions{}) {}
  /// Sizes that are `dyn` in the type, and eps, come from here.
  /// Throws  ArgumentError  for what contradicts the type
  explicit Norm(NormOptions options)
      : channels_(resolve_extent(width, options.channels, "channels")), eps_(options.eps) {}

  template <class B, class T>
  static constexpr bool runs_on = HasNormalization<B, T>;

  Index channels() const { return channels_; }

  template <class B, class T>
    requires RunsOn<Norm, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<NoState>& = {}) const {
    using Space = typename B::Space;
    require_extents("norm", "y", y, {x.extent(0), x.extent(1), channels_});
    auto a = call<T, Space>(p, x, y);
    if (tape != nullptr) tape->x = x;
    const OptionalTape saved(tape);
    if (Config.kind == NormalizationKind::layer)
      a.mean = saved.kept(&Tape<T, Space>::mean, a.x.extent(0));
    a.scale = saved.kept(&Tape<T, Space>::scale, a.x.extent(0));
    normalization(ctx, a);
  }

  /// The call that evaluates it, for a layer that TakesNorm.
  template <class T, class Space>
  Normalization<T, Space> call(const Parameters<T, Space>& p, View<const T, 3, Space> x,
                               View<T, 3, Space> y) const {
    auto a = operands<T, Space>(p, x);
    a.y = as_rows(y);
    return a;
  }

  /// dx is written as `dx_mode` says; `residual` is added to it, and summed over all positions in
  /// residual_sum, [channels].
  template <class B, class T>
    requires RunsOn<Norm, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<NoState>& = {},
                     WriteMode dx_mode = WriteMode::overwrite,
                     Input<B, T, dyn, dyn, width> residual = {},
                     Output<B, Wide<T>, width> residual_sum = {}) const {
    using Space = typename B::Space;
    require_extents("norm", "dy", dy, tape.x.extents().to_array());
    require_extents("norm", "dx", dx, tape.x.extents().to_array());
    normalization_backward(
        ctx, NormalizationBackward<T, Space>{.forward = operands<T, Space>(p, tape.x),
                                             .mean = tape.mean,
                                             .scale = tape.scale,
                                             .dy = as_rows(dy),
                                             .accumulate = dx_mode == WriteMode::accumulate,
                                             .residual = as_rows(residual),
                                             .residual_sum = residual_sum,
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
    if (Config.weight) p.weight.reset({channels_});
    if (has_bias) p.bias.reset({channels_});
    return p;
  }

  /// Weight one, bias zero.
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer&) const {
    for (Index d = 0; d < p.weight.size(); ++d) p.weight(d) = Wide<T>{1};
    for (Index d = 0; d < p.bias.size(); ++d) p.bias(d) = Wide<T>{0};
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    const auto spec = [](const char* name) {
      return ParameterSpec{.name = name, .role = ParameterRole::norm};
    };
    if constexpr (Config.weight) visit(spec("weight"), p.weight...);
    if constexpr (has_bias) visit(spec("bias"), p.bias...);
  }
  static void for_each_state(auto&&, auto&...) {}

 private:
  template <class T, class Space>
  Normalization<T, Space> operands(const Parameters<T, Space>& p, View<const T, 3, Space> x) const {
    return {.kind = Config.kind, .eps = eps_, .x = as_rows(x), .weight = p.weight, .bias = p.bias};
  }

  Index channels_;
  double eps_;
};

/// Normalizes by mean and variance, with a learned scale and offset.
template <Index Channels = dyn>
using LayerNorm = Norm<NormConfig{.kind = NormalizationKind::layer, .channels = Channels}>;
/// Normalizes by the root mean square, with a learned scale.
template <Index Channels = dyn>
using RmsNorm = Norm<NormConfig{.kind = NormalizationKind::rms, .channels = Channels}>;

}  // namespace ssm
