// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>

#include "ssm/core/recording.hpp"
#include "ssm/layer/key_value_cache.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/op/attention.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

struct CausalAttentionConfig {
  Index channels = dyn;
  Index heads = dyn;
  bool gpt2 = false;  // tensors as GPT-2's: c_attn and c_proj, in files [inputs, outputs]
};
/// The sizes and choices of a CausalAttention that are given at run time.
struct CausalAttentionOptions {
  Index channels = dyn;
  Index heads = dyn;
  Index rotary_dim = 0;  // leading channels of each head that are rotated by position
  double rotary_base = 10000;
  std::optional<double> scale{};  // of the scores; left out: 1/√(channels/heads)
  double dropout = 0;             // of the attention weights, which training refuses
};

/// Causal multi-head attention with a key–value cache; positions enter by rotation only.
///   (q, k, v) = Wqkv·x + bias, head by head      y = out_proj(softmax(scale·q·kᵀ)·v)
/// x, y     [B, L, channels]   y must not overlap x
/// states   k, v [T, B, heads, channels/heads]: rotated keys and values of the positions so far,
///          time first; position [B], on the host: how many of the T rows each sequence has. The
///          rows behind them are zero in a state that began empty, and nothing reads them
/// Cost    8·B·L·channels² + 4·B·L·(T+L)·channels operations
/// Throws  ShapeError; ArgumentError  if heads do not divide the channels, and from training with
///                                    a dropout of attention weights, which no backend computes
/// Source  Vaswani et al. 2017; parameter names of flash-attn's MHA or GPT-2's
template <CausalAttentionConfig Config>
class CausalAttention : public LayerVerbs<CausalAttention<Config>> {
  static constexpr Index width = Config.channels;
  using Projection = Linear<LinearConfig{.inputs = width,
                                         .outputs = width == dyn ? dyn : 3 * width,
                                         .transposed_in_files = Config.gpt2}>;
  using Readout =
      Linear<LinearConfig{.inputs = width, .outputs = width, .transposed_in_files = Config.gpt2}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;
  static constexpr bool adds_residual = true;
  static constexpr bool takes_norm = true;
  static constexpr bool leaves_output_bias = true;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<CausalAttention, T, Space> {
    typename Projection::template Parameters<T, Space> Wqkv;
    typename Readout::template Parameters<T, Space> out_proj;
  };
  template <class T, class Space = HostSpace>
  using State = KeyValueState<T, Space>;
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<CausalAttention, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> qkv;    // q and k after rotation
    DynamicTensor<T, 3, Space> mixed;  // what out_proj reads
    DynamicTensor<Wide<T>, 3, Space> log_sum;
  };

  /// All sizes in the type.
  CausalAttention() requires(Config.channels != dyn && Config.heads != dyn)
      : CausalAttention(CausalAttentionOptions{}) {}
  /// Sizes that are `dyn` in the type, and the rotation, come from here.
  /// Throws  ArgumentError  for what contradicts the type, and sizes that do not fit together
  explicit CausalAttention(CausalAttentionOptions options)
      : channels_(resolve_extent(Config.channels, options.channels, "channels")),
        heads_(resolve_extent(Config.heads, options.heads, "heads")),
        rotary_dim_(options.rotary_dim),
        rotary_base_(options.rotary_base),
        scale_(options.scale.value_or(
            1 / std::sqrt(static_cast<double>(channels_) / static_cast<double>(heads_)))),
        dropout_(options.dropout),
        projection_({.inputs = channels_, .outputs = 3 * channels_}),
        readout_({.inputs = channels_, .outputs = channels_}) {
    if (channels_ % heads_ != 0)
      throw ArgumentError(
          message({"CausalAttention: ", heads_, " heads do not divide ", channels_, " channels"}));
    if (!(dropout_ >= 0 && dropout_ < 1))
      throw ArgumentError("CausalAttention: dropout must be in [0, 1)");
    if (rotary_dim_ == 0 && rotary_base_ != CausalAttentionOptions{}.rotary_base)
      throw ArgumentError("CausalAttention: rotary_base is given, but no rotary_dim");
    if (rotary_dim_ < 0 || rotary_dim_ % 2 != 0 || rotary_dim_ > channels_ / heads_)
      throw ArgumentError(
          message({"CausalAttention: rotary_dim ", rotary_dim_,
                   " must be even and at most the head width ", channels_ / heads_}));
  }

  Index channels() const { return channels_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && HasAttention<B, T> && HasRearrange<B, T>);

  template <class B, class T>
    requires RunsOn<CausalAttention, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {},
                Input<B, T, dyn, dyn, width> residual = {},
                NonDeduced<FirstNorm<B, T>> norm = nullptr) const {
    using Space = typename B::Space;
    if (tape != nullptr && options.dropout && dropout_ > 0)
      throw ArgumentError(
          "CausalAttention: dropout of attention weights is not computed; train with one of 0");
    auto frame = ctx.workspace().frame();
    const Index batch = x.extent(0);
    const Index length = x.extent(1);
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    auto qkv = buffers.at(&Kept::qkv, batch, length, 3 * channels_);
    auto mixed = buffers.at(&Kept::mixed, batch, length, channels_);
    const auto log_sum = buffers.kept(&Kept::log_sum, batch, length, heads_);
    projection_.evaluate(ctx, p.Wqkv, x, qkv, nullptr, {}, {}, norm);
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
    }
    const auto attend = [this, &ctx, qkv, mixed, log_sum, options] {
      mix<B, T>(ctx, qkv, mixed, log_sum, options);
    };
    if (tape == nullptr && options.final_state != nullptr && options.segments.empty())
      run_apart(ctx, attend);  // the cache grows
    else
      attend();
    readout_.evaluate(ctx, p.out_proj, mixed, y, nullptr, {}, residual);
  }

  template <class B, class T>
    requires RunsOn<CausalAttention, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {},
                     OutputBias output_bias = OutputBias::summed) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const Index batch = tape.qkv.extent(0);
    const Index length = tape.qkv.extent(1);
    const KeyValueCache::Past past =
        cache_.cached_before(tape.options().initial_state, batch, length, tape.segments);
    auto dmixed = frame.template tensor<T>(batch, length, channels_);
    auto dqkv = frame.template tensor<T>(batch, length, 3 * channels_);
    const LinearBackward<T, Space> output{
        .weight = p.out_proj.weight,
        .x = as_rows(tape.mixed),
        .dy = as_rows(dy),
        .dx = as_rows(dmixed),
        .dweight = gradients.out_proj.weight,
        .dbias = bias_unless_left_out(gradients.out_proj, output_bias)};
    detail::linear_backward_input<B, T>(ctx, output);
    View<const T, 3, Space> k = part<const T, Space>(tape.qkv, 1);
    View<const T, 3, Space> v = part<const T, Space>(tape.qkv, 2);
    View<T, 3, Space> dk = part<T, Space>(dqkv, 1);
    View<T, 3, Space> dv = part<T, Space>(dqkv, 2);
    const bool has_cache = past.rows > 0;
    if (has_cache) {
      k = cache_.template joined<T>(ctx, frame, past, tape.initial_state.k, k);
      v = cache_.template joined<T>(ctx, frame, past, tape.initial_state.v, v);
      dk = frame.template tensor<T>(past.sequences, past.total, channels_);
      dv = frame.template tensor<T>(past.sequences, past.total, channels_);
    }
    const bool is_uneven = has_cache && !past.is_even;
    attention_backward(
        ctx, AttentionBackward<T, Space>{
                 .forward = {.scale = scale_,
                             .q = by_head(part<const T, Space>(tape.qkv, 0)),
                             .k = by_head(k),
                             .v = by_head(v),
                             .segments = tape.segments,
                             .cached = is_uneven ? past.position : std::span<const std::int64_t>()},
                 .y = by_head(View<const T, 3, Space>(tape.mixed)),
                 .log_sum = tape.log_sum,
                 .dy = by_head(View<const T, 3, Space>(dmixed)),
                 .dq = by_head(part<T, Space>(dqkv, 0)),
                 .dk = by_head(dk),
                 .dv = by_head(dv)});
    const auto split = [&](const View<T, 3, Space>& gradient, Index which, auto member) {
      if (ends.final_state != nullptr)
        cache_.template add_final<T>(ctx, past, ends.final_state->*member, gradient);
      if (ends.initial_state != nullptr)
        cache_.template write_initial<T>(ctx, past, gradient, ends.initial_state->*member);
      if (has_cache) cache_.template take<T>(ctx, past, gradient, part<T, Space>(dqkv, which));
    };
    split(dk, 1, &State<T, Space>::k);
    split(dv, 2, &State<T, Space>::v);
    if (ends.initial_state != nullptr) ends.initial_state->position.reset({past.sequences});
    rotate<T>(ctx, part<T, Space>(dqkv, 0), past, -1, tape.segments);
    rotate<T>(ctx, part<T, Space>(dqkv, 1), past, -1, tape.segments);
    const LinearBackward<T, Space> projections[] = {{.weight = p.Wqkv.weight,
                                                     .x = as_rows(tape.x),
                                                     .dy = as_rows(dqkv),
                                                     .dx = as_rows(dx),
                                                     .dweight = gradients.Wqkv.weight,
                                                     .dbias = gradients.Wqkv.bias}};
    linear_backward<B, T>(ctx, projections, &output);
  }

  static auto output_bias(auto& gradients) { return bias_of(gradients.out_proj); }

  /// No positions yet. `reserve` makes room, so that steps up to that position allocate nothing.
  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences,
                                            Index reserve = 0) const {
    return cache_.template empty<T, typename B::Space>(sequences, reserve);
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.Wqkv = projection_.template zero_parameters<T>(ctx);
    p.out_proj = readout_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    projection_.fill_parameters(p.Wqkv, seed.fork("Wqkv"));
    readout_.fill_parameters(p.out_proj, seed.fork("out_proj"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Projection::for_each_parameter(scoped(Config.gpt2 ? "c_attn" : "Wqkv", visit), p.Wqkv...);
    Readout::for_each_parameter(scoped(Config.gpt2 ? "c_proj" : "out_proj", visit), p.out_proj...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    KeyValueCache::for_each_state(visit, state...);
  }

 private:
  /// What lies between the projections.
  template <class B, class T>
  void mix(Context<B>& ctx, const View<T, 3, typename B::Space>& qkv,
           const View<T, 3, typename B::Space>& mixed,
           const View<Wide<T>, 3, typename B::Space>& log_sum,
           const SequenceOptions<State<T, typename B::Space>>& options) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const KeyValueCache::Past past =
        cache_.cached_before(options.initial_state, qkv.extent(0), qkv.extent(1), options.segments);
    rotate<T>(ctx, part<T, Space>(qkv, 0), past, 1, options.segments);
    rotate<T>(ctx, part<T, Space>(qkv, 1), past, 1, options.segments);
    Attention<T, Space> call{.scale = scale_,
                             .q = by_head(part<T, Space>(qkv, 0)),
                             .k = by_head(View<const T, 3, Space>(part<T, Space>(qkv, 1))),
                             .v = by_head(View<const T, 3, Space>(part<T, Space>(qkv, 2))),
                             .segments = options.segments,
                             .y = by_head(mixed),
                             .log_sum = log_sum};
    if (options.initial_state != nullptr || options.final_state != nullptr) {
      const auto cache = cache_.template open<T>(ctx, frame, past, options);
      cache_.template append<T>(ctx, past, part<T, Space>(qkv, 1), cache.k);
      cache_.template append<T>(ctx, past, part<T, Space>(qkv, 2), cache.v);
      call.k = by_head(View<const T, 3, Space>(cache.k));
      call.v = by_head(View<const T, 3, Space>(cache.v));
      if (!past.is_even) call.cached = cache.position;
    }
    attention(ctx, call);
    if (options.final_state != nullptr) past.advance(options.final_state->position);
  }

  /// q, k or v of a joint [B, L, 3·D] buffer.
  template <class T, class Space>
  View<T, 3, Space> part(const View<T, 3, Space>& qkv, Index which) const {
    return qkv.slice(2, which * channels_, (which + 1) * channels_);
  }
  template <class T, class Space>
  View<T, 3, Space> part(const auto& qkv, Index which) const {
    return View<T, 3, Space>(qkv).slice(2, which * channels_, (which + 1) * channels_);
  }
  /// [B, L, D] as [B, L, heads, D/heads].
  template <class T, class Space>
  View<T, 4, Space> by_head(const View<T, 3, Space>& x) const {
    const Index head = channels_ / heads_;
    return {
        x.data(), {x.extent(0), x.extent(1), heads_, head}, {x.stride(0), x.stride(1), head, 1}};
  }
  template <class T, class B>
  void rotate(Context<B>& ctx, std::type_identity_t<View<T, 3, typename B::Space>> x,
              const KeyValueCache::Past& past, int direction, Segments segments) const {
    if (rotary_dim_ == 0) return;
    rotary(ctx, Rotary<T, typename B::Space>{
                    .dimension = rotary_dim_,
                    .base = rotary_base_,
                    .position = past.rows,
                    .positions = past.is_even ? std::span<const std::int64_t>() : past.position,
                    .direction = direction,
                    .segments = segments,
                    .x = by_head(x),
                    .y = by_head(x)});
  }

  Index channels_;
  Index heads_;
  Index rotary_dim_;
  double rotary_base_;
  double scale_;
  double dropout_;
  Projection projection_;
  Readout readout_;
  KeyValueCache cache_{heads_, channels_ / heads_};
};

}  // namespace ssm
