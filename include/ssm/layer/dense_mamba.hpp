// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include "ssm/layer/dense_fusion.hpp"
#include "ssm/layer/dense_mamba_scans.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/selective_transition.hpp"

namespace ssm {

struct DenseMambaConfig {
  MambaConfig mamba{};
  Index select_hidden = 0;  // hidden width of the gate; 0: channels / select_reduction, at least 1
  Index select_reduction = dyn;  // where `select_hidden` is 0; dyn: 32, or at run time
};
/// The sizes and choices of a DenseMamba that are given at run time.
struct DenseMambaOptions {
  MambaOptions mamba{};
  Index select_hidden = dyn;     // left out: the type's, or channels / select_reduction, at least 1
  Index select_reduction = dyn;  // left out: the type's, or 32
  DenseFusion fusion = DenseFusion::readout;
};

/// A Mamba block that also reads the hidden states of earlier blocks at the same positions
/// (DenseSSM).
///   a_t = silu(h_select.fc2(silu(h_select.fc1(x_t))))
///   readout   y_t = out_proj( (C_t·h_t + D·u_t + Σ_i a_t ⊙ C_t·h^i_t) ⊙ silu(z_t) )
///   carried   y_t = out_proj( (C_t·(h_t + e_t) + D·u_t) ⊙ silu(z_t) )
///             e_t = exp(Δ_t·A)·e_{t−1} + Σ_i a_t ⊙ h^i_t
/// h is this block's own scan, h^i that of source i. The gate does not depend on n, so no state is
/// stored: C_t·h^i_t is a scan with the source's u, Δ, A, B and this block's C, and e a scan that
/// those drive. The recurrence is linear, so carrying h + e as one state, which fusion enters, is
/// the same as carrying both; later layers read h alone.
/// x, y     [B, L, channels]   y must not overlap x
/// states   as Mamba's, and carried: fused [B, inner, N], which is e. Sources bring no state of
///          their own
/// Cost    Mamba's and O(m·B·L·inner·N) for m sources, carried (m + 1)
/// Throws  ShapeError; ArgumentError  for more than 8 sources where fusion is carried
/// Source  He et al. 2024 (DenseSSM) §3.2–3.3
template <DenseMambaConfig Config>
class DenseMamba : public LayerVerbs<DenseMamba<Config>> {
  static constexpr Index width = Config.mamba.channels;
  static constexpr Index default_reduction = 32;
  static constexpr Index reduction = Config.select_reduction != dyn ? Config.select_reduction
                                     : Config.select_hidden == 0 && width != dyn ? default_reduction
                                                                                 : dyn;
  static constexpr Index gate_width(Index channels, Index reduced_by) {
    return std::max<Index>(1, channels / reduced_by);
  }
  static constexpr Index hidden_width = Config.select_hidden != 0 ? Config.select_hidden
                                        : width == dyn            ? dyn
                                                                  : gate_width(width, reduction);
  static_assert(Config.select_hidden <= 0 || Config.select_reduction == dyn || width == dyn ||
                    Config.select_hidden == gate_width(width, Config.select_reduction),
                "select_hidden and select_reduction contradict each other");
  using Inner = Mamba<Config.mamba>;
  using Select =
      SelectiveTransition<SelectiveTransitionConfig{.channels = width, .hidden = hidden_width}>;

  using Scans = DenseMambaScans<Select>;

 public:
  static constexpr auto operand_layout = OperandLayout::even_rows;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<DenseMamba, T, Space> {
    typename Inner::template Parameters<T, Space> mamba;
    typename Select::template Parameters<T, Space> select;
  };
  template <class T, class Space = HostSpace>
  struct State : Inner::template State<T, Space> {
    DynamicTensor<Wide<T>, 3, Space> fused;  // empty unless carried
  };
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    typename Inner::template Tape<T, Space> mamba;
    typename Select::template Tape<T, Space> select;
    DynamicTensor<T, 3, Space> gate;         // a
    DynamicTensor<T, 3, Space> reads;        // Σ_i C·h^i
    DynamicTensor<T, 3, Space> total;        // what silu(z) multiplies
    DynamicTensor<T, 3, Space> dt_used;      // Δ, where the caller gives no place
    DynamicTensor<Wide<T>, 3, Space> fused;  // the initial state's
  };

  /// What later layers read of this one, or the gradients of that; the initial state is a copy.
  template <class T, class Space = HostSpace>
  using Hidden = ScanInputs<T, Space>;
  /// The same for a tape.
  template <class T, class Space = HostSpace>
  struct KeptHidden {
    DynamicTensor<T, 3, Space> u, dt, B;
    DynamicTensor<Wide<T>, 2, Space> A;
    DynamicTensor<Wide<T>, 3, Space> initial_state;
  };

  /// All sizes in the type.
  DenseMamba() requires std::is_default_constructible_v<Inner> : DenseMamba(DenseMambaOptions{}) {}
  /// Sizes that are `dyn` in the type, or follow from such, the initialization and the fusion come
  /// from here.
  /// Throws  ArgumentError  for what contradicts the type or itself
  explicit DenseMamba(DenseMambaOptions options)
      : fusion_(options.fusion),
        mamba_(options.mamba),
        select_({.channels = mamba_.channels(),
                 .hidden = select_hidden_at(options, mamba_.channels()),
                 .width = mamba_.inner()}) {}

  Index channels() const { return mamba_.channels(); }
  Index inner() const { return mamba_.inner(); }
  Index state() const { return mamba_.state(); }
  DenseFusion fusion() const { return fusion_; }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<Inner, B, T> && RunsOn<Select, B, T> &&
                                   HasCascadedScan<B, T> && HasActivation<B, T> &&
                                   HasRearrange<B, T>);

  template <class B, class T>
    requires RunsOn<DenseMamba, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    evaluate<B, T>(ctx, p, x, y, tape, options, {}, {});
  }

  /// With the hidden states of earlier layers, oldest first; `hidden` is filled, where it is given.
  template <class B, class T>
    requires RunsOn<DenseMamba, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options,
                std::type_identity_t<std::span<const Hidden<T, typename B::Space>>> sources,
                const std::type_identity_t<Hidden<T, typename B::Space>>& hidden) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    auto* const inner_tape = OptionalTape(tape).part(&Tape<T, Space>::mamba);
    const auto parts = mamba_.buffers(frame, inner_tape, x.extent(0), x.extent(1), hidden.u);
    if (is_carried() && tape != nullptr && options.initial_state != nullptr)
      copy_tensor(ctx, options.initial_state->fused, tape->fused);
    mamba_.template evaluate_with<B, T>(
        ctx, p.mamba, x, y, inner_tape,
        SequenceOptions<InnerState<T, Space>>{.segments = options.segments,
                                              .initial_state = options.initial_state,
                                              .final_state = options.final_state},
        parts, [&](SelectiveScan<T, Space> scan) {
          if (hidden.u) Scans::template keep_hidden<B, T>(ctx, scan, hidden);
          if (sources.empty() && !is_carried())
            selective_scan(ctx, scan);
          else
            scan_with_sources<B, T>(ctx, p, x, tape, scan, sources, options);
        });
  }

  template <class B, class T>
    requires RunsOn<DenseMamba, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    differentiate<B, T>(ctx, p, tape, dy, dx, gradients, ends, {}, {}, {}, {});
  }

  /// The sources' gradients are added to `dsources`; `dhidden` is the gradient of `hidden` from
  /// later layers, null if there is none.
  template <class B, class T>
    requires RunsOn<DenseMamba, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends,
                     std::type_identity_t<std::span<const Hidden<T, typename B::Space>>> sources,
                     const std::type_identity_t<Hidden<T, typename B::Space>>& hidden,
                     std::type_identity_t<std::span<const Hidden<T, typename B::Space>>> dsources,
                     const std::type_identity_t<Hidden<T, typename B::Space>>& dhidden) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    auto parts = Inner::parts_of(tape.mamba);
    if (hidden.u) parts.u = hidden.u;
    View<T, 3, Space> dgate;
    if (!sources.empty()) dgate = frame.template tensor<T>(parts.u.extents());
    const typename Scans::template Connections<T, Space> connections{
        .sources = sources,
        .dsources = dsources,
        .hidden = hidden,
        .dhidden = dhidden,
        .dgate = dgate,
        .dfinal_fused = ends.final(&State<T, Space>::fused),
        .dinitial_fused = ends.initial(&State<T, Space>::fused)};
    mamba_.template differentiate_with<B, T>(
        ctx, p.mamba, tape.mamba, dy, dx, gradients.mamba,
        SequenceGradients<InnerState<T, Space>>{.final_state = ends.final_state,
                                                .initial_state = ends.initial_state},
        parts, [&](SelectiveScanBackward<T, Space> g) {
          if (sources.empty() && !is_carried())
            return Scans::template own_backward<B, T>(ctx, g, dhidden, {});
          Scans::template through_gate<B, T>(
              ctx, tape, g, [&](SelectiveScanBackward<T, Space> behind) {
                if (is_carried())
                  Scans::template carried_backward<B, T>(ctx, tape, behind, connections);
                else
                  Scans::template readout_backward<B, T>(ctx, tape, behind, connections);
              });
        });
    if (!sources.empty())
      select_.differentiate(ctx, p.select, tape.select, dgate, dx, gradients.select, {},
                            WriteMode::accumulate);
  }

  static void for_each_hidden(auto&& visit, const auto& hidden) {
    visit(hidden.u);
    visit(hidden.dt);
    visit(hidden.B);
    visit(hidden.A);
    if (hidden.initial_state) visit(hidden.initial_state);
  }

  /// Where `evaluate` leaves what later layers read: in `kept`, or in workspace.
  template <class T, class B, class Frame>
  Hidden<T, typename B::Space> hidden_buffer(Context<B>&, Frame& frame,
                                             NonDeduced<KeptHidden<T, typename B::Space>>* kept,
                                             const HiddenShape& shape) const {
    using Space = typename B::Space;
    const Index states = mamba_.state();
    using Kept = KeptHidden<T, Space>;
    const Buffers buffers(frame, kept);
    Hidden<T, Space> hidden{.u = buffers.at(&Kept::u, shape.batch, shape.length, inner()),
                            .dt = buffers.at(&Kept::dt, shape.batch, shape.length, inner()),
                            .B = buffers.at(&Kept::B, shape.batch, shape.length, states),
                            .A = buffers.at(&Kept::A, inner(), states)};
    if (shape.has_initial_state)
      hidden.initial_state = buffers.at(&Kept::initial_state, shape.sequences, inner(), states);
    return hidden;
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences) const {
    State<T, typename B::Space> state;
    static_cast<InnerState<T, typename B::Space>&>(state) =
        mamba_.template initial_state<T>(ctx, sequences);
    if (is_carried()) state.fused.reset({sequences, inner(), mamba_.state()});
    return state;
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.mamba = mamba_.template zero_parameters<T>(ctx);
    p.select = select_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    mamba_.fill_parameters(p.mamba, seed.fork("mamba"));
    select_.fill_parameters(p.select, seed.fork("h_select"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Inner::for_each_parameter(visit, p.mamba...);
    Select::for_each_parameter(scoped("h_select", visit), p.select...);
  }
  static void for_each_state(auto&& visit, auto& first, auto&... more) {
    Inner::for_each_state(visit, first, more...);
    if (first.fused.extent(1) > 0) visit(std::string("fused"), first.fused, more.fused...);
  }

 private:
  template <class T, class Space>
  using InnerState = typename Inner::template State<T, Space>;
  bool is_carried() const { return fusion_ == DenseFusion::carried; }

  static Index select_hidden_at(const DenseMambaOptions& options, Index channels) {
    const bool is_reduced = reduction != dyn || options.select_reduction != dyn;
    const Index reduced_by =
        resolve_extent(reduction, options.select_reduction, default_reduction, "select_reduction");
    const Index reduced = gate_width(channels, reduced_by);
    const Index hidden =
        resolve_extent(hidden_width, options.select_hidden, reduced, "select_hidden");
    if (is_reduced && hidden != reduced)
      throw ArgumentError(message({"select_hidden is ", hidden, " but select_reduction is ",
                                   reduced_by, " for ", channels, " channels"}));
    return hidden;
  }

  /// The scan with z held back:  y = (own + what the sources add) ⊙ silu(z)
  template <class B, class T>
  void scan_with_sources(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                         Input<B, T, dyn, dyn, width> x, Tape<T, typename B::Space>* tape,
                         SelectiveScan<T, typename B::Space> scan,
                         std::span<const Hidden<T, typename B::Space>> sources,
                         const SequenceOptions<State<T, typename B::Space>>& options) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const DynamicExtents<3> shape(x.extent(0), x.extent(1), inner());
    const auto total = buffers.at(&Kept::total, shape);
    const auto more = frame.template tensor<T>(shape);
    View<T, 3, Space> gate;
    if (!sources.empty()) {
      gate = buffers.at(&Kept::gate, shape);
      select_.evaluate(ctx, p.select, x, gate, buffers.part(&Kept::select));
    }
    const auto z = scan.gate;
    const auto y = scan.y;
    scan.gate = {};
    scan.y = total;
    if (is_carried() && !scan.dt_used) scan.dt_used = buffers.at(&Kept::dt_used, shape);
    selective_scan(ctx, scan);
    if (is_carried())
      Scans::template carry_sources<B, T>(ctx, scan, gate, sources,
                                          options.initial(&State<T, Space>::fused),
                                          options.final(&State<T, Space>::fused), more);
    else
      Scans::template read_sources<B, T>(ctx, scan, gate, sources, buffers.at(&Kept::reads, shape),
                                         more);
    Scans::add_to(ctx, total, more);
    activation(ctx, Activation<T, Space>{.kind = ActivationKind::silu,
                                         .x = as_rows(z),
                                         .gate = as_rows(total),
                                         .y = as_rows(y)});
  }

  DenseFusion fusion_;
  Inner mamba_;
  Select select_;
};

}  // namespace ssm
