// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/layer/dense_fusion.hpp"
#include "ssm/layer/dense_readout.hpp"
#include "ssm/layer/dense_selection.hpp"
#include "ssm/layer/gau_projections.hpp"
#include "ssm/layer/retention_heads.hpp"

namespace ssm {

struct GauRetentionConfig {
  Index channels = dyn;
  Index query_key_dim = dyn;
  Index value_dim = dyn;
  Index heads = dyn;
  Index k_hidden = dyn;  // inner width of the gate on earlier layers' keys
  Index v_hidden = dyn;  // … and values
};
/// The sizes and choices of a GauRetention that are given at run time.
struct GauRetentionOptions {
  Index channels = dyn;
  Index query_key_dim = dyn;
  Index value_dim = dyn;
  Index heads = dyn;
  Index k_hidden = dyn;
  Index v_hidden = dyn;
  RetentionForm form = RetentionForm::recurrent;
  double eps = 1e-6;
  DenseFusion fusion = DenseFusion::carried;
};

/// DenseRetNet's mixer: retention in a gated attention unit, whose keys and values take over from
/// earlier layers' ones.
///   q = SiLU(Wq·x)    k = SiLU(Wk·x)/√(query_key_dim/heads)    (v, g) = SiLU(to_hidden·x)
///   with sources i:   k ← RMS(k + Σ_i k_select(x) ⊙ k_i)    v ← RMS(v + Σ_i v_select(x) ⊙ v_i)
///   y = to_out(g ⊙ RMS(retention(rotate(q), rotate(k), v)))
/// That is `carried` fusion, as in the published code: the state is of joined keys and values. With
/// `readout`, gated queries read the sources' own states, and the gated sum is added to what this
/// layer's state gives (DenseReadout):
///   o = retention(rotate(q), rotate(k), v)
///       + v_select(x) ⊙ Σ_i retention(rotate(k_select(x) ⊙ q), rotate(k_i), v_i)
///   y = to_out(g ⊙ RMS(o))
/// What later layers read are k and v before they are joined with the sources. Without sources the
/// gates are there, but unused, and so are their norms, which only carried fusion has.
/// x, y     [B, L, channels]   y must not overlap x
/// states   retention [B, heads, query_key_dim/heads, value_dim/heads], position [B]
/// Cost    2·B·L·channels·(2·query_key_dim + 3·value_dim) operations for the projections, and
///         DecayedAttention, for `readout` one more for each source
/// Throws  ShapeError; ArgumentError  if heads do not divide the widths
/// Source  He et al. 2024 (DenseSSM) §3.4; parameter names of the published DenseRetNet
template <GauRetentionConfig Config>
class GauRetention : public LayerVerbs<GauRetention<Config>> {
  static constexpr Index width = Config.channels;
  static constexpr Index keys = Config.query_key_dim;
  static constexpr Index values = Config.value_dim;
  using Projections = GauProjections<GauProjectionsConfig{
      .channels = width, .query_key_dim = keys, .value_dim = values}>;
  using Readout = Linear<LinearConfig{.inputs = values, .outputs = width, .bias = false}>;
  using KeySelection = DenseSelection<SelectiveTransitionConfig{
      .channels = width, .hidden = Config.k_hidden, .width = keys}>;
  using ValueSelection = DenseSelection<SelectiveTransitionConfig{
      .channels = width, .hidden = Config.v_hidden, .width = values}>;
  using Readings = DenseReadout<typename KeySelection::Select, typename ValueSelection::Select>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<GauRetention, T, Space> {
    typename Projections::template Parameters<T, Space> projections;
    DynamicTensor<Wide<T>, 1, Space> group_norm;
    typename Readout::template Parameters<T, Space> to_out;
    typename KeySelection::template Parameters<T, Space> k_selection;
    typename ValueSelection::template Parameters<T, Space> v_selection;
  };
  template <class T, class Space = HostSpace>
  using State = RetentionState<T, Space>;

  /// What later layers read of this one, or its gradients.
  template <class T, class Space = HostSpace>
  struct Hidden {
    View<T, 3, Space> k{};  // [B, L, query_key_dim]
    View<T, 3, Space> v{};  // [B, L, value_dim]
    // For reading only: copies of the initial state's; null from zero, and the position in
    // gradients.
    View<Wide<T>, 4, Space> initial_state{};
    View<std::int64_t, 1, Space> position{};
  };
  /// The memory behind a Hidden: k [B, L, query_key_dim], v [B, L, value_dim], and copies of the
  /// initial state's retention and position, empty where it starts from zero.
  template <class T, class Space = HostSpace>
  struct KeptHidden {
    DynamicTensor<T, 3, Space> k;
    DynamicTensor<T, 3, Space> v;
    DynamicTensor<Wide<T>, 4, Space> initial_state;
    DynamicTensor<std::int64_t, 1, Space> position;
  };
  template <class T, class Space = HostSpace>
  using Sources = std::span<const Hidden<T, Space>>;

  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<GauRetention, State<T, Space>>, InputTape<T, Space> {
    typename Projections::template Tape<T, Space> projections;
    DynamicTensor<T, 3, Space> q, k;   // rotated, k joined
    DynamicTensor<T, 3, Space> v;      // joined; unused without sources
    DynamicTensor<T, 3, Space> g;      // before SiLU
    DynamicTensor<T, 3, Space> mixed;  // what to_out reads
    KeptHidden<T, Space> own;          // where the caller gives no place
    typename KeySelection::template Tape<T, Space> k_selection;
    typename ValueSelection::template Tape<T, Space> v_selection;
    typename Readings::template Tape<T, Space> readings;
    RetentionHeads::Tape<T, Space> heads;
  };

  /// All sizes in the type.
  GauRetention() requires(width != dyn && keys != dyn && values != dyn && Config.heads != dyn &&
                          Config.k_hidden != dyn && Config.v_hidden != dyn)
      : GauRetention(GauRetentionOptions{}) {}
  /// Sizes that are `dyn` in the type, form, eps and fusion come from here.
  /// Throws  ArgumentError  for what contradicts the type, and if heads do not divide the widths
  explicit GauRetention(GauRetentionOptions options)
      : fusion_(options.fusion),
        channels_(resolve_extent(width, options.channels, "channels")),
        heads_({.heads = resolve_extent(Config.heads, options.heads, "heads"),
                .key_dim = resolve_extent(keys, options.query_key_dim, "query_key_dim"),
                .value_dim = resolve_extent(values, options.value_dim, "value_dim"),
                .form = options.form,
                .eps = options.eps}),
        projections_({.channels = channels_, .query_key_dim = key_dim(), .value_dim = value_dim()},
                     1 / std::sqrt(static_cast<double>(heads_.head_key_dim()))),
        readout_({.inputs = value_dim(), .outputs = channels_}),
        k_selection_({.channels = channels_,
                      .hidden = resolve_extent(Config.k_hidden, options.k_hidden, "k_hidden"),
                      .width = key_dim()},
                     heads_.config().eps),
        v_selection_({.channels = channels_,
                      .hidden = resolve_extent(Config.v_hidden, options.v_hidden, "v_hidden"),
                      .width = value_dim()},
                     heads_.config().eps) {}

  Index channels() const { return channels_; }
  Index key_dim() const { return heads_.config().key_dim; }
  Index value_dim() const { return heads_.config().value_dim; }
  DenseFusion fusion() const { return fusion_; }

  /// Room for what later layers read: in `kept` where there is one, else in the frame.
  template <class T, class B, class Frame>
  Hidden<T, typename B::Space> hidden_buffer(const Context<B>&, Frame& frame,
                                             NonDeduced<KeptHidden<T, typename B::Space>>* kept,
                                             const HiddenShape& shape) const {
    using Space = typename B::Space;
    using Kept = KeptHidden<T, Space>;
    const Buffers buffers(frame, kept);
    Hidden<T, Space> hidden{.k = buffers.at(&Kept::k, shape.batch, shape.length, key_dim()),
                            .v = buffers.at(&Kept::v, shape.batch, shape.length, value_dim())};
    if (!is_carried() && shape.has_initial_state) {
      hidden.position = buffers.at(&Kept::position, shape.sequences);
      hidden.initial_state =
          buffers.at(&Kept::initial_state, shape.sequences, heads_.config().heads,
                     heads_.head_key_dim(), heads_.head_value_dim());
    }
    return hidden;
  }
  static void for_each_hidden(auto&& visit, const auto& hidden) {
    visit(hidden.k);
    visit(hidden.v);
    if (hidden.initial_state) visit(hidden.initial_state);
  }

  template <class B, class T>
  static constexpr bool runs_on = (HasMatmul<B, T> && RunsOn<RetentionHeads, B, T> &&
                                   RunsOn<KeySelection, B, T> && RunsOn<ValueSelection, B, T>);

  template <class B, class T>
    requires RunsOn<GauRetention, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    auto frame = ctx.workspace().frame();
    auto* const kept = OptionalTape(tape).part(&Tape<T, typename B::Space>::own);
    const auto hidden =
        hidden_buffer<T>(ctx, frame, kept, {.batch = x.extent(0), .length = x.extent(1)});
    evaluate(ctx, p, x, y, tape, options, Sources<T, typename B::Space>(), hidden);
  }

  /// With what earlier layers left behind, oldest first; fills `hidden` for later ones.
  template <class B, class T>
    requires RunsOn<GauRetention, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options,
                std::type_identity_t<Sources<T, typename B::Space>> sources,
                const Hidden<T, typename B::Space>& hidden) const {
    using Space = typename B::Space;
    using H = Hidden<T, Space>;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const auto q = buffers.at(&Kept::q, hidden.k.extents());
    const auto k = buffers.at(&Kept::k, hidden.k.extents());
    const auto g = buffers.at(&Kept::g, hidden.v.extents());
    const auto mixed = buffers.at(&Kept::mixed, hidden.v.extents());
    if (tape != nullptr) tape->keep(ctx, options);
    projections_.evaluate(ctx, p.projections, x, {.q = q, .k = hidden.k, .v = hidden.v, .g = g},
                          buffers.part(&Kept::projections));
    if (hidden.initial_state && options.initial_state != nullptr) {
      copy_flat<Wide<T>>(ctx, options.initial_state->retention.flatten(),
                         hidden.initial_state.flatten());
      advance_position(ctx, AdvancePosition<Space>{.position = options.initial_state->position,
                                                   .y = hidden.position});
    }
    View<const T, 3, Space> v = hidden.v;
    View<T, 3, Space> more;
    if (!sources.empty() && is_carried()) {
      const auto joined = buffers.at(&Kept::v, hidden.v.extents());
      k_selection_.evaluate(ctx, p.k_selection, x, hidden.k, sources, &H::k, k,
                            buffers.part(&Kept::k_selection));
      v_selection_.evaluate(ctx, p.v_selection, x, hidden.v, sources, &H::v, joined,
                            buffers.part(&Kept::v_selection));
      v = joined;
    } else {
      copy_flat<T>(ctx, hidden.k.flatten(), k.flatten());
    }
    if (!sources.empty() && !is_carried()) {
      more = frame.template tensor<T>(hidden.v.extents());
      readings().evaluate(ctx, p.k_selection.select, p.v_selection.select, x, q, sources, more,
                          buffers.part(&Kept::readings), options);
    }
    heads_.evaluate(ctx,
                    RetentionHeads::Operands<T, Space>{.weight = p.group_norm,
                                                       .q = q,
                                                       .k = k,
                                                       .v = v,
                                                       .gate = g,
                                                       .mixed = mixed,
                                                       .more = more},
                    buffers.part(&Kept::heads), options);
    readout_.evaluate(ctx, p.to_out, mixed, y, nullptr);
  }

  template <class B, class T>
    requires RunsOn<GauRetention, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    differentiate_from(ctx, p, tape, tape.own.v, dy, dx, gradients, ends, Sources<T, Space>(),
                       Sources<T, Space>(), Hidden<T, Space>());
  }

  /// `dsources` are added to; `dhidden` is what later layers want of k and v, null views for
  /// nothing.
  template <class B, class T>
    requires RunsOn<GauRetention, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends,
                     std::type_identity_t<Sources<T, typename B::Space>> sources,
                     const Hidden<T, typename B::Space>& hidden,
                     std::type_identity_t<Sources<T, typename B::Space>> dsources,
                     const Hidden<T, typename B::Space>& dhidden) const {
    differentiate_from(ctx, p, tape, hidden.v, dy, dx, gradients, ends, sources, dsources, dhidden);
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    return heads_.template initial_state<T, typename B::Space>(sequences);
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.projections = projections_.template zero_parameters<T>(ctx);
    p.group_norm.reset({heads_.head_value_dim()});
    p.to_out = readout_.template zero_parameters<T>(ctx);
    p.k_selection = k_selection_.template zero_parameters<T>(ctx);
    p.v_selection = v_selection_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    projections_.fill_parameters(p.projections, seed.fork("projections"));
    for (Index i = 0; i < p.group_norm.size(); ++i) p.group_norm(i) = Wide<T>{1};
    readout_.fill_parameters(p.to_out, seed.fork("to_out"));
    k_selection_.fill_parameters(p.k_selection, seed.fork("k_selection"));
    v_selection_.fill_parameters(p.v_selection, seed.fork("v_selection"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Projections::for_each_parameter(visit, p.projections...);
    visit(ParameterSpec{.name = "group_norm.weight", .role = ParameterRole::norm}, p.group_norm...);
    Readout::for_each_parameter(scoped("to_out.0", visit), p.to_out...);
    KeySelection::Select::for_each_parameter(scoped("k_select", visit), p.k_selection.select...);
    ValueSelection::Select::for_each_parameter(scoped("v_select", visit), p.v_selection.select...);
    KeySelection::Fusion::for_each_parameter(scoped("k_norm", visit), p.k_selection.fusion...);
    ValueSelection::Fusion::for_each_parameter(scoped("v_norm", visit), p.v_selection.fusion...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("retention"), state.retention...);
    visit(std::string("position"), state.position...);
  }

 private:
  template <class B, class T>
  void differentiate_from(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                          const Tape<T, typename B::Space>& tape,
                          std::type_identity_t<View<const T, 3, typename B::Space>> own_v,
                          std::type_identity_t<View<const T, 3, typename B::Space>> dy,
                          std::type_identity_t<View<T, 3, typename B::Space>> dx,
                          Parameters<Wide<T>, typename B::Space>& gradients,
                          const SequenceGradients<State<T, typename B::Space>>& ends,
                          Sources<T, typename B::Space> sources,
                          Sources<T, typename B::Space> dsources,
                          const Hidden<T, typename B::Space>& dhidden) const {
    using Space = typename B::Space;
    using H = Hidden<T, Space>;
    auto frame = ctx.workspace().frame();
    require_extents("gau_retention", "dy", dy, tape.projections.x.extents().to_array());
    require_extents_if_given("gau_retention", "dx", dx, dy.extents().to_array());
    const auto like = [&](const DynamicTensor<T, 3, Space>& tensor) {
      return View<T, 3, Space>(frame.template tensor<T>(tensor.extents()));
    };
    typename Projections::template Results<T, Space> d{
        .q = like(tape.q), .k = like(tape.k), .v = like(tape.g), .g = like(tape.g)};
    const auto dmixed = like(tape.g);
    const bool is_joined = !sources.empty() && is_carried();
    const bool is_read = !sources.empty() && !is_carried();
    const View<T, 3, Space> dmore = is_read ? like(tape.g) : View<T, 3, Space>();
    linear_backward(ctx, LinearBackward<T, Space>{.weight = p.to_out.weight,
                                                  .x = as_rows(tape.mixed),
                                                  .dy = as_rows(dy),
                                                  .dx = as_rows(dmixed),
                                                  .dweight = gradients.to_out.weight});
    heads_.differentiate(ctx,
                         RetentionHeads::Operands<T, Space, const T>{
                             .weight = p.group_norm,
                             .q = tape.q,
                             .k = tape.k,
                             .v = is_joined ? View<const T, 3, Space>(tape.v) : own_v,
                             .gate = tape.g},
                         tape.heads, tape.options(), dmixed,
                         RetentionHeads::Gradients<T, Space>{.q = d.q,
                                                             .k = d.k,
                                                             .v = d.v,
                                                             .gate = d.g,
                                                             .weight = gradients.group_norm,
                                                             .more = dmore},
                         ends);
    if (is_read)
      readings().differentiate(ctx, p.k_selection.select, p.v_selection.select, tape.readings,
                               tape.options(), dmore, sources, dsources, dx, d.q,
                               gradients.k_selection.select, gradients.v_selection.select);
    if (is_joined) {
      const auto dk = like(tape.k), dv = like(tape.g);
      k_selection_.differentiate(ctx, p.k_selection, tape.k_selection, d.k, sources, dsources,
                                 &H::k, dx, dk, gradients.k_selection, WriteMode::overwrite);
      v_selection_.differentiate(ctx, p.v_selection, tape.v_selection, d.v, sources, dsources,
                                 &H::v, dx, dv, gradients.v_selection, WriteMode::accumulate);
      d.k = dk;
      d.v = dv;
    }
    add_to<T>(ctx, dhidden.k.flatten(), d.k.flatten());
    add_to<T>(ctx, dhidden.v.flatten(), d.v.flatten());
    if (ends.initial_state != nullptr && dhidden.initial_state)
      add_to<Wide<T>>(ctx, dhidden.initial_state.flatten(),
                      ends.initial_state->retention.flatten());
    projections_.differentiate(ctx, p.projections, tape.projections, d, dx, gradients.projections,
                               sources.empty() ? WriteMode::overwrite : WriteMode::accumulate);
  }

  template <class T, class B>
  static void copy_flat(Context<B>& ctx,
                        std::type_identity_t<View<const T, 1, typename B::Space>> x,
                        std::type_identity_t<View<T, 1, typename B::Space>> y) {
    add(ctx, Add<T, typename B::Space>{.a = x, .y = y});
  }
  /// sum += x, unless x is null
  template <class T, class B>
  static void add_to(Context<B>& ctx, std::type_identity_t<View<const T, 1, typename B::Space>> x,
                     std::type_identity_t<View<T, 1, typename B::Space>> sum) {
    if (x) add(ctx, Add<T, typename B::Space>{.a = sum, .b = x, .y = sum});
  }

  bool is_carried() const { return fusion_ == DenseFusion::carried; }
  Readings readings() const { return {k_selection_.select(), v_selection_.select(), heads_}; }

  DenseFusion fusion_;
  Index channels_;
  RetentionHeads heads_;
  Projections projections_;
  Readout readout_;
  KeySelection k_selection_;
  ValueSelection v_selection_;
};

}  // namespace ssm
