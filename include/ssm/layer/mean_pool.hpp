// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "ssm/layer/layer.hpp"
#include "ssm/op/pair_rotation.hpp"  // advance_position
#include "ssm/op/running_mean.hpp"

namespace ssm {

struct MeanPoolConfig {
  Index channels = dyn;
};

/// The mean over the sequence so far, at every position.
///   y_t = (x_1 + … + x_t) / t
/// So it is causal and streams like any other layer. What a classifier reads is the last position,
/// the mean over the whole sequence (`last_position(y)`); a stream has an answer after every
/// position. It learns nothing.
/// x, y    [B, L, channels]
/// state   sum [B, channels], position [B]: how many positions it is the sum of
/// Cost    O(B·L·channels)
/// Throws  ShapeError
template <MeanPoolConfig Config>
class MeanPool : public LayerVerbs<MeanPool<Config>> {
  static constexpr Index width = Config.channels;

 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<MeanPool, T, Space> {};
  template <class T, class Space = HostSpace>
  struct State {
    Tensor<Wide<T>, Extents<dyn, width>, Space> sum;
    DynamicTensor<std::int64_t, 1, Space> position;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<MeanPool, State<T, Space>>, InputTape<T, Space> {};

  /// All sizes in the type.
  MeanPool() requires(Config.channels != dyn) : MeanPool(Config) {}
  /// Sizes that are `dyn` in the type come from here.
  explicit MeanPool(MeanPoolConfig options)
      : channels_(resolve_extent(Config.channels, options.channels, "channels")) {}

  Index channels() const { return channels_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasRunningMean<B, T> && HasPairRotation<B, T>);

  template <class B, class T>
    requires RunsOn<MeanPool, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>&,
                Input<B, T, dyn, dyn, width> x, Output<B, T, dyn, dyn, width> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    require_extents("mean_pool", "x", x, {dyn, dyn, channels_});
    if (tape != nullptr) tape->keep(ctx, options);
    const auto position = options.initial(&State<T, Space>::position);
    running_mean(ctx, RunningMean<T, Space>{.x = x,
                                            .segments = options.segments,
                                            .initial_sum = options.initial(&State<T, Space>::sum),
                                            .position = position,
                                            .final_sum = options.final(&State<T, Space>::sum),
                                            .y = y});
    if (options.final_state != nullptr)
      advance_position(ctx, AdvancePosition<Space>{.length = x.extent(1),
                                                   .segments = options.segments,
                                                   .position = position,
                                                   .y = options.final_state->position});
  }

  template <class B, class T>
    requires RunsOn<MeanPool, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>&,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, width> dy,
                     Output<B, T, dyn, dyn, width> dx, Parameters<Wide<T>, typename B::Space>&,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    running_mean_backward(ctx, RunningMeanBackward<T, Space>{
                                   .segments = tape.segments,
                                   .position = tape.options().initial(&State<T, Space>::position),
                                   .dy = dy,
                                   .dfinal_sum = ends.final(&State<T, Space>::sum),
                                   .dx = dx,
                                   .dinitial_sum = ends.initial(&State<T, Space>::sum)});
    if (ends.initial_state != nullptr)
      advance_position(ctx, AdvancePosition<Space>{.y = ends.initial_state->position});  // zero
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>&, Index sequences) const {
    State<T, typename B::Space> state;
    state.sum.reset({sequences, channels_});
    state.position.reset({sequences});
    return state;
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>&) const {
    return {};
  }
  template <class T>
  void fill_parameters(Parameters<T>&, Seed) const {}

  static void for_each_parameter(auto&&, auto&...) {}
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("sum"), state.sum...);
    visit(std::string("position"), state.position...);
  }

 private:
  Index channels_;
};

}  // namespace ssm
