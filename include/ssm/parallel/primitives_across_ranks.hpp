// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/overrides.hpp"
#include "ssm/core/scalar.hpp"
#include "ssm/op/dropout.hpp"
#include "ssm/op/h3_mixer.hpp"
#include "ssm/op/pair_rotation.hpp"
#include "ssm/op/running_mean.hpp"
#include "ssm/parallel/attention_across_ranks.hpp"
#include "ssm/parallel/cascade_across_ranks.hpp"
#include "ssm/parallel/hand_on_states.hpp"
#include "ssm/parallel/join_states.hpp"
#include "ssm/parallel/pass_states.hpp"

namespace ssm {
namespace detail {
/// Whether a backend's mixer is the one that is made of other primitives, whose entries pass the
/// states of sequences across ranks themselves.
template <class B, class T>
consteval bool composes_h3_mixer() {
  if constexpr (Real<T> && requires { typename B::ComposedH3Mixer; })
    return !overrides<B, H3Mixer<T, typename B::Space>>(&B::h3_mixer,
                                                        &B::ComposedH3Mixer::h3_mixer) &&
           !overrides<B, H3MixerBackward<T, typename B::Space>>(
               &B::h3_mixer_backward, &B::ComposedH3Mixer::h3_mixer_backward);
  else
    return false;
}
}  // namespace detail

/// How each primitive that mixes positions runs on sequences that lie across ranks: a table of
/// functions by the type of call, for as many backends and scalars as are added. A program with one
/// backend asks `primitives_across_ranks<B>()` for it. A primitive of your own is one more entry:
///   auto mine = ssm::PrimitivesAcrossRanks().add<ssm::Cpu, float>();
///   mine.add_call(+[](ssm::Context<ssm::Cpu>& ctx, const Mine<float, ssm::HostSpace>& a) { … });
/// Cost    seconds of compilation for each backend and scalar
class PrimitivesAcrossRanks final : public AcrossRanks {
 public:
  /// Adds all primitives that backend B has kernels for in these scalars, or in every scalar. A
  /// half type that B computes in float needs float.
  template <class B, class... T>
  PrimitivesAcrossRanks& add() {
    if constexpr (sizeof...(T) == 0) {
      add<B, float, double, BFloat16, Float16>();
    } else {
      (add_recurrences<B, T>(), ...);
      (add_filters_and_means<B, T>(), ...);
      (add_attention<B, T>(), ...);
      (add_dropout<B, T>(), ...);
      add_advance_position<B>();
    }
    return *this;
  }
  /// Adds one call: across(ctx, a) returns whether it has run it. It finds the cut in the context,
  /// and lays it aside by SequenceCutScope<B>(ctx, {}) for what it calls on this rank's stretch.
  template <class B, class Call>
  PrimitivesAcrossRanks& add_call(bool (*across)(Context<B>&, const Call&)) {
    calls_[call_type<B, Call>] = [across](void* context, const void* call) {
      return across(*static_cast<Context<B>*>(context), *static_cast<const Call*>(call));
    };
    return *this;
  }

  bool run(CallType type, void* context, const void* call, const char* name) const override {
    const auto found = calls_.find(type);
    if (found == calls_.end())
      throw ArgumentError(std::string(name) +
                          ": does not run on sequences that lie across ranks, or not on this "
                          "backend in this scalar");
    return found->second(context, call);
  }

 private:
  /// How states cross: as functions of each other, at once from the last positions, or one after
  /// the other.
  enum class Way { joined, handed_on, passed };

  template <Way way, class B, class Op, class Gradient, auto forward, auto backward>
  void add_pair() {
    add_call<B, Op>([](Context<B>& ctx, const Op& a) {
      const ExtentsByLetter n = require_operands(a);
      if constexpr (way == Way::joined)
        detail::states_across(ctx, a, n, forward);
      else if constexpr (way == Way::handed_on)
        detail::hand_on_states(ctx, a, n, forward);
      else
        detail::pass_states < requires(Gradient g) { g.forward; }
      > (ctx, a, n, forward);
      return true;
    });
    add_call<B, Gradient>([](Context<B>& ctx, const Gradient& g) {
      const ExtentsByLetter n = require_gradients<Op>(g);
      if constexpr (way == Way::joined)
        detail::gradients_across<Op>(ctx, g, n, forward, backward);
      else if constexpr (way == Way::handed_on)
        detail::hand_on_gradients<Op>(ctx, g, n, forward, backward);
      else
        detail::pass_gradients<Op>(ctx, g, n, forward, backward);
      return true;
    });
  }

  // Each where the backend has kernels for the scalar itself.

  template <class B, class T>
  void add_recurrences() {
    using S = typename B::Space;
    using Ctx = Context<B>;
    if constexpr (HasDiagonalScan<B, T> &&
                  requires(Ctx & ctx, const DiagonalScan<T, S>& a) { B::diagonal_scan(ctx, a); })
      add_pair<Way::joined, B, DiagonalScan<T, S>, DiagonalScanBackward<T, S>, diagonal_scan<B, T>,
               diagonal_scan_backward<B, T>>();
    if constexpr (HasSelectiveScan<B, T> &&
                  requires(Ctx & ctx, const SelectiveScan<T, S>& a) { B::selective_scan(ctx, a); })
      add_pair<Way::joined, B, SelectiveScan<T, S>, SelectiveScanBackward<T, S>,
               selective_scan<B, T>, selective_scan_backward<B, T>>();
    if constexpr (HasSsdScan<B, T> &&
                  requires(Ctx & ctx, const SsdScan<T, S>& a) { B::ssd_scan(ctx, a); })
      add_pair<Way::joined, B, SsdScan<T, S>, SsdScanBackward<T, S>, ssd_scan<B, T>,
               ssd_scan_backward<B, T>>();
    if constexpr (HasDecayedAttention<B, T> &&
                  requires(Ctx & ctx, const DecayedAttention<T, S>& a) {
                    B::decayed_attention(ctx, a);
                  })
      add_pair<Way::joined, B, DecayedAttention<T, S>, DecayedAttentionBackward<T, S>,
               decayed_attention<B, T>, decayed_attention_backward<B, T>>();
    if constexpr (HasCascadedScan<B, T> && HasSelectiveScan<B, T> &&
                  requires(Ctx & ctx, const CascadedScan<T, S>& a) { B::cascaded_scan(ctx, a); })
      add_cascaded_scan<B, T>();
  }
  template <class B, class T>
  void add_cascaded_scan() {
    using Op = CascadedScan<T, typename B::Space>;
    using Gradient = CascadedScanBackward<T, typename B::Space>;
    add_call<B, Op>([](Context<B>& ctx, const Op& a) {
      detail::cascade_across(ctx, a, require_operands(a), cascaded_scan<B, T>);
      return true;
    });
    add_call<B, Gradient>([](Context<B>& ctx, const Gradient& g) {
      detail::cascade_across_backward<Op>(ctx, g, require_gradients<Op>(g), cascaded_scan<B, T>,
                                          cascaded_scan_backward<B, T>);
      return true;
    });
  }

  template <class B, class T>
  void add_filters_and_means() {
    using S = typename B::Space;
    using Ctx = Context<B>;
    if constexpr (HasShiftConvolution<B, T> &&
                  requires(Ctx & ctx, const ShiftConvolution<T, S>& a) {
                    B::shift_convolution(ctx, a);
                  })
      add_pair<Way::handed_on, B, ShiftConvolution<T, S>, ShiftConvolutionBackward<T, S>,
               shift_convolution<B, T>, shift_convolution_backward<B, T>>();
    if constexpr (HasShortConvolution<B, T> &&
                  requires(Ctx & ctx, const ShortConvolution<T, S>& a) {
                    B::short_convolution(ctx, a);
                  })
      add_pair<Way::handed_on, B, ShortConvolution<T, S>, ShortConvolutionBackward<T, S>,
               short_convolution<B, T>, short_convolution_backward<B, T>>();
    if constexpr (HasRunningMean<B, T> &&
                  requires(Ctx & ctx, const RunningMean<T, S>& a) { B::running_mean(ctx, a); })
      add_pair<Way::passed, B, RunningMean<T, S>, RunningMeanBackward<T, S>, running_mean<B, T>,
               running_mean_backward<B, T>>();
    if constexpr (HasH3Mixer<B, T> &&
                  requires(Ctx & ctx, const H3Mixer<T, S>& a) { B::h3_mixer(ctx, a); }) {
      if constexpr (detail::composes_h3_mixer<B, T>()) {
        add_call<B, H3Mixer<T, S>>([](Ctx&, const H3Mixer<T, S>&) { return false; });
        add_call<B, H3MixerBackward<T, S>>(
            [](Ctx&, const H3MixerBackward<T, S>&) { return false; });
      } else {
        add_pair<Way::passed, B, H3Mixer<T, S>, H3MixerBackward<T, S>, h3_mixer<B, T>,
                 h3_mixer_backward<B, T>>();
      }
    }
  }

  template <class B, class T>
  void add_attention() {
    using S = typename B::Space;
    using Ctx = Context<B>;
    if constexpr (HasAttention<B, T> &&
                  requires(Ctx & ctx, const Attention<T, S>& a) { B::attention(ctx, a); }) {
      add_call<B, Attention<T, S>>([](Ctx& ctx, const Attention<T, S>& a) {
        detail::attend_across(ctx, a, attention<B, T>);
        return true;
      });
      add_call<B, AttentionBackward<T, S>>([](Ctx& ctx, const AttentionBackward<T, S>& g) {
        detail::attend_across_backward<Attention<T, S>>(ctx, g, attention_backward<B, T>);
        return true;
      });
    }
    if constexpr (HasAttention<B, T> &&
                  requires(Ctx & ctx, const Rotary<T, S>& a) { B::rotary(ctx, a); })
      add_call<B, Rotary<T, S>>([](Ctx& ctx, const Rotary<T, S>& a) {
        detail::rotate_across(ctx, a, rotary<B, T>);
        return true;
      });
    if constexpr (HasDecayedAttention<B, T> &&
                  requires(Ctx & ctx, const DecayedScoreNorm<T, S>& a) {
                    B::decayed_score_norm(ctx, a);
                  })
      add_call<B, DecayedScoreNorm<T, S>>([](Ctx& ctx, const DecayedScoreNorm<T, S>& a) {
        detail::score_norm_across(ctx, a, decayed_score_norm<B, T>);
        return true;
      });
    if constexpr (Real<T> && HasDecayedAttention<B, T>)
      add_shifted<B, RetentionScale<T, S>, retention_scale<B, T>>();
    if constexpr (HasPairRotation<B, T> &&
                  requires(Ctx & ctx, const PairRotation<T, S>& a) { B::pair_rotation(ctx, a); })
      add_shifted<B, PairRotation<T, S>, pair_rotation<B, T>>();
  }
  /// A call that reads at which positions its sequences begin.
  template <class B, class Call, auto entry>
  void add_shifted() {
    add_call<B, Call>([](Context<B>& ctx, const Call& a) {
      detail::shift_positions(ctx, a, require_operands(a)['S'], entry);
      return true;
    });
  }
  template <class B>
  void add_advance_position() {
    using Call = AdvancePosition<typename B::Space>;
    if constexpr (HasPairRotation<B>)
      add_call<B, Call>([](Context<B>& ctx, const Call& a) {
        if (a.length == 0 && a.segments.empty()) return false;  // a copy
        detail::shift_positions(ctx, a, require_operands(a)['S'], advance_position<B>);
        return true;
      });
  }

  /// Each rank has a mask of its own.
  template <class B, class T>
  void add_dropout() {
    using Call = Dropout<T, typename B::Space>;
    if constexpr (HasDropout<B, T> &&
                  requires(Context<B> & ctx, const Call& a) { B::dropout(ctx, a); })
      add_call<B, Call>([](Context<B>& ctx, const Call& a) {
        const int rank = ctx.sequence_cut()->ranks->rank();
        const SequenceCutScope<B> whole(ctx, {});
        Call own = a;
        own.seed = a.seed.fork(static_cast<std::uint64_t>(rank));
        dropout(ctx, own);
        return true;
      });
  }

  std::unordered_map<CallType, std::function<bool(void*, const void*)>> calls_;
};

/// The primitives of one backend, in these scalars or in all that it has.
template <class B, class... T>
const PrimitivesAcrossRanks& primitives_across_ranks() {
  static const PrimitivesAcrossRanks all = PrimitivesAcrossRanks().add<B, T...>();
  return all;
}

}  // namespace ssm
