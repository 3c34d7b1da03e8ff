// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/layer/layer.hpp"
#include "ssm/op/shift_convolution.hpp"

namespace ssm {

struct ShiftSsmConfig {
  Index channels = dyn;
  Index state = 64;  // N: how many positions are remembered
};
/// The sizes of a ShiftSsm that are given at run time.
struct ShiftSsmOptions {
  Index channels = dyn;
  Index state = dyn;  // left out: the type's, or 64
};

/// A shift state-space model per channel: the state is the last N inputs, the output a learned
/// N-tap filter and a skip.
///   s_t[0] = B[0]·x_t    s_t[n] = s_{t−1}[n−1] + B[n]·x_t    y_t = Σ_n C[n]·s_t[n] + D·x_t
/// x, y    [B, L, channels]   y must not overlap x
/// state   [B, channels, N]
/// Cost    O(B·L·channels·N)
/// Throws  ShapeError
/// Source  Fu et al. 2023 (H3) §3.1; parameter names of HazyResearch/H3
template <ShiftSsmConfig Config>
class ShiftSsm : public LayerVerbs<ShiftSsm<Config>> {
  static constexpr Index width = Config.channels;
  static constexpr Index taps = Config.state;

 public:
  static constexpr auto operand_layout = OperandLayout::any;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<ShiftSsm, T, Space> {
    Tensor<Wide<T>, Extents<width, taps>, Space> B;
    Tensor<Wide<T>, Extents<1, width, taps>, Space> C;
    Tensor<Wide<T>, Extents<width>, Space> D;
  };
  template <class T, class Space = HostSpace>
  struct State {
    Tensor<Wide<T>, Extents<dyn, width, taps>, Space> shift;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<ShiftSsm, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
  };

  /// All sizes in the type.
  ShiftSsm() requires(width != dyn && taps != dyn) : ShiftSsm(ShiftSsmOptions{}) {}
  /// Sizes that are `dyn` in the type come from here.
  /// Throws  ArgumentError  for what contradicts the type
  explicit ShiftSsm(ShiftSsmOptions options)
      : channels_(resolve_extent(width, options.channels, "channels")),
        state_(resolve_extent(taps, options.state, ShiftSsmConfig{}.state, "state")) {}

  template <class B, class T>
  static constexpr bool runs_on = HasShiftConvolution<B, T>;

  Index channels() const { return channels_; }
  Index state() const { return state_; }

  template <class B, class T>
    requires RunsOn<ShiftSsm, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
    }
    auto a = operands<T, typename B::Space>(p, x, options);
    a.y = y;
    a.final_state = options.final(&State<T, typename B::Space>::shift);
    shift_convolution(ctx, a);
  }

  template <class B, class T>
    requires RunsOn<ShiftSsm, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    shift_convolution_backward(ctx, ShiftConvolutionBackward<T, Space>{
                                        .forward = operands<T, Space>(p, tape.x, tape.options()),
                                        .dy = dy,
                                        .dfinal_state = ends.final(&State<T, Space>::shift),
                                        .dx = dx,
                                        .dinitial_state = ends.initial(&State<T, Space>::shift),
                                        .dB = gradients.B,
                                        .dC = gradients.C.reshape(channels_, state_),
                                        .dskip = gradients.D});
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    State<T, typename B::Space> state;
    state.shift.reset({sequences, channels_, state_});
    return state;
  }

  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>&) const {
    Parameters<T, typename B::Space> p;
    p.B.reset({channels_, state_});
    p.C.reset({Index{1}, channels_, state_});
    p.D.reset({channels_});
    return p;
  }

  /// B is the first unit vector, so that the filter starts as C.
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    const Random readout(seed.fork("shift.C"));
    const Random skip(seed.fork("shift.D"));
    const double bound = 1 / std::sqrt(static_cast<double>(state_));
    for (Index d = 0; d < channels_; ++d) {
      p.D(d) = static_cast<Wide<T>>(skip.normal(static_cast<std::uint64_t>(d)));
      for (Index n = 0; n < state_; ++n) {
        p.B(d, n) = n == 0 ? Wide<T>{1} : Wide<T>{0};
        p.C(0, d, n) = static_cast<Wide<T>>(
            readout.uniform(static_cast<std::uint64_t>(d * state_ + n), -bound, bound));
      }
    }
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    visit(ParameterSpec{.name = "ssm_k_kernel.kernel.B",
                        .role = ParameterRole::ssm,
                        .weight_decay = false,
                        .own_learning_rate = true},
          p.B...);
    visit(ParameterSpec{.name = "ssm_k_kernel.kernel.C", .role = ParameterRole::ssm}, p.C...);
    visit(ParameterSpec{.name = "ssm_k_D", .role = ParameterRole::ssm}, p.D...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("shift"), state.shift...);
  }

 private:
  template <class T, class Space>
  ShiftConvolution<T, Space> operands(const Parameters<T, Space>& p, View<const T, 3, Space> x,
                                      const SequenceOptions<State<T, Space>>& options) const {
    return {.B = p.B,
            .C = p.C.reshape(channels_, state_),
            .skip = p.D,
            .x = x,
            .segments = options.segments,
            .initial_state = options.initial(&State<T, Space>::shift)};
  }

  Index channels_;
  Index state_;
};

}  // namespace ssm
