// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/layer/linear.hpp"
#include "ssm/op/attention.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

struct CausalAttentionConfig {
  Index channels = dyn;
  Index heads = dyn;
  Index rotary_dim = 0;  // leading channels of each head that are rotated by position
  double rotary_base = 10000;
};

/// Causal multi-head attention with a key–value cache; positions enter by rotation only.
///   (q, k, v) = Wqkv·x + bias, head by head      y = out_proj(softmax(q·kᵀ/√(channels/heads))·v)
/// x, y     [B, L, channels]   y must not overlap x
/// states   k, v [T, B, heads, channels/heads]: rotated keys and values of the T positions so far, time first
/// Cost    8·B·L·channels² + 4·B·L·(T+L)·channels operations
/// Throws  ShapeError, also for a state with packed segments; ArgumentError  if heads do not divide the channels
/// Source  Vaswani et al. 2017; parameter names of flash-attn's MHA
template <CausalAttentionConfig Config>
class CausalAttention : public LayerVerbs<CausalAttention<Config>> {
  static constexpr Index width = Config.channels;
  using Projection =
      Linear<LinearConfig{.inputs = width, .outputs = width == dyn ? dyn : 3 * width}>;
  using Readout = Linear<LinearConfig{.inputs = width, .outputs = width}>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<CausalAttention, T, Space> {
    typename Projection::template Parameters<T, Space> Wqkv;
    typename Readout::template Parameters<T, Space> out_proj;
  };
  template <class T, class Space = HostSpace>
  struct State {
    DynamicTensor<T, 4, Space> k;
    DynamicTensor<T, 4, Space> v;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<CausalAttention, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> qkv;    // q and k after rotation
    DynamicTensor<T, 3, Space> mixed;  // what out_proj reads
    DynamicTensor<T, 3, Space> log_sum;
  };

  /// All sizes in the type.
  CausalAttention() requires(Config.channels != dyn && Config.heads != dyn)
      : CausalAttention(Config) {}
  /// Sizes that are `dyn` in the type, and the rotation, come from here.
  explicit CausalAttention(CausalAttentionConfig at_run_time)
      : channels_(resolve_extent(Config.channels, at_run_time.channels, "channels")),
        heads_(resolve_extent(Config.heads, at_run_time.heads, "heads")),
        rotary_dim_(resolve_option(Config.rotary_dim, at_run_time.rotary_dim, Index{0})),
        rotary_base_(resolve_option(Config.rotary_base, at_run_time.rotary_base,
                                    CausalAttentionConfig{}.rotary_base)),
        projection_({.inputs = channels_, .outputs = 3 * channels_}),
        readout_({.inputs = channels_, .outputs = channels_}) {
    if (channels_ % heads_ != 0)
      throw ArgumentError("CausalAttention: " + std::to_string(heads_) + " heads do not divide " +
                          std::to_string(channels_) + " channels");
    if (rotary_dim_ < 0 || rotary_dim_ % 2 != 0 || rotary_dim_ > channels_ / heads_)
      throw ArgumentError("CausalAttention: rotary_dim " + std::to_string(rotary_dim_) +
                          " must be even and at most the head width " +
                          std::to_string(channels_ / heads_));
  }

  Index channels() const { return channels_; }

  template <class B, class T>
    requires HasMatmul<B> && HasAttention<B> && HasRearrange<B>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                Kept<Tape<T, typename B::Space>> tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const Index batch = x.extent(0);
    const Index length = x.extent(1);
    const bool cached = options.initial_state != nullptr || options.final_state != nullptr;
    if (cached && !options.segments.empty())
      throw ShapeError("CausalAttention", "segments", "cannot be combined with a key-value cache");
    auto qkv = room<T, Space>(frame, tape ? &tape->qkv : nullptr, batch, length, 3 * channels_);
    auto mixed = room<T, Space>(frame, tape ? &tape->mixed : nullptr, batch, length, channels_);
    projection_.evaluate(ctx, p.Wqkv, x, qkv, nullptr);
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
      tape->log_sum.resize({batch, length, heads_});
    }
    const Index past = options.initial_state ? past_of(*options.initial_state, batch) : 0;
    rotate<T>(ctx, part<T, Space>(qkv, 0), past, 1, options.segments);
    rotate<T>(ctx, part<T, Space>(qkv, 1), past, 1, options.segments);
    View<const T, 4, Space> k = by_head(part<T, Space>(qkv, 1));
    View<const T, 4, Space> v = by_head(part<T, Space>(qkv, 2));
    State<T, Space> unkept;
    if (cached) {
      State<T, Space>& cache = options.final_state ? *options.final_state : unkept;
      if (options.initial_state != nullptr && options.initial_state != &cache)
        copy_state<CausalAttention>(ctx, *options.initial_state, cache);
      k = append<T>(ctx, cache.k, past, part<T, Space>(qkv, 1));
      v = append<T>(ctx, cache.v, past, part<T, Space>(qkv, 2));
    }
    attention(ctx,
              Attention<T, Space>{.scale = scale(),
                                  .q = by_head(part<T, Space>(qkv, 0)),
                                  .k = k,
                                  .v = v,
                                  .segments = options.segments,
                                  .y = by_head(mixed),
                                  .log_sum = tape ? tape->log_sum.view() : View<T, 3, Space>()});
    readout_.evaluate(ctx, p.out_proj, mixed, y, nullptr);
  }

  template <class B, class T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx, Parameters<T, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const Index batch = tape.qkv.extent(0);
    const Index length = tape.qkv.extent(1);
    const Index past = tape.has_initial_state ? past_of(tape.initial_state, batch) : 0;
    auto dmixed = frame.template tensor<T>(batch, length, channels_);
    auto dqkv = frame.template tensor<T>(batch, length, 3 * channels_);
    linear_backward<B, T>(ctx, p.out_proj.weight, as_rows(tape.mixed.view()),
                          as_rows(View<const T, 3, Space>(dy)), as_rows(dmixed), false,
                          gradients.out_proj.weight, gradients.out_proj.bias);
    View<const T, 3, Space> k = part<const T, Space>(tape.qkv, 1);
    View<const T, 3, Space> v = part<const T, Space>(tape.qkv, 2);
    View<T, 3, Space> dk = part<T, Space>(dqkv, 1);
    View<T, 3, Space> dv = part<T, Space>(dqkv, 2);
    if (past > 0) {
      k = joined<T>(ctx, frame, tape.initial_state.k, k);
      v = joined<T>(ctx, frame, tape.initial_state.v, v);
      dk = frame.template tensor<T>(batch, past + length, channels_);
      dv = frame.template tensor<T>(batch, past + length, channels_);
    }
    attention_backward(ctx, AttentionBackward<T, Space>{
                                .forward = {.scale = scale(),
                                            .q = by_head(part<const T, Space>(tape.qkv, 0)),
                                            .k = by_head(k),
                                            .v = by_head(v),
                                            .segments = tape.segments},
                                .y = by_head(View<const T, 3, Space>(tape.mixed)),
                                .log_sum = tape.log_sum,
                                .dy = by_head(View<const T, 3, Space>(dmixed)),
                                .dq = by_head(part<T, Space>(dqkv, 0)),
                                .dk = by_head(dk),
                                .dv = by_head(dv)});
    cache_backward<T>(ctx, frame, past, dk, part<T, Space>(dqkv, 1),
                      ends.final_state ? &ends.final_state->k : nullptr,
                      ends.initial_state ? &ends.initial_state->k : nullptr);
    cache_backward<T>(ctx, frame, past, dv, part<T, Space>(dqkv, 2),
                      ends.final_state ? &ends.final_state->v : nullptr,
                      ends.initial_state ? &ends.initial_state->v : nullptr);
    rotate<T>(ctx, part<T, Space>(dqkv, 0), past, -1, tape.segments);
    rotate<T>(ctx, part<T, Space>(dqkv, 1), past, -1, tape.segments);
    linear_backward<B, T>(ctx, p.Wqkv.weight, as_rows(tape.x), as_rows(dqkv),
                          as_rows(View<T, 3, Space>(dx)), false, gradients.Wqkv.weight,
                          gradients.Wqkv.bias);
  }

  /// No positions yet. `reserve` makes room, so that steps up to that position allocate nothing.
  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences,
                                            Index reserve = 0) const {
    State<T, typename B::Space> state;
    const DynamicExtents<4> empty{Index{0}, sequences, heads_, channels_ / heads_};
    state.k.extend(empty, reserve * sequences * channels_);
    state.v.extend(empty, reserve * sequences * channels_);
    return state;
  }

  template <class T = float, class B>
  Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.Wqkv = projection_.template zero_parameters<T>(ctx);
    p.out_proj = readout_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, Seed seed) const {
    projection_.fill_parameters(p.Wqkv, seed.fork("Wqkv"));
    readout_.fill_parameters(p.out_proj, seed.fork("out_proj"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Projection::for_each_parameter(scoped("Wqkv", visit), p.Wqkv...);
    Readout::for_each_parameter(scoped("out_proj", visit), p.out_proj...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("k"), state.k...);
    visit(std::string("v"), state.v...);
  }

 private:
  double scale() const { return 1 / std::sqrt(static_cast<double>(channels_ / heads_)); }

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
  /// A cache [T, B, heads, K] as [B, T, D].
  template <class T, class Space>
  View<T, 3, Space> by_batch(View<T, 4, Space> cache) const {
    return {cache.data(),
            {cache.extent(1), cache.extent(0), channels_},
            {cache.stride(1), cache.stride(0), 1}};
  }
  template <class State>
  Index past_of(const State& state, Index batch) const {
    require_extents("CausalAttention", "state k", state.k.view(),
                    {dyn, batch, heads_, channels_ / heads_});
    require_extents("CausalAttention", "state v", state.v.view(), state.k.extents().to_array());
    return state.k.extent(0);
  }
  template <class T, class B>
  void rotate(Context<B>& ctx, std::type_identity_t<View<T, 3, typename B::Space>> x, Index past,
              int direction, Segments segments) const {
    if (rotary_dim_ == 0) return;
    rotary(ctx, Rotary<T, typename B::Space>{.dimension = rotary_dim_,
                                             .base = rotary_base_,
                                             .position = past,
                                             .direction = direction,
                                             .segments = segments,
                                             .x = by_head(x),
                                             .y = by_head(x)});
  }
  /// Writes new rows behind the cached ones and returns all of them, head by head.
  template <class T, class B>
  View<const T, 4, typename B::Space> append(
      Context<B>& ctx, DynamicTensor<T, 4, typename B::Space>& cache, Index past,
      std::type_identity_t<View<const T, 3, typename B::Space>> rows) const {
    using Space = typename B::Space;
    const Index batch = rows.extent(0);
    const Index length = rows.extent(1);
    cache.extend({past + length, batch, heads_, channels_ / heads_});
    const View<T, 3, Space> all = by_batch(View<T, 4, Space>(cache));
    rearrange(ctx, Rearrange<T, Space>{.x = rows, .y = all.slice(1, past, past + length)});
    return by_head(View<const T, 3, Space>(all));
  }
  /// Cached and new rows as one [B, T + L, D].
  template <class T, class B, class Frame>
  View<const T, 3, typename B::Space> joined(Context<B>& ctx, Frame& frame,
                                             const DynamicTensor<T, 4, typename B::Space>& cache,
                                             View<const T, 3, typename B::Space> rows) const {
    using Space = typename B::Space;
    const Index past = cache.extent(0);
    const Index length = rows.extent(1);
    auto all = frame.template tensor<T>(rows.extent(0), past + length, channels_);
    rearrange(ctx, Rearrange<T, Space>{.x = by_batch(View<const T, 4, Space>(cache)),
                                       .y = all.slice(1, 0, past)});
    rearrange(ctx, Rearrange<T, Space>{.x = rows, .y = all.slice(1, past, past + length)});
    return all;
  }
  /// Adds the gradient of the final cache, then splits rows between the initial cache and this call's projections.
  template <class T, class B, class Frame>
  void cache_backward(Context<B>& ctx, Frame& frame, Index past,
                      std::type_identity_t<View<T, 3, typename B::Space>> gradient,
                      std::type_identity_t<View<T, 3, typename B::Space>> fresh,
                      const DynamicTensor<T, 4, typename B::Space>* final_gradient,
                      DynamicTensor<T, 4, typename B::Space>* initial_gradient) const {
    using Space = typename B::Space;
    const Index batch = gradient.extent(0);
    const Index total = gradient.extent(1);
    if (final_gradient != nullptr) {
      require_extents("CausalAttention", "gradient of the final state", final_gradient->view(),
                      {total, batch, heads_, channels_ / heads_});
      auto sum = frame.template tensor<T>(batch, total, channels_);
      auto given = frame.template tensor<T>(batch, total, channels_);
      rearrange(ctx, Rearrange<T, Space>{.x = gradient, .y = sum});
      rearrange(ctx, Rearrange<T, Space>{.x = by_batch(View<const T, 4, Space>(*final_gradient)),
                                         .y = given});
      add(ctx, Add<T, Space>{.a = sum.flatten(), .b = given.flatten(), .y = sum.flatten()});
      rearrange(ctx, Rearrange<T, Space>{.x = sum, .y = gradient});
    }
    if (initial_gradient != nullptr) {
      initial_gradient->resize({past, batch, heads_, channels_ / heads_});
      rearrange(ctx, Rearrange<T, Space>{.x = gradient.slice(1, 0, past),
                                         .y = by_batch(View<T, 4, Space>(*initial_gradient))});
    }
    if (past > 0)
      rearrange(ctx, Rearrange<T, Space>{.x = gradient.slice(1, past, total), .y = fresh});
  }

  Index channels_;
  Index heads_;
  Index rotary_dim_;
  double rotary_base_;
  Projection projection_;
  Readout readout_;
};

}  // namespace ssm
