// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/linear.hpp"
#include "ssm/layer/retention_heads.hpp"

namespace ssm {

struct RetentionConfig {
  Index channels = dyn;
  Index value_dim = dyn;
  Index heads = dyn;
  bool head_weight = false;  // a learned weight behind the head norm
};
/// The sizes and choices of a Retention that are given at run time.
struct RetentionOptions {
  Index channels = dyn;
  Index value_dim = dyn;
  Index heads = dyn;
  RetentionForm form = RetentionForm::recurrent;
  ActivationKind gate = ActivationKind::silu;
  double eps = 1e-6;
};

/// Multi-scale retention: linear attention whose memory fades at another rate in every head, and
/// positions as rotations.
///   q, k = rotate(Wq·x), rotate(Wk·x)/√(channels/heads)
///   S_n = γ_h·S_{n−1} + k_n ⊗ v_n      o_n = q_n·S_n
///   y = out_proj(act(g) ⊙ RMS(o)),  v = Wv·x,  g = Wg·x
/// x, y     [B, L, channels]   y must not overlap x
/// states   retention [B, heads, channels/heads, value_dim/heads], position [B]: of each sequence's
///          next row
/// Cost    2·B·L·channels·(2·channels + 3·value_dim) operations for the projections, and
///         DecayedAttention
/// Throws  ShapeError; ArgumentError  if heads do not divide the widths
/// Source  Sun et al. 2023 (RetNet) §2; parameter names of torchscale's MultiScaleRetention
template <RetentionConfig Config>
class Retention : public LayerVerbs<Retention<Config>> {
  static constexpr Index width = Config.channels;
  static constexpr Index values = Config.value_dim;
  using Keys = Linear<LinearConfig{.inputs = width, .outputs = width, .bias = false}>;
  using Values = Linear<LinearConfig{.inputs = width, .outputs = values, .bias = false}>;
  using Readout = Linear<LinearConfig{.inputs = values, .outputs = width, .bias = false}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;
  static constexpr bool adds_residual = true;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Retention, T, Space> {
    typename Keys::template Parameters<T, Space> q_proj;
    typename Keys::template Parameters<T, Space> k_proj;
    typename Values::template Parameters<T, Space> v_proj;
    typename Values::template Parameters<T, Space> g_proj;
    DynamicTensor<Wide<T>, 1, Space> group_norm;  // empty unless head_weight
    typename Readout::template Parameters<T, Space> out_proj;
  };
  template <class T, class Space = HostSpace>
  using State = RetentionState<T, Space>;
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<Retention, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> q;  // rotated
    DynamicTensor<T, 3, Space> k;  // rotated and scaled
    DynamicTensor<T, 3, Space> v;
    DynamicTensor<T, 3, Space> g;
    DynamicTensor<T, 3, Space> mixed;  // what out_proj reads
    RetentionHeads::Tape<T, Space> heads;
  };

  /// All sizes in the type.
  Retention() requires(width != dyn && values != dyn && Config.heads != dyn)
      : Retention(RetentionOptions{}) {}
  /// Sizes that are `dyn` in the type, the form, the gate and eps come from here.
  /// Throws  ArgumentError  for what contradicts the type, and if heads do not divide the widths
  explicit Retention(RetentionOptions options)
      : channels_(resolve_extent(width, options.channels, "channels")),
        heads_({.heads = resolve_extent(Config.heads, options.heads, "heads"),
                .key_dim = channels_,
                .value_dim = resolve_extent(values, options.value_dim, "value_dim"),
                .form = options.form,
                .gate = options.gate,
                .eps = options.eps}),
        keys_({.inputs = channels_, .outputs = channels_}),
        values_({.inputs = channels_, .outputs = heads_.config().value_dim}),
        readout_({.inputs = heads_.config().value_dim, .outputs = channels_}) {}

  Index channels() const { return channels_; }
  const RetentionHeads& heads() const { return heads_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && RunsOn<RetentionHeads, B, T>);

  template <class B, class T>
    requires RunsOn<Retention, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {},
                Input<B, T, dyn, dyn, width> residual = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const DynamicExtents<3> key_shape = x.extents();
    const DynamicExtents<3> value_shape(x.extent(0), x.extent(1), heads_.config().value_dim);
    const auto q = buffers.at(&Kept::q, key_shape);
    const auto k = buffers.at(&Kept::k, key_shape);
    const auto v = buffers.at(&Kept::v, value_shape);
    const auto g = buffers.at(&Kept::g, value_shape);
    const auto mixed = buffers.at(&Kept::mixed, value_shape);
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
    }
    const Matmul<T, Space> projections[] = {
        linear_product<T, Space>(p.q_proj, x, q), linear_product<T, Space>(p.k_proj, x, k),
        linear_product<T, Space>(p.v_proj, x, v), linear_product<T, Space>(p.g_proj, x, g)};
    matmul<B, T>(ctx, std::span<const Matmul<T, Space>>(projections));
    heads_.evaluate(ctx,
                    RetentionHeads::Operands<T, Space>{.weight = p.group_norm,
                                                       .q = q,
                                                       .k = k,
                                                       .k_scale = k_scale(),
                                                       .v = v,
                                                       .gate = g,
                                                       .mixed = mixed},
                    buffers.part(&Kept::heads), options);
    readout_.evaluate(ctx, p.out_proj, mixed, y, nullptr, {}, residual);
  }

  template <class B, class T>
    requires RunsOn<Retention, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    require_extents("retention", "dy", dy, tape.x.extents().to_array());
    const auto dq = frame.template tensor<T>(tape.q.extents());
    const auto dk = frame.template tensor<T>(tape.q.extents());
    const auto dv = frame.template tensor<T>(tape.v.extents());
    const auto dg = frame.template tensor<T>(tape.v.extents());
    const auto dmixed = frame.template tensor<T>(tape.v.extents());
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.out_proj.weight,
                                                  .x = as_rows(tape.mixed),
                                                  .dy = as_rows(dy),
                                                  .dx = as_rows(dmixed),
                                                  .dweight = gradients.out_proj.weight});
    heads_.differentiate(ctx,
                         RetentionHeads::Operands<T, Space, const T>{.weight = p.group_norm,
                                                                     .q = tape.q,
                                                                     .k = tape.k,
                                                                     .k_scale = k_scale(),
                                                                     .v = tape.v,
                                                                     .gate = tape.g},
                         tape.heads, tape.options(), dmixed,
                         RetentionHeads::Gradients<T, Space>{
                             .q = dq, .k = dk, .v = dv, .gate = dg, .weight = gradients.group_norm},
                         ends);
    const auto project = [&](const auto& linear, auto& gradient, const View<T, 3, Space>& d,
                             WriteMode dx_mode) {
      linear_backward(ctx, LinearBackward<T, Space>{.weight = linear.weight,
                                                    .x = as_rows(tape.x),
                                                    .dy = as_rows(d),
                                                    .accumulate = dx_mode == WriteMode::accumulate,
                                                    .dx = as_rows(dx),
                                                    .dweight = gradient.weight});
    };
    project(p.q_proj, gradients.q_proj, dq, WriteMode::overwrite);
    project(p.k_proj, gradients.k_proj, dk, WriteMode::accumulate);
    project(p.v_proj, gradients.v_proj, dv, WriteMode::accumulate);
    project(p.g_proj, gradients.g_proj, dg, WriteMode::accumulate);
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    return heads_.template initial_state<T, typename B::Space>(sequences);
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.q_proj = keys_.template zero_parameters<T>(ctx);
    p.k_proj = keys_.template zero_parameters<T>(ctx);
    p.v_proj = values_.template zero_parameters<T>(ctx);
    p.g_proj = values_.template zero_parameters<T>(ctx);
    if (Config.head_weight) p.group_norm.reset({heads_.head_value_dim()});
    p.out_proj = readout_.template zero_parameters<T>(ctx);
    return p;
  }

  /// Xavier-uniform with gain 2^−2.5, out_proj with ½.
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    const auto fill_uniform = [&](auto& weight, const char* name, double gain) {
      const double bound =
          gain * std::sqrt(6 / static_cast<double>(weight.extent(0) + weight.extent(1)));
      seed.fork(name).fill_uniform(weight.data(), weight.size(), -bound, bound);
    };
    const double small = std::exp2(-2.5);
    fill_uniform(p.q_proj.weight, "q_proj", small);
    fill_uniform(p.k_proj.weight, "k_proj", small);
    fill_uniform(p.v_proj.weight, "v_proj", small);
    fill_uniform(p.g_proj.weight, "g_proj", small);
    fill_uniform(p.out_proj.weight, "out_proj", 0.5);
    for (Index i = 0; i < p.group_norm.size(); ++i) p.group_norm(i) = Wide<T>{1};
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Keys::for_each_parameter(scoped("q_proj", visit), p.q_proj...);
    Keys::for_each_parameter(scoped("k_proj", visit), p.k_proj...);
    Values::for_each_parameter(scoped("v_proj", visit), p.v_proj...);
    Values::for_each_parameter(scoped("g_proj", visit), p.g_proj...);
    if constexpr (Config.head_weight)
      visit(ParameterSpec{.name = "group_norm.weight", .role = ParameterRole::norm},
            p.group_norm...);
    Readout::for_each_parameter(scoped("out_proj", visit), p.out_proj...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("retention"), state.retention...);
    visit(std::string("position"), state.position...);
  }

 private:
  double k_scale() const { return 1 / std::sqrt(static_cast<double>(heads_.head_key_dim())); }

  Index channels_;
  RetentionHeads heads_;
  Keys keys_;
  Values values_;
  Readout readout_;
};

}  // namespace ssm
