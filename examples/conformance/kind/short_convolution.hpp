// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"  // not_a_number, filled_like
#include "ssm/op/short_convolution.hpp"

namespace ssm::conformance {

inline ActivationKind activation_of(const Trial& trial) {
  const std::string name = trial.text("activation");
  if (name == "none") return ActivationKind::none;
  if (name == "silu") return ActivationKind::silu;
  throw CaseError("activation '" + name + "' is neither none nor silu");
}

/// In chunks of the file's lengths, and position by position, the state carried from one to the
/// next.
template <class B, class T>
void check_short_convolution_chunks(Trial& trial, Context<B>& ctx,
                                    const ShortConvolution<T, HostSpace>& whole) {
  if (trial.splits().empty()) return;
  const auto chunked = [&](std::string phase, const std::vector<Index>& lengths) {
    trial.enter(std::move(phase));
    DynamicTensor<T, 3> state(whole.final_state.extents());
    if (whole.initial_state) copy(whole.initial_state, state);
    fill(whole.y, not_a_number);
    Index begin = 0;
    for (const Index length : lengths) {
      auto a = whole;
      a.x = whole.x.slice(1, begin, begin + length);
      a.y = whole.y.slice(1, begin, begin + length);
      a.initial_state = a.final_state = state;
      short_convolution(ctx, a);
      begin += length;
    }
    trial.compare("output/y", whole.y, tolerance<T>.value);
    trial.compare_if_given("state/final/conv", state, tolerance<T>.value);
  };
  chunked(" in chunks", trial.splits());
  chunked(" by steps", std::vector<Index>(static_cast<std::size_t>(whole.x.extent(1)), 1));
}

template <class B, class T>
void check_short_convolution(Trial& trial) {
  Context<B> ctx;
  ctx.workspace().fill_with_nan(true);
  const auto x = trial.read<T, 3>("input/x");
  const Index channels = x.extent(2);
  const auto weight = trial.read<T, 3>("param/conv1d.weight", {channels, 1, dyn});
  const Index taps = weight.extent(2);
  const auto bias = trial.read_if_given<T, 1>("param/conv1d.bias");
  const auto segments = trial.segments();
  const auto initial = trial.read_if_given<T, 3>("state/initial/conv");
  auto y = filled_like(x, not_a_number);
  DynamicTensor<T, 3> final({sequence_count(x.extent(0), segments), channels, taps});
  fill(final, not_a_number);
  const ShortConvolution<T, HostSpace> forward{.weight = weight.reshape(channels, taps),
                                               .bias = bias,
                                               .activation = activation_of(trial),
                                               .x = x,
                                               .segments = segments,
                                               .initial_state = initial,
                                               .final_state = final,
                                               .y = y};
  short_convolution(ctx, forward);
  trial.compare("output/y", y, tolerance<T>.value);
  trial.compare_if_given("state/final/conv", final, tolerance<T>.value);
  check_short_convolution_chunks(trial, ctx, forward);
  if (!trial.has_any("grad/")) return;

  trial.enter("");
  const auto dy = trial.read<T, 3>("cotangent/y", x.extents().to_array());
  const auto dfinal = trial.read_if_given<T, 3>("cotangent/state/conv");
  auto dx = filled_like(x, not_a_number);
  auto dinitial = filled_like(final, not_a_number);
  auto dweight = filled_like(weight, 0);
  auto dbias = filled_like(bias, 0);
  short_convolution_backward(
      ctx, ShortConvolutionBackward<T, HostSpace>{.forward = forward,
                                                  .dy = dy,
                                                  .dfinal_state = dfinal,
                                                  .dx = dx,
                                                  .dinitial_state = dinitial,
                                                  .dweight = dweight.reshape(channels, taps),
                                                  .dbias = dbias});
  trial.compare_if_given("grad/input/x", dx, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/conv1d.weight", dweight, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/conv1d.bias", dbias, tolerance<T>.gradient);
  trial.compare_if_given("grad/state/conv", dinitial, tolerance<T>.gradient);
}

}  // namespace ssm::conformance
