// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/layer/retention_heads.hpp"
#include "ssm/layer/selective_transition.hpp"

namespace ssm {

/// What a retention layer reads of earlier layers' states, when fusion is for reading only
/// (DenseSSM).
///   y_t   = a_v ⊙ Σ_i rotate(a_k ⊙ q)_t·S^i_t      a_k, a_v = gates(x)
///   S^i_t = γ·S^i_{t−1} + rotate(k^i)_t ⊗ v^i_t
/// The state of a source is a matrix of keys by values, and the gates, of the widths of keys and
/// values, choose its rows and columns. That of the keys acts before the rotation, so that what is
/// read depends on distances alone.
/// x            [B, L, channels]
/// q, k^i       [B, L, key_dim]     not yet rotated
/// v^i, y       [B, L, value_dim]
/// Sources are any aggregates with views k, v, and initial_state [S, H, K, V] and position [S],
/// null where they are zero.
/// Cost    that of DecayedAttention for each source
/// Source  He et al. 2024 (DenseSSM) §3.2, the convolutional form
template <class KeySelect, class ValueSelect>
class DenseReadout {
 public:
  template <class T, class Space>
  using Sequence = std::type_identity_t<View<T, 3, Space>>;
  template <class T, class Space>
  using KeyParameters = typename KeySelect::template Parameters<T, Space>;
  template <class T, class Space>
  using ValueParameters = typename ValueSelect::template Parameters<T, Space>;
  template <class T, class Space = HostSpace>
  struct Tape {
    typename KeySelect::template Tape<T, Space> k_select;
    typename ValueSelect::template Tape<T, Space> v_select;
    DynamicTensor<T, 3, Space> k_gate, v_gate;
    DynamicTensor<T, 3, Space> q;        // as it came
    DynamicTensor<T, 3, Space> queries;  // gated and rotated
    DynamicTensor<T, 3, Space> reads;    // Σ_i, before its gate
  };

  DenseReadout(const KeySelect& k_select, const ValueSelect& v_select, const RetentionHeads& heads)
      : k_select_(k_select), v_select_(v_select), heads_(heads) {}

  template <class B, class T, class Source>
  void evaluate(Context<B>& ctx, const KeyParameters<T, typename B::Space>& k_parameters,
                const ValueParameters<T, typename B::Space>& v_parameters,
                Sequence<const T, typename B::Space> x, const View<T, 3, typename B::Space>& q,
                std::span<const Source> sources, Sequence<T, typename B::Space> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<RetentionState<T, typename B::Space>>& options) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const auto k_gate = buffers.at(&Kept::k_gate, q.extents());
    const auto v_gate = buffers.at(&Kept::v_gate, y.extents());
    const auto queries = buffers.at(&Kept::queries, q.extents());
    const auto reads = buffers.at(&Kept::reads, y.extents());
    const View<T, 3, Space> keys = frame.template tensor<T>(q.extents());
    k_select_.evaluate(ctx, k_parameters, x, k_gate, buffers.part(&Kept::k_select));
    v_select_.evaluate(ctx, v_parameters, x, v_gate, buffers.part(&Kept::v_select));
    const auto position = options.initial(&RetentionState<T, Space>::position);
    if (tape != nullptr) copy<T>(ctx, q, buffers.kept(&Kept::q, q.extents()));
    KeySelect::template select<T>(ctx, k_gate, q, queries);
    heads_.template rotate<T>(ctx, queries, 1, 1, position, options.segments);
    const auto log_decay = heads_.template log_decays<T>(ctx, frame);
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const auto& into = i == 0 ? reads : View<T, 3, Space>(y);
      auto read = reading<T>(ctx, sources[i], queries, keys, log_decay, options.segments);
      read.y = heads_.template values<T>(into);
      decayed_attention(ctx, read);
      if (i > 0) add_to<T>(ctx, reads.flatten(), y.flatten());
    }
    ValueSelect::template select<T>(ctx, v_gate, reads, y);
  }

  /// dx is overwritten; dq and the sources' gradients are added to. `options` are those of the call
  /// (SequenceTape).
  template <class B, class T, class Source>
  void differentiate(Context<B>& ctx, const KeyParameters<T, typename B::Space>& k_parameters,
                     const ValueParameters<T, typename B::Space>& v_parameters,
                     const Tape<T, typename B::Space>& tape,
                     const SequenceOptions<RetentionState<T, typename B::Space>>& options,
                     const View<T, 3, typename B::Space>& dy, std::span<const Source> sources,
                     std::span<const Source> dsources, Sequence<T, typename B::Space> dx,
                     Sequence<T, typename B::Space> dq,
                     KeyParameters<Wide<T>, typename B::Space>& k_gradients,
                     ValueParameters<Wide<T>, typename B::Space>& v_gradients) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto like = [&](const auto& tensor) {
      return View<T, 3, Space>(frame.template tensor<T>(tensor.extents()));
    };
    const auto dreads = like(dy), dv_gate = like(dy), dv = like(dy);
    const auto dqueries = like(dq), dk_gate = like(dq), dk = like(dq), more = like(dq);
    const auto keys = like(dq);
    const auto position = options.initial(&RetentionState<T, Space>::position);
    ValueSelect::template select_backward<T>(ctx, tape.v_gate, tape.reads, dy, dreads, dv_gate);
    const auto log_decay = heads_.template log_decays<T>(ctx, frame);
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const Source& to = dsources[i];
      DecayedAttentionBackward<T, Space> g{
          .forward =
              reading<T>(ctx, sources[i], tape.queries.view(), keys, log_decay, options.segments),
          .dy = heads_.template values<const T>(dreads),
          .dq = heads_.template keys<T>(i == 0 ? dqueries : more),
          .dk = heads_.template keys<T>(dk),
          .dv = heads_.template values<T>(dv)};
      auto part = ctx.workspace().frame();
      if (to.initial_state)
        g.dinitial_state = part.template tensor<Wide<T>>(to.initial_state.extents());
      decayed_attention_backward(ctx, g);
      if (i > 0) add_to<T>(ctx, dqueries.flatten(), more.flatten());
      heads_.template rotate<T>(ctx, dk, -1, 1, sources[i].position, options.segments);
      if (to.k) add_to<T>(ctx, to.k.flatten(), dk.flatten());
      if (to.v) add_to<T>(ctx, to.v.flatten(), dv.flatten());
      if (to.initial_state)
        add_to<Wide<T>>(ctx, to.initial_state.flatten(), g.dinitial_state.flatten());
    }
    heads_.template rotate<T>(ctx, dqueries, -1, 1, position, options.segments);
    KeySelect::template select_backward<T>(ctx, tape.k_gate, tape.q, dqueries, more, dk_gate);
    add_to<T>(ctx, dq.flatten(), more.flatten());
    k_select_.differentiate(ctx, k_parameters, tape.k_select, dk_gate, dx, k_gradients);
    v_select_.differentiate(ctx, v_parameters, tape.v_select, dv_gate, dx, v_gradients, {},
                            WriteMode::accumulate);
  }

 private:
  /// One source's state, read; its keys are rotated into `keys`.
  template <class T, class B, class Source>
  DecayedAttention<T, typename B::Space> reading(
      Context<B>& ctx, const Source& source, Sequence<const T, typename B::Space> queries,
      const View<T, 3, typename B::Space>& keys,
      const View<Wide<T>, 1, typename B::Space>& log_decay, Segments segments) const {
    copy<T>(ctx, source.k, keys);
    heads_.template rotate<T>(ctx, keys, 1, 1, source.position, segments);
    auto read = heads_.template attention<T, typename B::Space>(queries, keys, source.v, log_decay,
                                                                segments);
    read.initial_state = source.initial_state;
    return read;
  }

  template <class T, class B>
  static void copy(Context<B>& ctx, Sequence<const T, typename B::Space> x,
                   Sequence<T, typename B::Space> y) {
    add(ctx, Add<T, typename B::Space>{.a = x.flatten(), .y = y.flatten()});
  }
  /// sum += x
  template <class T, class B>
  static void add_to(Context<B>& ctx, std::type_identity_t<View<T, 1, typename B::Space>> sum,
                     std::type_identity_t<View<const T, 1, typename B::Space>> x) {
    add(ctx, Add<T, typename B::Space>{.a = sum, .b = x, .y = sum});
  }

  const KeySelect& k_select_;
  const ValueSelect& v_select_;
  const RetentionHeads& heads_;
};

}  // namespace ssm
