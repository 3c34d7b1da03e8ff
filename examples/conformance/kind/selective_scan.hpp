// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"  // not_a_number, filled_like
#include "ssm/op/selective_scan.hpp"

namespace ssm::conformance {

/// In chunks of the file's lengths, and position by position, the state carried from one to the
/// next.
template <class B, class T>
void check_selective_scan_chunks(Trial& trial, Context<B>& ctx,
                                 const SelectiveScan<T, HostSpace>& whole) {
  if (trial.splits().empty()) return;
  const auto chunked = [&](std::string phase, const std::vector<Index>& lengths) {
    trial.enter(std::move(phase));
    DynamicTensor<T, 3> state(whole.final_state.extents());
    if (whole.initial_state) copy(whole.initial_state, state);
    fill(whole.y, not_a_number);
    Index begin = 0;
    for (const Index length : lengths) {
      const auto chunk = [&](const auto& view) {
        return view ? view.slice(1, begin, begin + length) : view;
      };
      auto a = whole;
      a.u = chunk(whole.u);
      a.dt = chunk(whole.dt);
      a.B = chunk(whole.B);
      a.C = chunk(whole.C);
      a.gate = chunk(whole.gate);
      a.y = chunk(whole.y);
      a.initial_state = a.final_state = state;
      selective_scan(ctx, a);
      begin += length;
    }
    trial.compare("output/y", whole.y, tolerance<T>.value);
    trial.compare_if_given("state/final/ssm", state, tolerance<T>.value);
  };
  chunked(" in chunks", trial.splits());
  chunked(" by steps", std::vector<Index>(static_cast<std::size_t>(whole.u.extent(1)), 1));
}

template <class B, class T>
void check_selective_scan(Trial& trial) {
  Context<B> ctx;
  ctx.workspace().fill_with_nan(true);
  const auto u = trial.read<T, 3>("input/u");
  const auto dt = trial.read<T, 3>("input/delta", u.extents().to_array());
  const auto A = trial.read<T, 2>("param/A");
  const auto b = trial.read<T, 3>("input/B");
  const auto c = trial.read<T, 3>("input/C", b.extents().to_array());
  const auto skip = trial.read_if_given<T, 1>("param/D");
  const auto dt_bias = trial.read_if_given<T, 1>("param/delta_bias");
  const auto gate = trial.read_if_given<T, 3>("input/z");
  const auto segments = trial.segments();
  const auto initial = trial.read_if_given<T, 3>("state/initial/ssm");
  auto y = filled_like(u, not_a_number);
  DynamicTensor<T, 3> final({sequence_count(u.extent(0), segments), u.extent(2), A.extent(1)});
  fill(final, not_a_number);
  const SelectiveScan<T, HostSpace> forward{
      .u = u,
      .dt = dt,
      .A = A,
      .B = b,
      .C = c,
      .skip = skip,
      .dt_bias = dt_bias,
      .gate = gate,
      .dt_softplus = trial.config().boolean("delta_softplus", false),
      .segments = segments,
      .initial_state = initial,
      .final_state = final,
      .y = y};
  selective_scan(ctx, forward);
  trial.compare("output/y", y, tolerance<T>.value);
  trial.compare_if_given("state/final/ssm", final, tolerance<T>.value);
  check_selective_scan_chunks(trial, ctx, forward);
  if (!trial.has_any("grad/")) return;

  trial.enter("");
  const auto dy = trial.read<T, 3>("cotangent/y", u.extents().to_array());
  const auto dfinal = trial.read_if_given<T, 3>("cotangent/state/ssm");
  auto du = filled_like(u, not_a_number);
  auto ddt = filled_like(dt, not_a_number);
  auto dA = filled_like(A, 0);
  auto dB = filled_like(b, not_a_number);
  auto dC = filled_like(c, not_a_number);
  auto dskip = filled_like(skip, 0);
  auto ddt_bias = filled_like(dt_bias, 0);
  auto dgate = filled_like(gate, not_a_number);
  auto dinitial = filled_like(final, not_a_number);
  selective_scan_backward(ctx, SelectiveScanBackward<T, HostSpace>{.forward = forward,
                                                                   .dy = dy,
                                                                   .dfinal_state = dfinal,
                                                                   .du = du,
                                                                   .ddt = ddt,
                                                                   .dA = dA,
                                                                   .dB = dB,
                                                                   .dC = dC,
                                                                   .dskip = dskip,
                                                                   .ddt_bias = ddt_bias,
                                                                   .dgate = dgate,
                                                                   .dinitial_state = dinitial});
  trial.compare_if_given("grad/input/u", du, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/delta", ddt, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/B", dB, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/C", dC, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/z", dgate, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/A", dA, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/D", dskip, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/delta_bias", ddt_bias, tolerance<T>.gradient);
  trial.compare_if_given("grad/state/ssm", dinitial, tolerance<T>.gradient);
}

}  // namespace ssm::conformance
