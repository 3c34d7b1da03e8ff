// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "ssm/layer/layer.hpp"
#include "ssm/op/activation.hpp"
#include "ssm/op/decayed_attention.hpp"
#include "ssm/op/normalization.hpp"
#include "ssm/op/pair_rotation.hpp"

namespace ssm {

/// Which of the two published normalizers the head norm's eps stands for: they agree where eps does
/// not count.
///   recurrent   eps·D_n          what decoding computes
///   parallel    eps·D_n·A_n²     what the training code computes, with A_n a constant for the
///                                gradient
/// A call that carries a state computes the recurrent form in either case, as the published code
/// does.
enum class RetentionForm { recurrent, parallel };

/// What retention carries between calls.
template <class T, class Space = HostSpace>
struct RetentionState {
  DynamicTensor<Wide<T>, 4, Space> retention;      // [S, H, K, V], never normalized
  DynamicTensor<std::int64_t, 1, Space> position;  // [S]: positions consumed so far
};

struct RetentionHeadsConfig {
  Index heads = 1;
  Index key_dim = 0;    // channels of q and k, all heads together
  Index value_dim = 0;  // channels of v
  RetentionForm form = RetentionForm::recurrent;
  ActivationKind gate = ActivationKind::silu;
  double eps = 1e-6;
};

/// What the retention layers share, from projections to what the last projection reads: multi-scale
/// decay, rotation by position, RMS norm of every head, gate.
///   o_n = q_n·S_n,  S_n = γ_h·S_{n−1} + k_n ⊗ v_n,  γ_h = 1 − 2^(−5−h)
///   mixed = act(gate) ⊙ o · (mean(o²) + eps·D_n)^−½ · weight
/// q, k                 [B, L, key_dim]     contiguous; rotated in place, k also scaled
/// v, gate, mixed       [B, L, value_dim]   contiguous; gate before its activation; mixed
///                                          overwritten
/// weight               [value_dim/heads]   optional, shared by the heads
/// more                 [B, L, value_dim]   optional: joins o before its norm
/// Source  Sun et al. 2023 (RetNet) §2; torchscale, MultiScaleRetention
class RetentionHeads {
 public:
  template <class T, class Space = HostSpace>
  using State = RetentionState<T, Space>;
  template <class T, class Space = HostSpace>
  struct Tape {
    DynamicTensor<T, 3, Space> o;           // before the head norm
    DynamicTensor<T, 3, Space> normalized;  // behind it
    DynamicTensor<Wide<T>, 1, Space> scale;
  };

  /// Throws  ArgumentError  if heads do not divide the widths, or keys are not pairs
  explicit RetentionHeads(const RetentionHeadsConfig& config) : config_(config) {
    const auto require = [](Index width, Index divisor, const char* what) {
      if (width % divisor != 0)
        throw ArgumentError(
            message({"retention: ", what, " ", width, " is no multiple of ", divisor}));
    };
    require(config_.value_dim, config_.heads, "value width");
    require(config_.key_dim, 2 * config_.heads, "key width");
  }

  const RetentionHeadsConfig& config() const { return config_; }
  Index head_key_dim() const { return config_.key_dim / config_.heads; }
  Index head_value_dim() const { return config_.value_dim / config_.heads; }

  /// What the heads read and write, in the shapes of the class.
  template <class T, class Space, class Key = T>
  struct Operands {
    View<const Wide<T>, 1, Space> weight{};
    View<Key, 3, Space> q{};
    View<Key, 3, Space> k{};
    double k_scale = 1;
    View<const T, 3, Space> v{};
    View<const T, 3, Space> gate{};
    View<T, 3, Space> mixed{};
    View<const T, 3, Space> more{};
  };

  template <class B, class T>
  static constexpr bool runs_on = (HasDecayedAttention<B, T> && HasPairRotation<B, T> &&
                                   HasNormalization<B, T> && HasActivation<B, T> &&
                                   HasRearrange<B, T>);

  template <class B, class T>
    requires RunsOn<RetentionHeads, B, T>
  void evaluate(Context<B>& ctx, const Operands<T, typename B::Space>& a,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const Index batch = a.q.extent(0), length = a.q.extent(1);
    const Index rows = batch * length * config_.heads;
    const auto position = options.initial(&State<T, Space>::position);
    const auto log_decay = log_decays<T>(ctx, frame);
    rotate<T>(ctx, a.q, 1, 1, position, options.segments);
    rotate<T>(ctx, a.k, 1, a.k_scale, position, options.segments);
    const auto eps_scale = frame.template tensor<Wide<T>>(batch, length, config_.heads);
    const bool with_state = options.initial_state != nullptr || options.final_state != nullptr;
    const bool parallel = config_.form == RetentionForm::parallel && !with_state;
    if (parallel)
      decayed_score_norm(ctx, DecayedScoreNorm<T, Space>{.q = keys<const T>(a.q),
                                                         .k = keys<const T>(a.k),
                                                         .log_decay = log_decay,
                                                         .segments = options.segments,
                                                         .y = eps_scale});
    RetentionScale<Wide<T>, Space> scale{
        .log_decay = log_decay, .position = position, .segments = options.segments, .y = eps_scale};
    if (parallel) scale.score_norm = eps_scale;
    retention_scale(ctx, scale);

    using Kept = Tape<T, Space>;
    const OptionalTape saved(tape);
    View<T, 3, Space> o = a.mixed, normalized = a.mixed;
    if (tape != nullptr) {
      o = saved.kept(&Kept::o, a.mixed.extents());
      normalized = saved.kept(&Kept::normalized, a.mixed.extents());
    }
    auto attend = attention<T, Space>(a.q, a.k, a.v, log_decay, options.segments);
    attend.initial_state = options.initial(&State<T, Space>::retention);
    attend.y = values<T>(o);
    attend.final_state = options.final(&State<T, Space>::retention);
    decayed_attention(ctx, attend);
    if (a.more) add(ctx, Add<T, Space>{.a = o.flatten(), .b = a.more.flatten(), .y = o.flatten()});
    if (options.final_state != nullptr)
      advance_position(ctx, AdvancePosition<Space>{.length = length,
                                                   .segments = options.segments,
                                                   .position = position,
                                                   .y = options.final_state->position});
    normalization(ctx, Normalization<T, Space>{.kind = NormalizationKind::rms,
                                               .eps = config_.eps,
                                               .x = o.reshape(rows, head_value_dim()),
                                               .weight = a.weight,
                                               .eps_scale = eps_scale.flatten(),
                                               .y = normalized.reshape(rows, head_value_dim()),
                                               .scale = saved.kept(&Kept::scale, rows)});
    activation(ctx, Activation<T, Space>{.kind = config_.gate,
                                         .x = as_rows(a.gate),
                                         .gate = as_rows(normalized),
                                         .y = as_rows(a.mixed)});
  }

  /// Where the gradients of the operands are written.
  template <class T, class Space>
  struct Gradients {
    View<T, 3, Space> q{};  // of q and k before rotation and scaling
    View<T, 3, Space> k{};
    View<T, 3, Space> v{};
    View<T, 3, Space> gate{};
    View<Wide<T>, 1, Space> weight{};  // added to, optional
    View<T, 3, Space> more{};          // optional
  };

  /// `a` as evaluate left it, without mixed; `options` are those of the call (SequenceTape).
  template <class B, class T>
    requires RunsOn<RetentionHeads, B, T>
  void differentiate(Context<B>& ctx, const Operands<T, typename B::Space, const T>& a,
                     const Tape<T, typename B::Space>& tape,
                     const SequenceOptions<State<T, typename B::Space>>& options,
                     std::type_identity_t<View<const T, 3, typename B::Space>> dmixed,
                     const Gradients<T, typename B::Space>& d,
                     const SequenceGradients<State<T, typename B::Space>>& ends) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto shape = a.v.extents();
    const Index rows = shape[0] * shape[1] * config_.heads;
    const auto dnormalized = frame.template tensor<T>(shape);
    const View<T, 3, Space> dattended = d.more ? d.more : frame.template tensor<T>(shape);
    activation_backward(ctx,
                        ActivationBackward<T, Space>{.forward = {.kind = config_.gate,
                                                                 .x = as_rows(a.gate),
                                                                 .gate = as_rows(tape.normalized)},
                                                     .dy = as_rows(dmixed),
                                                     .dx = as_rows(d.gate),
                                                     .dgate = as_rows(dnormalized)});
    normalization_backward(ctx, NormalizationBackward<T, Space>{
                                    .forward = {.kind = NormalizationKind::rms,
                                                .x = tape.o.view().reshape(rows, head_value_dim()),
                                                .weight = a.weight},
                                    .scale = tape.scale,
                                    .dy = dnormalized.reshape(rows, head_value_dim()),
                                    .dx = dattended.reshape(rows, head_value_dim()),
                                    .dweight = d.weight});
    auto attend = attention<T, Space>(a.q, a.k, a.v, log_decays<T>(ctx, frame), options.segments);
    attend.initial_state = options.initial(&State<T, Space>::retention);
    decayed_attention_backward(ctx,
                               DecayedAttentionBackward<T, Space>{
                                   .forward = attend,
                                   .dy = values<const T>(dattended),
                                   .dfinal_state = ends.final(&State<T, Space>::retention),
                                   .dq = keys<T>(d.q),
                                   .dk = keys<T>(d.k),
                                   .dv = values<T>(d.v),
                                   .dinitial_state = ends.initial(&State<T, Space>::retention)});
    if (ends.initial_state != nullptr)
      advance_position(ctx, AdvancePosition<Space>{.y = ends.initial_state->position});  // zero
    const auto position = options.initial(&State<T, Space>::position);
    rotate<T>(ctx, d.q, -1, 1, position, options.segments);
    rotate<T>(ctx, d.k, -1, a.k_scale, position, options.segments);
  }

  template <class T, class Space>
  State<T, Space> initial_state(Index sequences) const {
    State<T, Space> state;
    state.retention.reset({sequences, config_.heads, head_key_dim(), head_value_dim()});
    state.position.reset({sequences});
    return state;
  }

  // What layers that read other layers' states need to read them in the same way.

  template <class T, class Space>
  DecayedAttention<T, Space> attention(View<const T, 3, Space> q, View<const T, 3, Space> k,
                                       View<const T, 3, Space> v,
                                       View<const Wide<T>, 1, Space> log_decay,
                                       Segments segments) const {
    return {.q = keys<const T>(q),
            .k = keys<const T>(k),
            .v = values<const T>(v),
            .log_decay = log_decay,
            .segments = segments};
  }

  /// [B, L, D] as [B, L, H, D/H].
  template <class T, class V>
  auto keys(const V& x) const {
    return by_head<T>(x, head_key_dim());
  }
  template <class T, class V>
  auto values(const V& x) const {
    return by_head<T>(x, head_value_dim());
  }

  /// ln γ_h; lives as long as the frame.
  template <class T, class B, class Frame>
  View<Wide<T>, 1, typename B::Space> log_decays(Context<B>& ctx, Frame& frame) const {
    const View<Wide<T>, 1, typename B::Space> all = frame.template tensor<Wide<T>>(config_.heads);
    for (Index h = 0; h < config_.heads; ++h)
      fill(ctx, Fill<Wide<T>, typename B::Space>{
                    .value = std::log1p(-std::exp2(-5.0 - static_cast<double>(h))),
                    .y = all.slice(0, h, h + 1)});
    return all;
  }

  /// By position, in place; direction −1 is the gradient's.
  template <class T, class B>
  void rotate(Context<B>& ctx, std::type_identity_t<View<T, 3, typename B::Space>> x, int direction,
              double scale,
              std::type_identity_t<View<const std::int64_t, 1, typename B::Space>> position,
              Segments segments) const {
    pair_rotation(ctx, PairRotation<T, typename B::Space>{.scale = scale,
                                                          .direction = direction,
                                                          .position = position,
                                                          .segments = segments,
                                                          .x = keys<const T>(x),
                                                          .y = keys<T>(x)});
  }

 private:
  template <class T, class V>
  View<T, 4, typename V::Space> by_head(const V& x, Index width) const {
    return {x.data(),
            {x.extent(0), x.extent(1), config_.heads, width},
            {x.stride(0), x.stride(1), width, 1}};
  }

  RetentionHeadsConfig config_;
};

}  // namespace ssm
