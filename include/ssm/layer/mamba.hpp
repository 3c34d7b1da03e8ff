// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/layer/diagonal_initialization.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/mamba_sizes.hpp"
#include "ssm/op/diagonal_parameters.hpp"
#include "ssm/op/rearrange.hpp"
#include "ssm/op/selective_scan.hpp"
#include "ssm/op/short_convolution.hpp"

namespace ssm {

/// The Mamba block: a gated selective SSM behind a short convolution.
///   (x′, z) = in_proj(x)         u = silu(conv1d(x′))
///   (δ, B, C) = x_proj(u)        Δ = softplus(dt_proj(δ))
///   y = out_proj(selective_scan(u, Δ, A = −exp(A_log), B, C, D) ⊙ silu(z))
/// x, y     [B, L, channels]   y must not overlap x
/// states   conv [B, inner, W], the last W inputs, oldest first; ssm [B, inner, N]
/// Cost    2·B·L·inner·(3·channels + 2·R + 2·N) operations and O(B·L·inner·N)
/// Throws  ShapeError
/// Source  Gu and Dao 2023 (Mamba) §3.4; parameter names and initialization of state-spaces/mamba
template <MambaConfig Config>
class Mamba : public LayerVerbs<Mamba<Config>> {
  using Sizes = MambaSizes<Config>;
  static constexpr Index width = Config.channels;
  static constexpr Index inner_width = Sizes::inner;
  static constexpr Index rank_width = Sizes::dt_rank;
  static constexpr Index taps = Config.conv_width;
  static constexpr Index states = Config.state;
  using InProjection = Linear<LinearConfig{
      .inputs = width, .outputs = inner_width == dyn ? dyn : 2 * inner_width, .bias = Config.bias}>;
  using XProjection = Linear<LinearConfig{
      .inputs = inner_width,
      .outputs = rank_width == dyn || states == dyn ? dyn : rank_width + 2 * states,
      .bias = false}>;
  using DtProjection = Linear<LinearConfig{.inputs = rank_width, .outputs = inner_width}>;
  using OutProjection =
      Linear<LinearConfig{.inputs = inner_width, .outputs = width, .bias = Config.bias}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;
  static constexpr bool adds_residual = true;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Mamba, T, Space> {
    typename InProjection::template Parameters<T, Space> in_proj;  // rows: x′, then z
    Tensor<Wide<T>, Extents<inner_width, 1, taps>, Space> conv_weight;
    Tensor<Wide<T>, Extents<inner_width>, Space> conv_bias;      // empty without bias
    typename XProjection::template Parameters<T, Space> x_proj;  // rows: δ, B, C
    typename DtProjection::template Parameters<T, Space> dt_proj;
    Tensor<Wide<T>, Extents<inner_width, states>, Space> A_log;  // A = −exp(A_log)
    Tensor<Wide<T>, Extents<inner_width>, Space> D;
    typename OutProjection::template Parameters<T, Space> out_proj;
  };
  template <class T, class Space = HostSpace>
  struct State {
    Tensor<Wide<T>, Extents<dyn, inner_width, taps>, Space> conv;
    Tensor<Wide<T>, Extents<dyn, inner_width, states>, Space> ssm;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<Mamba, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> xz, u, projected, dt, mixed;
  };
  /// The intermediate results of one call. A layer that extends this one may put some elsewhere.
  template <class T, class Space>
  struct Parts {
    View<T, 3, Space> xz{};         // [B, L, 2·inner]
    View<T, 3, Space> u{};          // [B, L, inner]
    View<T, 3, Space> projected{};  // [B, L, R + 2·N]
    View<T, 3, Space> dt{};         // [B, L, inner]   before bias and softplus
    View<T, 3, Space> mixed{};      // [B, L, inner]   what out_proj reads
  };

  /// All sizes in the type.
  Mamba() requires(width != dyn && inner_width != dyn && rank_width != dyn && taps != dyn &&
                   states != dyn)
      : Mamba(MambaOptions{}) {}
  /// Sizes that are `dyn` in the type, or follow from such, come from here, and so does the
  /// initialization.
  /// Throws  ArgumentError  for what contradicts the type or itself, and steps that are no range
  explicit Mamba(MambaOptions options)
      : state_(resolve_extent(states, options.state, MambaConfig{}.state, "state")),
        taps_(resolve_extent(taps, options.conv_width, MambaConfig{}.conv_width, "conv_width")),
        rank_(Sizes::dt_rank_at(options)),
        in_({.inputs = resolve_extent(width, options.channels, "channels"),
             .outputs = 2 * Sizes::inner_at(options),
             .bias = resolve_presence(Config.bias, options.bias, "bias")}),
        x_({.inputs = inner(), .outputs = rank_ + 2 * state_}),
        dt_({.inputs = rank_, .outputs = inner()}),
        out_({.inputs = inner(), .outputs = channels(), .bias = options.bias}),
        has_conv_bias_(resolve_presence(Config.conv_bias, options.conv_bias, "conv_bias")),
        dt_min_(options.dt_min),
        dt_max_(options.dt_max),
        dt_floor_(options.dt_floor) {
    require_step_range("Mamba", dt_min_, dt_max_);
  }

  Index channels() const { return in_.inputs(); }
  Index inner() const { return in_.outputs() / 2; }
  Index state() const { return state_; }
  Index conv_width() const { return taps_; }
  Index dt_rank() const { return rank_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && HasShortConvolution<B, T> &&
                                   HasSelectiveScan<B, T> && HasDiagonalParameters<B, T> &&
                                   HasRearrange<B, T>);

  template <class B, class T>
    requires RunsOn<Mamba, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {},
                Input<B, T, dyn, dyn, width> residual = {}) const {
    auto frame = ctx.workspace().frame();
    evaluate_with<B, T>(
        ctx, p, x, y, tape, options,
        buffers<T, typename B::Space>(frame, tape, x.extent(0), x.extent(1)),
        [&](const auto& scan) { selective_scan(ctx, scan); }, residual);
  }

  template <class B, class T>
    requires RunsOn<Mamba, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    differentiate_with<B, T>(ctx, p, tape, dy, dx, gradients, ends, parts_of(tape),
                             [&](const auto& g) { selective_scan_backward(ctx, g); });
  }

  /// Where the intermediate results of a call go: to the tape, or to workspace; u elsewhere, if
  /// that is given.
  template <class T, class Space, class Frame>
  Parts<T, Space> buffers(Frame& frame, Tape<T, Space>* tape, Index batch, Index length,
                          View<T, 3, Space> u = {}) const {
    using Kept = Tape<T, Space>;
    const Buffers memory(frame, tape);
    const DynamicExtents<3> shape(batch, length, inner());
    return {.xz = memory.at(&Kept::xz, batch, length, 2 * inner()),
            .u = u ? u : memory.at(&Kept::u, shape),
            .projected = memory.at(&Kept::projected, batch, length, rank_ + 2 * state_),
            .dt = memory.at(&Kept::dt, shape),
            .mixed = memory.at(&Kept::mixed, shape)};
  }
  template <class T, class Space>
  static Parts<const T, Space> parts_of(const Tape<T, Space>& tape) {
    return {.xz = tape.xz,
            .u = tape.u,
            .projected = tape.projected,
            .dt = tape.dt,
            .mixed = tape.mixed};
  }

  /// `evaluate` with the scan in the caller's hands: run(SelectiveScan) fills its y.
  template <class B, class T, class Run>
  void evaluate_with(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                     NonDeduced<Tape<T, typename B::Space>>* tape,
                     const SequenceOptions<State<T, typename B::Space>>& options,
                     const Parts<T, typename B::Space>& parts, Run&& run,
                     Input<B, T, dyn, dyn, width> residual = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
    }
    in_.evaluate(ctx, p.in_proj, x, parts.xz, nullptr);
    auto conv = convolution<T, Space>(p, parts.xz, options);
    conv.y = parts.u;
    conv.final_state = options.final(&State<T, Space>::conv);
    short_convolution(ctx, conv);
    x_.evaluate(ctx, p.x_proj, parts.u, parts.projected, nullptr);
    matmul(ctx,
           by_weight<T, Space>(p.dt_proj.weight, {.a = as_rows(part(parts.projected, 0, rank_)),
                                                  .c = as_rows(parts.dt)}));
    auto scan = operands<B, T>(ctx, frame, p, parts, options);
    scan.y = parts.mixed;
    scan.final_state = options.final(&State<T, Space>::ssm);
    run(scan);
    out_.evaluate(ctx, p.out_proj, parts.mixed, y, nullptr, {}, residual);
  }

  /// `backward` with the scan in the caller's hands: run(SelectiveScanBackward) fills every
  /// gradient it is given.
  template <class B, class T, class Run>
  void differentiate_with(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                          const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                          Output<B, T, dyn, dyn, width> dx,
                          Parameters<Wide<T>, typename B::Space>& gradients,
                          const SequenceGradients<State<T, typename B::Space>>& ends,
                          const Parts<const T, typename B::Space>& parts, Run&& run) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    auto dmixed = frame.template tensor<T>(parts.mixed.extents());
    auto dxz = frame.template tensor<T>(parts.xz.extents());
    auto du = frame.template tensor<T>(parts.u.extents());
    auto dprojected = frame.template tensor<T>(parts.projected.extents());
    auto ddt = frame.template tensor<T>(parts.dt.extents());
    auto dA = frame.template tensor<Wide<T>>(inner(), state_);
    fill(ctx, Fill<Wide<T>, Space>{.y = dA.flatten()});
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.out_proj.weight,
                                                  .x = as_rows(parts.mixed),
                                                  .dy = as_rows(dy),
                                                  .dx = as_rows(dmixed),
                                                  .dweight = gradients.out_proj.weight,
                                                  .dbias = gradients.out_proj.bias});
    SelectiveScanBackward<T, Space> g{
        .forward = operands<B, T>(ctx, frame, p, parts, tape.options()),
        .dy = dmixed,
        .dfinal_state = ends.final(&State<T, Space>::ssm),
        .du = du,
        .ddt = ddt,
        .dA = dA,
        .dB = part(dprojected, rank_, rank_ + state_),
        .dC = part(dprojected, rank_ + state_, rank_ + 2 * state_),
        .dskip = gradients.D,
        .ddt_bias = gradients.dt_proj.bias,
        .dgate = part(dxz, inner(), 2 * inner()),
        .dinitial_state = ends.initial(&State<T, Space>::ssm)};
    run(g);
    diagonal_parameters_backward(ctx, DiagonalParametersBackward<Wide<T>, Space>{
                                          .A = g.forward.A.reshape(inner(), state_, 1),
                                          .dA = dA.reshape(inner(), state_, 1),
                                          .dinv_A_real = gradients.A_log});
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.dt_proj.weight,
                                                  .x = as_rows(part(parts.projected, 0, rank_)),
                                                  .dy = as_rows(ddt),
                                                  .dx = as_rows(part(dprojected, 0, rank_)),
                                                  .dweight = gradients.dt_proj.weight});
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.x_proj.weight,
                                                  .x = as_rows(parts.u),
                                                  .dy = as_rows(dprojected),
                                                  .accumulate = true,
                                                  .dx = as_rows(du),
                                                  .dweight = gradients.x_proj.weight});
    convolution_backward<B, T>(ctx, p, tape, parts, du, dxz, gradients, ends);
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.in_proj.weight,
                                                  .x = as_rows(tape.x),
                                                  .dy = as_rows(dxz),
                                                  .dx = as_rows(dx),
                                                  .dweight = gradients.in_proj.weight,
                                                  .dbias = gradients.in_proj.bias});
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    State<T, typename B::Space> state;
    state.conv.reset({sequences, inner(), taps_});
    state.ssm.reset({sequences, inner(), state_});
    return state;
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.in_proj = in_.template zero_parameters<T>(ctx);
    p.conv_weight.reset({inner(), Index{1}, taps_});
    if (has_conv_bias_) p.conv_bias.reset({inner()});
    p.x_proj = x_.template zero_parameters<T>(ctx);
    p.dt_proj = dt_.template zero_parameters<T>(ctx);
    p.A_log.reset({inner(), state_});
    p.D.reset({inner()});
    p.out_proj = out_.template zero_parameters<T>(ctx);
    return p;
  }

  /// A = −1 … −N in every channel, D = 1, and a bias of dt_proj whose softplus is log-uniform in
  /// dt_min … dt_max.
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    in_.fill_parameters(p.in_proj, seed.fork("in_proj"));
    x_.fill_parameters(p.x_proj, seed.fork("x_proj"));
    dt_.fill_parameters(p.dt_proj, seed.fork("dt_proj"));
    out_.fill_parameters(p.out_proj, seed.fork("out_proj"));
    const Random weight(seed.fork("conv1d.weight"));
    const Random bias(seed.fork("conv1d.bias"));
    const Random step(seed.fork("dt"));
    const double bound = 1 / std::sqrt(static_cast<double>(taps_));
    for (Index d = 0; d < inner(); ++d) {
      const auto channel = static_cast<std::uint64_t>(d);
      for (Index w = 0; w < taps_; ++w)
        p.conv_weight(d, 0, w) = static_cast<Wide<T>>(
            weight.uniform(static_cast<std::uint64_t>(d * taps_ + w), -bound, bound));
      if (p.conv_bias) p.conv_bias(d) = static_cast<Wide<T>>(bias.uniform(channel, -bound, bound));
      const double dt = std::max(
          std::exp(step.uniform(channel, std::log(dt_min_), std::log(dt_max_))), dt_floor_);
      p.dt_proj.bias(d) =
          static_cast<Wide<T>>(dt + std::log(-std::expm1(-dt)));  // softplus gives dt
      for (Index n = 0; n < state_; ++n)
        p.A_log(d, n) = static_cast<Wide<T>>(std::log(1.0 + static_cast<double>(n)));
      p.D(d) = Wide<T>{1};
    }
  }

  static void for_each_parameter(auto&& visit, auto& p, auto&... more) {
    const auto undecayed = [](const char* name) {
      return ParameterSpec{.name = name, .role = ParameterRole::ssm, .weight_decay = false};
    };
    InProjection::for_each_parameter(scoped("in_proj", visit), p.in_proj, more.in_proj...);
    visit(ParameterSpec{.name = "conv1d.weight", .role = ParameterRole::ssm}, p.conv_weight,
          more.conv_weight...);
    if (p.conv_bias)
      visit(ParameterSpec{.name = "conv1d.bias", .role = ParameterRole::bias}, p.conv_bias,
            more.conv_bias...);
    XProjection::for_each_parameter(scoped("x_proj", visit), p.x_proj, more.x_proj...);
    visit(undecayed("dt_proj.weight"), p.dt_proj.weight, more.dt_proj.weight...);
    visit(undecayed("dt_proj.bias"), p.dt_proj.bias, more.dt_proj.bias...);
    visit(undecayed("A_log"), p.A_log, more.A_log...);
    visit(undecayed("D"), p.D, more.D...);
    OutProjection::for_each_parameter(scoped("out_proj", visit), p.out_proj, more.out_proj...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("conv"), state.conv...);
    visit(std::string("ssm"), state.ssm...);
  }

 private:
  /// Some channels of a sequence.
  template <class X, class Space>
  static View<X, 3, Space> part(const View<X, 3, Space>& x, Index begin, Index end) {
    return x.slice(2, begin, end);
  }

  template <class T, class Space>
  ShortConvolution<T, Space> convolution(const Parameters<T, Space>& p, View<const T, 3, Space> xz,
                                         const SequenceOptions<State<T, Space>>& options) const {
    return {.weight = p.conv_weight.reshape(inner(), taps_),
            .bias = p.conv_bias,
            .activation = ActivationKind::silu,
            .x = part(xz, 0, inner()),
            .segments = options.segments,
            .initial_state = options.initial(&State<T, Space>::conv)};
  }

  /// The scan's operands, with A in workspace.
  template <class B, class T, class Frame, class X>
  SelectiveScan<T, typename B::Space> operands(
      Context<B>& ctx, Frame& frame, const Parameters<T, typename B::Space>& p,
      const Parts<X, typename B::Space>& parts,
      const SequenceOptions<State<T, typename B::Space>>& options) const {
    using Space = typename B::Space;
    auto A = frame.template tensor<Wide<T>>(inner(), state_, 1);
    diagonal_parameters(ctx, DiagonalParameters<Wide<T>, Space>{.inv_A_real = p.A_log, .A = A});
    return {.u = parts.u,
            .dt = parts.dt,
            .A = A.reshape(inner(), state_),
            .B = part(parts.projected, rank_, rank_ + state_),
            .C = part(parts.projected, rank_ + state_, rank_ + 2 * state_),
            .skip = p.D,
            .dt_bias = p.dt_proj.bias,
            .gate = part(parts.xz, inner(), 2 * inner()),
            .dt_softplus = true,
            .segments = options.segments,
            .initial_state = options.initial(&State<T, Space>::ssm)};
  }

  template <class B, class T>
  void convolution_backward(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                            const Tape<T, typename B::Space>& tape,
                            const Parts<const T, typename B::Space>& parts,
                            View<const T, 3, typename B::Space> du,
                            View<T, 3, typename B::Space> dxz,
                            Parameters<Wide<T>, typename B::Space>& gradients,
                            const SequenceGradients<State<T, typename B::Space>>& ends) const {
    using Space = typename B::Space;
    short_convolution_backward(ctx,
                               ShortConvolutionBackward<T, Space>{
                                   .forward = convolution<T, Space>(p, parts.xz, tape.options()),
                                   .dy = du,
                                   .dfinal_state = ends.final(&State<T, Space>::conv),
                                   .dx = part(dxz, 0, inner()),
                                   .dinitial_state = ends.initial(&State<T, Space>::conv),
                                   .dweight = gradients.conv_weight.reshape(inner(), taps_),
                                   .dbias = gradients.conv_bias});
  }

  Index state_;
  Index taps_;
  Index rank_;
  InProjection in_;
  XProjection x_;
  DtProjection dt_;
  OutProjection out_;
  bool has_conv_bias_;
  double dt_min_;
  double dt_max_;
  double dt_floor_;
};

}  // namespace ssm
