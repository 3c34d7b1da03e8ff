// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include "ssm/layer/mamba.hpp"
#include "ssm/layer/selective_transition.hpp"

namespace ssm {

struct DenseMambaConfig {
  MambaConfig mamba{};
  Index select_hidden = 0;  // hidden width of the gate; 0: channels / select_reduction, at least 1
  Index select_reduction = 32;  // used where `select_hidden` is 0
};

/// A Mamba block that also reads the hidden states of earlier blocks at the same positions (DenseSSM).
///   a_t = silu(h_select.fc2(silu(h_select.fc1(x_t))))
///   y_t = out_proj( (C_t·h_t + D·u_t + Σ_i a_t ⊙ C_t·h^i_t) ⊙ silu(z_t) )
/// h^i is the state of source i's own scan. The gate does not depend on n, so no state is stored: C_t·h^i_t is a scan with
/// the source's u, Δ, A, B and this block's C. What earlier blocks carry on is their own: fusion is for reading only.
/// x, y     [B, L, channels]
/// states   as Mamba's: sources bring no state of their own
/// Cost    Mamba's and O(m·B·L·inner·N) for m sources
/// Throws  ShapeError
/// Source  He et al. 2024 (DenseSSM) §3.2–3.3, read-out form
template <DenseMambaConfig Config>
class DenseMamba : public LayerVerbs<DenseMamba<Config>> {
  static constexpr Index width = Config.mamba.channels;
  using Inner = Mamba<Config.mamba>;
  using Select = SelectiveTransition<SelectiveTransitionConfig{
      .channels = width,
      .hidden = Config.select_hidden != 0 ? Config.select_hidden
                : width == dyn            ? dyn
                                          : std::max<Index>(1, width / Config.select_reduction)}>;

 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<DenseMamba, T, Space> {
    typename Inner::template Parameters<T, Space> mamba;
    typename Select::template Parameters<T, Space> select;
  };
  template <class T, class Space = HostSpace>
  using State = typename Inner::template State<T, Space>;
  template <class T, class Space = HostSpace>
  struct Tape {
    typename Inner::template Tape<T, Space> mamba;
    typename Select::template Tape<T, Space> select;
    DynamicTensor<T, 3, Space> gate;   // a
    DynamicTensor<T, 3, Space> reads;  // Σ_i C·h^i
    DynamicTensor<T, 3, Space> total;  // what silu(z) multiplies
  };

  /// What later layers read of this one, or the gradients of that.
  template <class T, class Space = HostSpace>
  struct Hidden {
    View<T, 3, Space> u{};              // [B, L, inner]
    View<T, 3, Space> delta{};          // [B, L, inner]   Δ, after bias and softplus
    View<T, 3, Space> B{};              // [B, L, N]
    View<T, 2, Space> A{};              // [inner, N]
    View<T, 3, Space> initial_state{};  // [S, inner, N]   a copy; null from zero
  };
  /// The same for a tape.
  template <class T, class Space = HostSpace>
  struct KeptHidden {
    DynamicTensor<T, 3, Space> u, delta, B;
    DynamicTensor<T, 2, Space> A;
    DynamicTensor<T, 3, Space> initial_state;
  };

  /// All sizes in the type.
  DenseMamba() requires(std::is_default_constructible_v<Inner>) : DenseMamba(Config) {}
  /// Sizes that are `dyn` in the type, or follow from such, come from here.
  explicit DenseMamba(DenseMambaConfig at_run_time)
      : mamba_(at_run_time.mamba),
        select_({.channels = mamba_.channels(),
                 .hidden = select_hidden_at(at_run_time, mamba_.channels()),
                 .width = mamba_.inner()}) {}

  Index channels() const { return mamba_.channels(); }
  Index inner() const { return mamba_.inner(); }
  Index state() const { return mamba_.state(); }

  template <class B, class T>
    requires HasMatmul<B> && HasShortConvolution<B> && HasSelectiveScan<B> &&
        HasDiagonalParameters<B> && HasActivation<B> && HasRearrange<B>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                Kept<Tape<T, typename B::Space>> tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    evaluate<B, T>(ctx, p, x, y, tape, options, {}, {});
  }

  /// With the hidden states of earlier layers, oldest first; `hidden` is filled, where it is given.
  template <class B, class T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                Kept<Tape<T, typename B::Space>> tape,
                const SequenceOptions<State<T, typename B::Space>>& options,
                std::type_identity_t<std::span<const Hidden<T, typename B::Space>>> sources,
                const std::type_identity_t<Hidden<T, typename B::Space>>& hidden) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto parts =
        mamba_.rooms(frame, tape ? &tape->mamba : nullptr, x.extent(0), x.extent(1), hidden.u);
    mamba_.template evaluate_with<B, T>(ctx, p.mamba, x, y, tape ? &tape->mamba : nullptr, options,
                                        parts, [&](SelectiveScan<T, Space> scan) {
                                          if (hidden.u) keep_hidden<B, T>(ctx, scan, hidden);
                                          if (sources.empty())
                                            selective_scan(ctx, scan);
                                          else
                                            scan_with_sources<B, T>(ctx, p, x, tape, scan, sources);
                                        });
  }

  template <class B, class T>
  void backward(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                Output<B, T, dyn, dyn, width> dx, Parameters<T, typename B::Space>& gradients,
                const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    backward<B, T>(ctx, p, tape, dy, dx, gradients, ends, {}, {}, {}, {});
  }

  /// The sources' gradients are added to `dsources`; `dhidden` is what later layers say of `hidden`, null where they say
  /// nothing.
  template <class B, class T>
  void backward(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                Output<B, T, dyn, dyn, width> dx, Parameters<T, typename B::Space>& gradients,
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
    mamba_.template backward_with<B, T>(ctx, p.mamba, tape.mamba, dy, dx, gradients.mamba, ends,
                                        parts, [&](SelectiveScanBackward<T, Space> g) {
                                          if (sources.empty())
                                            own_backward<B, T>(ctx, g, dhidden);
                                          else
                                            sources_backward<B, T>(ctx, tape, g, sources, dsources,
                                                                   dhidden, dgate);
                                        });
    if (!sources.empty())
      select_.backward(ctx, p.select, tape.select, dgate, dx, gradients.select, {}, true);
  }

  static void for_each_hidden(auto&& visit, const auto& hidden) {
    visit(hidden.u);
    visit(hidden.delta);
    visit(hidden.B);
    visit(hidden.A);
    if (hidden.initial_state) visit(hidden.initial_state);
  }

  /// Where `evaluate` leaves what later layers read: in `kept`, or in workspace.
  template <class T, class B, class Frame>
  Hidden<T, typename B::Space> hidden_room(
      Context<B>&, Frame& frame, std::type_identity_t<KeptHidden<T, typename B::Space>>* kept,
      Index batch, Index length, Index sequences, bool has_initial_state) const {
    using Space = typename B::Space;
    const Index states = mamba_.state();
    Hidden<T, Space> hidden{
        .u = room<T, Space>(frame, kept ? &kept->u : nullptr, batch, length, inner()),
        .delta = room<T, Space>(frame, kept ? &kept->delta : nullptr, batch, length, inner()),
        .B = room<T, Space>(frame, kept ? &kept->B : nullptr, batch, length, states),
        .A = room<T, Space>(frame, kept ? &kept->A : nullptr, inner(), states)};
    if (has_initial_state)
      hidden.initial_state =
          room<T, Space>(frame, kept ? &kept->initial_state : nullptr, sequences, inner(), states);
    return hidden;
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences) const {
    return mamba_.template initial_state<T>(ctx, sequences);
  }

  template <class T = float, class B>
  Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.mamba = mamba_.template zero_parameters<T>(ctx);
    p.select = select_.template zero_parameters<T>(ctx);
    return p;
  }

  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, Seed seed) const {
    mamba_.fill_parameters(p.mamba, seed.fork("mamba"));
    select_.fill_parameters(p.select, seed.fork("h_select"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    Inner::for_each_parameter(visit, p.mamba...);
    Select::for_each_parameter(scoped("h_select", visit), p.select...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    Inner::for_each_state(visit, state...);
  }

 private:
  static Index select_hidden_at(const DenseMambaConfig& at_run_time, Index channels) {
    if (at_run_time.select_hidden > 0) return at_run_time.select_hidden;
    if (Config.select_hidden > 0) return Config.select_hidden;
    const Index reduction = resolve_option(Config.select_reduction, at_run_time.select_reduction,
                                           DenseMambaConfig{}.select_reduction);
    return std::max<Index>(1, channels / reduction);
  }

  template <class B, class T>
  static void keep_hidden(Context<B>& ctx, SelectiveScan<T, typename B::Space>& scan,
                          const Hidden<T, typename B::Space>& hidden) {
    using Space = typename B::Space;
    const Index inner = scan.A.extent(0), states = scan.A.extent(1);
    scan.step = hidden.delta;
    rearrange(ctx, Rearrange<T, Space>{.x = scan.B, .y = hidden.B});
    rearrange(ctx, Rearrange<T, Space>{.x = scan.A.reshape(1, inner, states),
                                       .y = hidden.A.reshape(1, inner, states)});
    if (hidden.initial_state && scan.initial_state)
      rearrange(ctx, Rearrange<T, Space>{.x = scan.initial_state, .y = hidden.initial_state});
  }

  /// A source's states read by this block.
  template <class T, class Space>
  static SelectiveScan<T, Space> reading(const Hidden<T, Space>& source, View<const T, 3, Space> C,
                                         Segments segments) {
    return {.u = source.u,
            .delta = source.delta,
            .A = source.A,
            .B = source.B,
            .C = C,
            .segments = segments,
            .initial_state = source.initial_state};
  }

  /// The scan with z held back:  y = (own + a ⊙ Σ_i reading_i) ⊙ silu(z)
  template <class B, class T>
  void scan_with_sources(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                         Input<B, T, dyn, dyn, width> x, Tape<T, typename B::Space>* tape,
                         SelectiveScan<T, typename B::Space> scan,
                         std::span<const Hidden<T, typename B::Space>> sources) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto sequence = [&](DynamicTensor<T, 3, Space>* kept) {
      return room<T, Space>(frame, kept, x.extent(0), x.extent(1), inner());
    };
    const auto gate = sequence(tape ? &tape->gate : nullptr);
    const auto reads = sequence(tape ? &tape->reads : nullptr);
    const auto total = sequence(tape ? &tape->total : nullptr);
    const auto more = sequence(nullptr);
    const auto z = scan.gate;
    const auto y = scan.y;
    scan.gate = {};
    scan.y = total;
    selective_scan(ctx, scan);
    for (std::size_t i = 0; i < sources.size(); ++i) {
      auto read = reading<T, Space>(sources[i], scan.C, scan.segments);
      read.y = i == 0 ? reads : more;
      selective_scan(ctx, read);
      if (i > 0) add_to<B, T>(ctx, reads, more);
    }
    select_.evaluate(ctx, p.select, x, gate, tape ? &tape->select : nullptr);
    Select::template select<T>(ctx, gate, reads, more);
    add_to<B, T>(ctx, total, more);
    activation(ctx, Activation<T, Space>{.kind = ActivationKind::silu,
                                         .x = as_rows(z),
                                         .gate = as_rows(total),
                                         .y = as_rows(y)});
  }

  /// The block's own scan, and what later layers say of it.
  template <class B, class T>
  static void own_backward(Context<B>& ctx, SelectiveScanBackward<T, typename B::Space> g,
                           const Hidden<T, typename B::Space>& dhidden) {
    using Space = typename B::Space;
    if (!dhidden.u) return selective_scan_backward(ctx, g);
    auto frame = ctx.workspace().frame();
    const auto dB = g.dB;
    g.dB = frame.template tensor<T>(dB.extents());
    g.dstep = dhidden.delta;
    selective_scan_backward(ctx, g);
    add_to<B, T>(ctx, g.dB, dhidden.B);
    rearrange(ctx, Rearrange<T, Space>{.x = g.dB, .y = dB});
    add_to<B, T>(ctx, g.du, dhidden.u);
    add_to<B, T>(ctx, g.dA, dhidden.A);
    if (g.dinitial_state && dhidden.initial_state)
      add_to<B, T>(ctx, g.dinitial_state, dhidden.initial_state);
  }

  template <class B, class T>
  static void sources_backward(Context<B>& ctx, const Tape<T, typename B::Space>& tape,
                               SelectiveScanBackward<T, typename B::Space> g,
                               std::span<const Hidden<T, typename B::Space>> sources,
                               std::span<const Hidden<T, typename B::Space>> dsources,
                               const Hidden<T, typename B::Space>& dhidden,
                               View<T, 3, typename B::Space> dgate) {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto dtotal = frame.template tensor<T>(g.dy.extents());
    activation_backward(
        ctx, ActivationBackward<T, Space>{.forward = {.kind = ActivationKind::silu,
                                                      .x = as_rows(g.forward.gate),
                                                      .gate = as_rows(tape.total.view())},
                                          .dy = as_rows(g.dy),
                                          .dx = as_rows(g.dgate),
                                          .dgate = as_rows(dtotal)});
    g.forward.gate = {};
    g.dgate = {};
    g.dy = dtotal;
    own_backward<B, T>(ctx, g, dhidden);
    Select::template select_backward<T>(ctx, tape.gate, tape.reads, dtotal, dtotal, dgate);
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const auto& to = dsources[i];
      selective_scan_backward(
          ctx, SelectiveScanBackward<T, Space>{
                   .forward = reading<T, Space>(sources[i], g.forward.C, g.forward.segments),
                   .dy = dtotal,
                   .accumulate = true,
                   .du = to.u,
                   .ddelta = to.delta,
                   .dA = to.A,
                   .dB = to.B,
                   .dC = g.dC,
                   .dinitial_state = to.initial_state});
    }
  }

  /// sum += more; both without gaps.
  template <class B, class T, class V>
  static void add_to(Context<B>& ctx, const V& sum, const V& more) {
    add(ctx,
        Add<T, typename B::Space>{.a = sum.flatten(), .b = more.flatten(), .y = sum.flatten()});
  }

  Inner mamba_;
  Select select_;
};

}  // namespace ssm
