// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/layer/selective_transition.hpp"
#include "ssm/op/cascaded_scan.hpp"
#include "ssm/op/rearrange.hpp"
#include "ssm/op/selective_scan.hpp"

namespace ssm {

/// How a DenseMamba block scans together with its sources, for either kind of fusion, and the
/// gradients of that. Select is the block's SelectiveTransition.
template <class Select>
struct DenseMambaScans {
  template <class T, class Space>
  using Hidden = ScanInputs<T, Space>;
  /// What a backward pass is given by and for other layers and the ends of the sequence. Null views
  /// where there is nothing.
  template <class T, class Space>
  struct Connections {
    std::span<const Hidden<T, Space>> sources, dsources;
    const Hidden<T, Space>&hidden, &dhidden;
    View<T, 3, Space> dgate;
    View<const Wide<T>, 3, Space> dfinal_fused;
    View<Wide<T>, 3, Space> dinitial_fused;
  };

  /// Has the scan leave its steps, and copies what else later layers read.
  template <class B, class T>
  static void keep_hidden(Context<B>& ctx, SelectiveScan<T, typename B::Space>& scan,
                          const Hidden<T, typename B::Space>& hidden) {
    using Space = typename B::Space;
    const Index inner = scan.A.extent(0), states = scan.A.extent(1);
    scan.dt_used = hidden.dt;
    rearrange(ctx, Rearrange<T, Space>{.x = scan.B, .y = hidden.B});
    rearrange(ctx, Rearrange<Wide<T>, Space>{.x = scan.A.reshape(1, inner, states),
                                             .y = hidden.A.reshape(1, inner, states)});
    if (hidden.initial_state && scan.initial_state)
      rearrange(ctx, Rearrange<Wide<T>, Space>{.x = scan.initial_state, .y = hidden.initial_state});
  }

  /// A source's states read by this block.
  template <class T, class Space>
  static SelectiveScan<T, Space> reading(const Hidden<T, Space>& source, View<const T, 3, Space> C,
                                         Segments segments) {
    return {.u = source.u,
            .dt = source.dt,
            .A = source.A,
            .B = source.B,
            .C = C,
            .segments = segments,
            .initial_state = source.initial_state};
  }

  /// y = a ⊙ Σ_i reading_i
  template <class B, class T>
  static void read_sources(Context<B>& ctx, const SelectiveScan<T, typename B::Space>& scan,
                           const View<T, 3, typename B::Space>& gate,
                           std::span<const Hidden<T, typename B::Space>> sources,
                           const View<T, 3, typename B::Space>& reads,
                           const View<T, 3, typename B::Space>& y) {
    for (std::size_t i = 0; i < sources.size(); ++i) {
      auto read = reading<T, typename B::Space>(sources[i], scan.C, scan.segments);
      read.y = i == 0 ? reads : y;
      selective_scan(ctx, read);
      if (i > 0) add_to(ctx, reads, y);
    }
    Select::template select<T>(ctx, gate, reads, y);
  }

  /// y = C·e
  template <class B, class T>
  static void carry_sources(Context<B>& ctx, const SelectiveScan<T, typename B::Space>& scan,
                            const View<T, 3, typename B::Space>& gate,
                            std::span<const Hidden<T, typename B::Space>> sources,
                            const View<const Wide<T>, 3, typename B::Space>& initial_fused,
                            const View<Wide<T>, 3, typename B::Space>& final_fused,
                            const View<T, 3, typename B::Space>& y) {
    cascaded_scan(ctx, CascadedScan<T, typename B::Space>{.sources = sources,
                                                          .gate = gate,
                                                          .dt = scan.dt_used,
                                                          .A = scan.A,
                                                          .C = scan.C,
                                                          .segments = scan.segments,
                                                          .initial_state = initial_fused,
                                                          .final_state = final_fused,
                                                          .y = y});
  }

  /// The gradient of the block's own scan, from later layers and from `ddt_used` if it is given.
  template <class B, class T>
  static void own_backward(Context<B>& ctx, SelectiveScanBackward<T, typename B::Space> g,
                           const Hidden<T, typename B::Space>& dhidden,
                           std::type_identity_t<View<T, 3, typename B::Space>> ddt_used) {
    using Space = typename B::Space;
    g.ddt_used = ddt_used;
    if (!dhidden.u) return selective_scan_backward(ctx, g);
    auto frame = ctx.workspace().frame();
    const auto dB = g.dB;
    g.dB = frame.template tensor<T>(dB.extents());
    if (ddt_used)
      add_to(ctx, ddt_used, dhidden.dt);
    else
      g.ddt_used = dhidden.dt;
    selective_scan_backward(ctx, g);
    add_to(ctx, g.dB, dhidden.B);
    rearrange(ctx, Rearrange<T, Space>{.x = g.dB, .y = dB});
    add_to(ctx, g.du, dhidden.u);
    add_to(ctx, g.dA, dhidden.A);
    if (g.dinitial_state && dhidden.initial_state)
      add_to(ctx, g.dinitial_state, dhidden.initial_state);
  }

  /// The gradient of z, then run(what is left for what silu(z) multiplies).
  template <class B, class T, class Tape, class Run>
  static void through_gate(Context<B>& ctx, const Tape& tape,
                           SelectiveScanBackward<T, typename B::Space> g, Run&& run) {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto dtotal = frame.template tensor<T>(g.dy.extents());
    activation_backward(ctx, ActivationBackward<T, Space>{.forward = {.kind = ActivationKind::silu,
                                                                      .x = as_rows(g.forward.gate),
                                                                      .gate = as_rows(tape.total)},
                                                          .dy = as_rows(g.dy),
                                                          .dx = as_rows(g.dgate),
                                                          .dgate = as_rows(dtotal)});
    g.forward.gate = {};
    g.dgate = {};
    g.dy = dtotal;
    run(g);
  }

  /// `tape` is the block's.
  template <class B, class T, class Tape>
  static void readout_backward(Context<B>& ctx, const Tape& tape,
                               const SelectiveScanBackward<T, typename B::Space>& g,
                               const Connections<T, typename B::Space>& with) {
    using Space = typename B::Space;
    own_backward<B, T>(ctx, g, with.dhidden, {});
    auto frame = ctx.workspace().frame();
    const auto dreads = frame.template tensor<T>(g.dy.extents());
    Select::template select_backward<T>(ctx, tape.gate, tape.reads, g.dy, dreads, with.dgate);
    for (std::size_t i = 0; i < with.sources.size(); ++i) {
      const auto& to = with.dsources[i];
      selective_scan_backward(
          ctx, SelectiveScanBackward<T, Space>{
                   .forward = reading<T, Space>(with.sources[i], g.forward.C, g.forward.segments),
                   .dy = dreads,
                   .accumulate = true,
                   .du = to.u,
                   .ddt = to.dt,
                   .dA = to.A,
                   .dB = to.B,
                   .dC = g.dC,
                   .dinitial_state = to.initial_state});
    }
  }

  template <class B, class T, class Tape>
  static void carried_backward(Context<B>& ctx, const Tape& tape,
                               SelectiveScanBackward<T, typename B::Space> g,
                               const Connections<T, typename B::Space>& with) {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const View<T, 3, Space> ddt_used = frame.template tensor<T>(g.dy.extents());
    const View<T, 3, Space> dC = frame.template tensor<T>(g.dC.extents());
    const View<T, 3, Space> own_dC = frame.template tensor<T>(g.dC.extents());
    CascadedScanBackward<T, Space> cascaded{
        .forward = {.sources = with.sources,
                    .dt = with.hidden.u ? with.hidden.dt : tape.dt_used.view(),
                    .A = g.forward.A,
                    .C = g.forward.C,
                    .segments = g.forward.segments},
        .dy = g.dy,
        .dfinal_state = with.dfinal_fused,
        .dsources = with.dsources,
        .dgate = with.dgate,
        .ddt = ddt_used,
        .dA = g.dA,
        .dC = dC,
        .dinitial_state = with.dinitial_fused};
    if (!with.sources.empty()) cascaded.forward.gate = tape.gate;
    if (tape.mamba.has_initial_state) cascaded.forward.initial_state = tape.fused;
    cascaded_scan_backward(ctx, cascaded);
    const auto to = g.dC;
    g.dC = own_dC;
    own_backward<B, T>(ctx, g, with.dhidden, ddt_used);
    add_to(ctx, dC, own_dC);
    rearrange(ctx, Rearrange<T, Space>{.x = dC, .y = to});
  }

  /// sum += more; both without gaps.
  template <class B, class V>
  static void add_to(Context<B>& ctx, const V& sum, const V& more) {
    add(ctx, Add<typename V::Value, typename B::Space>{
                 .a = sum.flatten(), .b = more.flatten(), .y = sum.flatten()});
  }
};

}  // namespace ssm
