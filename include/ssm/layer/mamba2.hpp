// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "ssm/layer/diagonal_initialization.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/mamba_sizes.hpp"
#include "ssm/op/diagonal_parameters.hpp"
#include "ssm/op/normalization.hpp"
#include "ssm/op/rearrange.hpp"
#include "ssm/op/short_convolution.hpp"
#include "ssm/op/ssd_scan.hpp"

namespace ssm {

struct Mamba2Config {
  Index channels = dyn;
  Index inner = 0;        // channels of all heads; 0: expand · channels
  Index expand = dyn;     // where `inner` is 0; dyn: 2, or at run time
  Index head_dim = 64;    // P; H = inner / P heads
  Index groups = 1;       // G; of heads that share B and C, and parts of the norm
  Index state = 128;      // N
  Index conv_width = 4;   // W
  bool conv_bias = true;  // whether there may be one
  bool bias = false;      // of in_proj and out_proj; whether there may be one
};
/// The sizes and choices of a Mamba2 that are given at run time.
struct Mamba2Options {
  Index channels = dyn;
  Index inner = dyn;                   // left out: the type's, or expand · channels
  Index expand = dyn;                  // left out: the type's, or 2
  Index head_dim = dyn;                // left out: the type's, or 64
  Index groups = dyn;                  // left out: the type's, or 1
  Index state = dyn;                   // left out: the type's, or 128
  Index conv_width = dyn;              // left out: the type's, or 4
  std::optional<bool> conv_bias = {};  // left out: if the type allows it
  std::optional<bool> bias = {};       // likewise
  double eps = 1e-5;                   // of the norm
  double dt_limit_min = 0;             // every step is clamped to these, in seconds
  double dt_limit_max = std::numeric_limits<double>::infinity();
  double dt_min = 0.001;  // seconds; initialization only
  double dt_max = 0.1;
  double dt_floor = 1e-4;
  double A_min = 1;  // decay per second; initialization only
  double A_max = 16;
};

/// The Mamba-2 block: a gated SSM of heads with one decay rate each, behind a short convolution.
///   (z, xBC, δ) = in_proj(x)     (u, B, C) = silu(conv1d(xBC))
///   Δ = clamp(softplus(δ + dt_bias), dt_limit_min, dt_limit_max)
///   s = ssd_scan(u, Δ, A = −exp(A_log), B, C, D)
///   y = out_proj(rms_G(s ⊙ silu(z)) ⊙ norm.weight)     rms_G normalizes each of G equal parts
/// x, y     [B, L, channels]   y must not overlap x
/// states   conv [B, inner + 2·G·N, W], the last W inputs, oldest first; ssm [B, H, P, N]
/// Cost    2·B·L·channels·(3·inner + 2·G·N + H) operations, and SsdScan's
/// Throws  ShapeError
/// Source  Dao and Gu 2024 (Mamba-2) §7; parameter names and initialization of state-spaces/mamba
template <Mamba2Config Config>
class Mamba2 : public LayerVerbs<Mamba2<Config>> {
  using Sizes = MambaSizes<MambaConfig{
      .channels = Config.channels, .inner = Config.inner, .expand = Config.expand}>;
  static constexpr Index width = Config.channels;
  static constexpr Index inner_width = Sizes::inner;
  static constexpr Index head_width = Config.head_dim;
  static constexpr Index states = Config.state;
  static constexpr Index taps = Config.conv_width;
  static constexpr Index head_count =
      inner_width == dyn || head_width == dyn ? dyn : inner_width / head_width;
  static constexpr Index filtered_width =
      inner_width == dyn || Config.groups == dyn || states == dyn
          ? dyn
          : inner_width + 2 * Config.groups * states;
  static_assert(head_count == dyn || head_count * head_width == inner_width,
                "head_dim does not divide inner");
  static_assert(head_count == dyn || Config.groups == dyn || head_count % Config.groups == 0,
                "groups does not divide the number of heads");
  using InProjection =
      Linear<LinearConfig{.inputs = width,
                          .outputs = filtered_width == dyn || head_count == dyn
                                         ? dyn
                                         : inner_width + filtered_width + head_count,
                          .bias = Config.bias}>;
  using OutProjection =
      Linear<LinearConfig{.inputs = inner_width, .outputs = width, .bias = Config.bias}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;
  static constexpr bool adds_residual = true;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Mamba2, T, Space> {
    typename InProjection::template Parameters<T, Space> in_proj;  // rows: z, u, B, C, δ
    Tensor<Wide<T>, Extents<filtered_width, 1, taps>, Space> conv_weight;
    Tensor<Wide<T>, Extents<filtered_width>, Space> conv_bias;  // empty without bias
    Tensor<Wide<T>, Extents<head_count>, Space> dt_bias;
    Tensor<Wide<T>, Extents<head_count>, Space> A_log;  // A = −exp(A_log)
    Tensor<Wide<T>, Extents<head_count>, Space> D;
    Tensor<Wide<T>, Extents<inner_width>, Space> norm_weight;
    typename OutProjection::template Parameters<T, Space> out_proj;
  };
  template <class T, class Space = HostSpace>
  struct State {
    Tensor<Wide<T>, Extents<dyn, filtered_width, taps>, Space> conv;
    Tensor<Wide<T>, Extents<dyn, head_count, head_width, states>, Space> ssm;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<Mamba2, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> projected;    // [B, L, 2·inner + 2·G·N + H]   z, u, B, C, δ
    DynamicTensor<T, 3, Space> filtered;     // [B, L, inner + 2·G·N]         u, B, C
    DynamicTensor<T, 3, Space> scanned;      // [B, L, inner]                 before the gate
    DynamicTensor<T, 3, Space> mixed;        // [B, L, inner]                 what out_proj reads
    DynamicTensor<Wide<T>, 2, Space> scale;  // [G, B·L]                      of the norm
  };

  /// All sizes in the type.
  Mamba2() requires(width != dyn && filtered_width != dyn && head_count != dyn && taps != dyn)
      : Mamba2(Mamba2Options{}) {}
  /// Sizes that are `dyn` in the type, or follow from such, come from here, and so do eps, the
  /// limits of steps and the initialization.
  /// Throws  ArgumentError  for what contradicts the type or itself, heads that do not come out
  ///                        even, and ranges that are none
  explicit Mamba2(const Mamba2Options& options)
      : head_dim_(
            resolve_extent(head_width, options.head_dim, Mamba2Config{}.head_dim, "head_dim")),
        groups_(resolve_extent(Config.groups, options.groups, Mamba2Config{}.groups, "groups")),
        state_(resolve_extent(states, options.state, Mamba2Config{}.state, "state")),
        taps_(resolve_extent(taps, options.conv_width, Mamba2Config{}.conv_width, "conv_width")),
        out_({.inputs = Sizes::inner_at(
                  {.channels = options.channels, .inner = options.inner, .expand = options.expand}),
              .outputs = resolve_extent(width, options.channels, "channels"),
              .bias = resolve_presence(Config.bias, options.bias, "bias")}),
        in_({.inputs = channels(),
             .outputs = inner() + filtered() + heads(),
             .bias = options.bias}),
        has_conv_bias_(resolve_presence(Config.conv_bias, options.conv_bias, "conv_bias")),
        eps_(options.eps),
        dt_limit_min_(options.dt_limit_min),
        dt_limit_max_(options.dt_limit_max),
        dt_min_(options.dt_min),
        dt_max_(options.dt_max),
        dt_floor_(options.dt_floor),
        A_min_(options.A_min),
        A_max_(options.A_max) {
    require_step_range("Mamba2", dt_min_, dt_max_);
    require_divides("head_dim", head_dim_, inner(), "channels inside");
    require_divides("groups", groups_, heads(), "heads");
    if (!(dt_limit_min_ >= 0 && dt_limit_min_ <= dt_limit_max_))
      throw ArgumentError(
          message({"Mamba2: dt_limit_min ", dt_limit_min_, " and dt_limit_max ", dt_limit_max_,
                   " must be a range of numbers that are not negative"}));
    if (!(A_min_ > 0 && A_min_ <= A_max_ && std::isfinite(A_max_)))
      throw ArgumentError(message({"Mamba2: A_min ", A_min_, " and A_max ", A_max_,
                                   " must be a range of positive numbers"}));
  }

  Index channels() const { return out_.outputs(); }
  Index inner() const { return out_.inputs(); }
  Index heads() const { return inner() / head_dim_; }
  Index head_dim() const { return head_dim_; }
  Index groups() const { return groups_; }
  Index state() const { return state_; }
  Index conv_width() const { return taps_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && HasShortConvolution<B, T> &&
                                   HasSsdScan<B, T> && HasDiagonalParameters<B, T> &&
                                   HasActivation<B, T> && HasNormalization<B, T> &&
                                   HasRearrange<B, T>);

  template <class B, class T>
    requires RunsOn<Mamba2, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {},
                Input<B, T, dyn, dyn, width> residual = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const Index batch = x.extent(0), length = x.extent(1);
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
    }
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const auto projected = buffers.at(&Kept::projected, batch, length, in_.outputs());
    const auto filtered_now = buffers.at(&Kept::filtered, batch, length, filtered());
    const auto mixed = buffers.at(&Kept::mixed, batch, length, inner());
    const auto scanned = tape ? buffers.kept(&Kept::scanned, batch, length, inner()) : mixed;
    const auto scale = buffers.kept(&Kept::scale, groups_, batch * length);

    in_.evaluate(ctx, p.in_proj, x, projected, nullptr);
    auto conv = convolution<T, Space>(p, projected, options);
    conv.y = filtered_now;
    conv.final_state = options.final(&State<T, Space>::conv);
    auto scan = operands<B, T>(ctx, frame, p, projected, filtered_now, options);
    scan.y = by_head(scanned, heads(), head_dim_);
    scan.final_state = options.final(&State<T, Space>::ssm);
    short_convolution(ctx, conv);
    ssd_scan(ctx, scan);
    auto act = gate<T, Space>(projected, scanned);
    act.y = as_rows(mixed);
    activation(ctx, act);
    for (Index g = 0; g < groups_; ++g) {
      auto norm = group_norm<T, Space>(p, mixed, g);  // in place: `differentiate` makes x again
      norm.y = group(as_rows(mixed), g);
      if (scale) norm.scale = scale.select(0, g);
      normalization(ctx, norm);
    }
    out_.evaluate(ctx, p.out_proj, mixed, y, nullptr, {}, residual);
  }

  template <class B, class T>
    requires RunsOn<Mamba2, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    auto dprojected = frame.template tensor<T>(tape.projected.extents());
    auto dfiltered = frame.template tensor<T>(tape.filtered.extents());
    auto gated = frame.template tensor<T>(tape.mixed.extents());
    auto dgated = frame.template tensor<T>(tape.mixed.extents());
    auto dmixed = frame.template tensor<T>(tape.mixed.extents());
    auto dA = frame.template tensor<Wide<T>>(heads(), 1, 1);
    fill(ctx, Fill<Wide<T>, Space>{.y = dA.flatten()});

    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.out_proj.weight,
                                                  .x = as_rows(tape.mixed),
                                                  .dy = as_rows(dy),
                                                  .dx = as_rows(dmixed),
                                                  .dweight = gradients.out_proj.weight,
                                                  .dbias = gradients.out_proj.bias});
    auto act = gate<T, Space>(tape.projected, tape.scanned);
    act.y = as_rows(gated);
    activation(ctx, act);
    for (Index g = 0; g < groups_; ++g)
      normalization_backward(
          ctx, NormalizationBackward<T, Space>{.forward = group_norm<T, Space>(p, gated, g),
                                               .scale = tape.scale.view().select(0, g),
                                               .dy = group(as_rows(dmixed), g),
                                               .dx = group(as_rows(dgated), g),
                                               .dweight = gradients.norm_weight.view().slice(
                                                   0, g * group_width(), (g + 1) * group_width())});
    const auto dscanned = dmixed;  // which has been read
    activation_backward(
        ctx, ActivationBackward<T, Space>{.forward = gate<T, Space>(tape.projected, tape.scanned),
                                          .dy = as_rows(dgated),
                                          .dx = as_rows(part(dprojected, 0, inner())),
                                          .dgate = as_rows(dscanned)});

    const Index shared = groups_ * state_;
    SsdScanBackward<T, Space> scan{
        .forward =
            operands<B, T>(ctx, frame, p, tape.projected.view(), tape.filtered, tape.options()),
        .dy = by_head(dscanned, heads(), head_dim_),
        .dfinal_state = ends.final(&State<T, Space>::ssm),
        .dx = by_head(part(dfiltered, 0, inner()), heads(), head_dim_),
        .ddt = steps(dprojected),
        .dA = dA.flatten(),
        .dB = by_head(part(dfiltered, inner(), inner() + shared), groups_, state_),
        .dC = by_head(part(dfiltered, inner() + shared, filtered()), groups_, state_),
        .dskip = gradients.D,
        .ddt_bias = gradients.dt_bias,
        .dinitial_state = ends.initial(&State<T, Space>::ssm)};
    ShortConvolutionBackward<T, Space> conv{
        .forward = convolution<T, Space>(p, tape.projected, tape.options()),
        .dy = dfiltered,
        .dfinal_state = ends.final(&State<T, Space>::conv),
        .dx = part(dprojected, inner(), inner() + filtered()),
        .dinitial_state = ends.initial(&State<T, Space>::conv),
        .dweight = gradients.conv_weight.reshape(filtered(), taps_),
        .dbias = gradients.conv_bias};
    ssd_scan_backward(ctx, scan);
    diagonal_parameters_backward(ctx, DiagonalParametersBackward<Wide<T>, Space>{
                                          .A = scan.forward.A.reshape(heads(), 1, 1),
                                          .dA = dA,
                                          .dinv_A_real = gradients.A_log.reshape(heads(), 1)});
    short_convolution_backward(ctx, conv);
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.in_proj.weight,
                                                  .x = as_rows(tape.x),
                                                  .dy = as_rows(dprojected),
                                                  .dx = as_rows(dx),
                                                  .dweight = gradients.in_proj.weight,
                                                  .dbias = gradients.in_proj.bias});
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    State<T, typename B::Space> state;
    state.conv.reset({sequences, filtered(), taps_});
    state.ssm.reset({sequences, heads(), head_dim_, state_});
    return state;
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.in_proj = in_.template zero_parameters<T>(ctx);
    p.conv_weight.reset({filtered(), Index{1}, taps_});
    if (has_conv_bias_) p.conv_bias.reset({filtered()});
    p.dt_bias.reset({heads()});
    p.A_log.reset({heads()});
    p.D.reset({heads()});
    p.norm_weight.reset({inner()});
    p.out_proj = out_.template zero_parameters<T>(ctx);
    return p;
  }

  /// −A uniform in A_min … A_max, D and norm.weight = 1, and a dt_bias whose softplus is
  /// log-uniform in dt_min … dt_max.
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    in_.fill_parameters(p.in_proj, seed.fork("in_proj"));
    out_.fill_parameters(p.out_proj, seed.fork("out_proj"));
    const double bound = 1 / std::sqrt(static_cast<double>(taps_));
    seed.fork("conv1d.weight")
        .fill_uniform(p.conv_weight.data(), p.conv_weight.size(), -bound, bound);
    if (p.conv_bias)
      seed.fork("conv1d.bias").fill_uniform(p.conv_bias.data(), p.conv_bias.size(), -bound, bound);
    const Random step(seed.fork("dt"));
    const Random decay(seed.fork("A"));
    for (Index h = 0; h < heads(); ++h) {
      const auto head = static_cast<std::uint64_t>(h);
      const double dt =
          std::max(std::exp(step.uniform(head, std::log(dt_min_), std::log(dt_max_))), dt_floor_);
      p.dt_bias(h) = static_cast<Wide<T>>(dt + std::log(-std::expm1(-dt)));  // softplus gives dt
      p.A_log(h) = static_cast<Wide<T>>(std::log(decay.uniform(head, A_min_, A_max_)));
      p.D(h) = Wide<T>{1};
    }
    for (Index d = 0; d < inner(); ++d) p.norm_weight(d) = Wide<T>{1};
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
    visit(undecayed("dt_bias"), p.dt_bias, more.dt_bias...);
    visit(undecayed("A_log"), p.A_log, more.A_log...);
    visit(undecayed("D"), p.D, more.D...);
    visit(ParameterSpec{.name = "norm.weight", .role = ParameterRole::norm}, p.norm_weight,
          more.norm_weight...);
    OutProjection::for_each_parameter(scoped("out_proj", visit), p.out_proj, more.out_proj...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("conv"), state.conv...);
    visit(std::string("ssm"), state.ssm...);
  }

 private:
  static void require_divides(const char* name, Index divisor, Index whole, const char* what) {
    if (whole % divisor != 0)
      throw ArgumentError(
          message({"Mamba2: ", name, " ", divisor, " does not divide ", whole, " ", what}));
  }

  /// What the convolution filters: u, B and C.
  Index filtered() const { return inner() + 2 * groups_ * state_; }
  Index group_width() const { return inner() / groups_; }

  /// Some channels of a sequence.
  template <class X, class Space>
  static View<X, 3, Space> part(const View<X, 3, Space>& x, Index begin, Index end) {
    return x.slice(2, begin, end);
  }
  /// The δ of what in_proj wrote.
  template <class X, class Space>
  View<X, 3, Space> steps(const View<X, 3, Space>& projected) const {
    return part(projected, inner() + filtered(), in_.outputs());
  }
  /// [B, L, count·size] as [B, L, count, size].
  template <class X, class Space>
  static View<X, 4, Space> by_head(const View<X, 3, Space>& x, Index count, Index size) {
    return {x.data(),
            {x.extent(0), x.extent(1), count, size},
            {x.stride(0), x.stride(1), size * x.stride(2), x.stride(2)}};
  }
  /// The channels that the norm takes together.
  template <class X, class Space>
  View<X, 2, Space> group(const View<X, 2, Space>& rows, Index g) const {
    return rows.slice(1, g * group_width(), (g + 1) * group_width());
  }

  template <class T, class Space>
  ShortConvolution<T, Space> convolution(const Parameters<T, Space>& p,
                                         View<const T, 3, Space> projected,
                                         const SequenceOptions<State<T, Space>>& options) const {
    return {.weight = p.conv_weight.reshape(filtered(), taps_),
            .bias = p.conv_bias,
            .activation = ActivationKind::silu,
            .x = part(projected, inner(), inner() + filtered()),
            .segments = options.segments,
            .initial_state = options.initial(&State<T, Space>::conv)};
  }

  /// The scan's operands, with A in workspace.
  template <class B, class T, class Frame>
  SsdScan<T, typename B::Space> operands(
      Context<B>& ctx, Frame& frame, const Parameters<T, typename B::Space>& p,
      View<const T, 3, typename B::Space> projected, View<const T, 3, typename B::Space> uBC,
      const SequenceOptions<State<T, typename B::Space>>& options) const {
    using Space = typename B::Space;
    const Index shared = groups_ * state_;
    auto A = frame.template tensor<Wide<T>>(heads(), 1, 1);
    diagonal_parameters(
        ctx, DiagonalParameters<Wide<T>, Space>{.inv_A_real = p.A_log.reshape(heads(), 1), .A = A});
    return {.x = by_head(part(uBC, 0, inner()), heads(), head_dim_),
            .dt = steps(projected),
            .A = A.flatten(),
            .B = by_head(part(uBC, inner(), inner() + shared), groups_, state_),
            .C = by_head(part(uBC, inner() + shared, filtered()), groups_, state_),
            .skip = p.D,
            .dt_bias = p.dt_bias,
            .dt_softplus = true,
            .dt_min = dt_limit_min_,
            .dt_max = dt_limit_max_,
            .segments = options.segments,
            .initial_state = options.initial(&State<T, Space>::ssm)};
  }

  template <class T, class Space>
  Activation<T, Space> gate(View<const T, 3, Space> projected,
                            View<const T, 3, Space> scanned) const {
    return {.kind = ActivationKind::silu,
            .x = as_rows(part(projected, 0, inner())),
            .gate = as_rows(scanned)};
  }

  template <class T, class Space>
  Normalization<T, Space> group_norm(const Parameters<T, Space>& p, View<const T, 3, Space> gated,
                                     Index g) const {
    return {.kind = NormalizationKind::rms,
            .eps = eps_,
            .x = group(as_rows(gated), g),
            .weight = p.norm_weight.view().slice(0, g * group_width(), (g + 1) * group_width())};
  }

  Index head_dim_;
  Index groups_;
  Index state_;
  Index taps_;
  OutProjection out_;
  InProjection in_;
  bool has_conv_bias_;
  double eps_;
  double dt_limit_min_;
  double dt_limit_max_;
  double dt_min_;
  double dt_max_;
  double dt_floor_;
  double A_min_;
  double A_max_;
};

}  // namespace ssm
