// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <span>

#include "ssm/layer/hidden_fusion.hpp"
#include "ssm/layer/selective_transition.hpp"

namespace ssm {

/// A dense connection of DenseSSM: what is selected from earlier layers' hidden states joins this
/// layer's own.
///   y = RMS(h + Σ_i a(x) ⊙ h_i)
/// with one gate a for all sources, so that their sum is what passes it.
/// x        [B, L, channels]
/// h, h_i   [B, L, width]   contiguous
/// y        [B, L, width]
/// Sources come as any aggregate of views, and a pointer to the member that is meant.
/// Source  He et al. 2024 (DenseSSM) §3.2–3.4
template <SelectiveTransitionConfig Config>
class DenseSelection {
 public:
  using Select = SelectiveTransition<Config>;
  using Fusion = HiddenFusion<HiddenFusionConfig{.channels = Config.width}>;
  template <class T, class Space>
  using Sequence = std::type_identity_t<View<T, 3, Space>>;

  template <class T, class Space = HostSpace>
  struct Parameters {
    typename Select::template Parameters<T, Space> select;
    typename Fusion::template Parameters<T, Space> fusion;
  };
  template <class T, class Space = HostSpace>
  struct Tape {
    typename Select::template Tape<T, Space> select;
    typename Fusion::template Tape<T, Space> fusion;
    DynamicTensor<T, 3, Space> gate;
  };

  DenseSelection(SelectiveTransitionOptions options, double eps)
      : select_(options), fusion_({.channels = select_.outputs(), .eps = eps}) {}

  const Select& select() const { return select_; }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<Select, B, T> && RunsOn<Fusion, B, T>);

  template <class B, class T, class Source>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Sequence<const T, typename B::Space> x, Sequence<const T, typename B::Space> h,
                std::span<const Source> sources, View<T, 3, typename B::Space> Source::*part,
                Sequence<T, typename B::Space> y,
                NonDeduced<Tape<T, typename B::Space>>* tape) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    const auto gate = buffers.at(&Kept::gate, h.extents());
    const View<T, 3, Space> selected = frame.template tensor<T>(h.extents());
    select_.evaluate(ctx, p.select, x, gate, buffers.part(&Kept::select));
    Select::template select<T>(ctx, gate, sum<T>(ctx, frame, sources, part), selected);
    const std::array<View<const T, 3, Space>, 1> dense{selected};
    fusion_.evaluate(ctx, p.fusion, h, dense, y, buffers.part(&Kept::fusion));
  }

  /// dh is overwritten, dx as `dx_mode` says; the sources' gradients are added to.
  template <class B, class T, class Source>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape,
                     Sequence<const T, typename B::Space> dy, std::span<const Source> sources,
                     std::span<const Source> dsources, View<T, 3, typename B::Space> Source::*part,
                     Sequence<T, typename B::Space> dx, Sequence<T, typename B::Space> dh,
                     Parameters<Wide<T>, typename B::Space>& gradients, WriteMode dx_mode) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    fusion_.differentiate(ctx, p.fusion, tape.fusion, dy, dh, gradients.fusion);
    const View<T, 3, Space> dselected = frame.template tensor<T>(dh.extents());
    const View<T, 3, Space> dgate = frame.template tensor<T>(dh.extents());
    Select::template select_backward<T>(ctx, tape.gate, sum<T>(ctx, frame, sources, part), dh,
                                        dselected, dgate);
    for (const Source& source : dsources)
      if (source.*part)
        add(ctx, Add<T, Space>{.a = (source.*part).flatten(),
                               .b = dselected.flatten(),
                               .y = (source.*part).flatten()});
    select_.differentiate(ctx, p.select, tape.select, dgate, dx, gradients.select, {}, dx_mode);
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.select = select_.template zero_parameters<T>(ctx);
    p.fusion = fusion_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    select_.fill_parameters(p.select, seed.fork("select"));
    fusion_.fill_parameters(p.fusion, seed.fork("fusion"));
  }

 private:
  /// Σ_i h_i; of a single source, the source itself.
  template <class T, class B, class Frame, class Source>
  static View<T, 3, typename B::Space> sum(Context<B>& ctx, Frame& frame,
                                           std::span<const Source> sources,
                                           View<T, 3, typename B::Space> Source::*part) {
    using Space = typename B::Space;
    View<T, 3, Space> so_far = sources[0].*part;
    if (sources.size() == 1) return so_far;
    const View<T, 3, Space> all = frame.template tensor<T>(so_far.extents());
    for (const Source& source : sources.subspan(1)) {
      add(ctx,
          Add<T, Space>{.a = so_far.flatten(), .b = (source.*part).flatten(), .y = all.flatten()});
      so_far = all;
    }
    return all;
  }

  Select select_;
  Fusion fusion_;
};

}  // namespace ssm
