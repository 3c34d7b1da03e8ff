// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"  // not_a_number, filled_like
#include "ssm/op/ssd_scan.hpp"

namespace ssm::conformance {

/// In chunks of the file's lengths, and position by position, the state carried from one to the
/// next.
template <class B, class T>
void check_ssd_scan_chunks(Trial& trial, Context<B>& ctx, const SsdScan<T, HostSpace>& whole,
                           const View<const T, 3>& y) {
  if (trial.splits().empty()) return;
  const auto chunked = [&](std::string phase, const std::vector<Index>& lengths) {
    trial.enter(std::move(phase));
    DynamicTensor<T, 4> state(whole.final_state.extents());
    if (whole.initial_state) copy(whole.initial_state, state);
    fill(whole.y, not_a_number);
    Index begin = 0;
    for (const Index length : lengths) {
      const auto chunk = [&](const auto& view) { return view.slice(1, begin, begin + length); };
      auto a = whole;
      a.x = chunk(whole.x);
      a.dt = chunk(whole.dt);
      a.B = chunk(whole.B);
      a.C = chunk(whole.C);
      a.y = chunk(whole.y);
      a.initial_state = a.final_state = state;
      ssd_scan(ctx, a);
      begin += length;
    }
    trial.compare("output/y", y, tolerance<T>.value);
    trial.compare_if_given("state/final/ssm", state, tolerance<T>.value);
  };
  chunked(" in chunks", trial.splits());
  chunked(" by steps", std::vector<Index>(static_cast<std::size_t>(whole.x.extent(1)), 1));
}

template <class B, class T>
void check_ssd_scan(Trial& trial) {
  Context<B> ctx;
  ctx.workspace().fill_with_nan(true);
  const Index heads = trial.size("heads"), width = trial.size("head_dim");
  const Index groups = trial.size("groups"), states = trial.size("N");
  const auto x = trial.read<T, 3>("input/x", {dyn, dyn, heads * width});
  const Index batch = x.extent(0), length = x.extent(1);
  const auto by_head = [&](auto&& rows) { return rows.reshape(batch, length, heads, width); };
  const auto by_group = [&](auto&& rows) { return rows.reshape(batch, length, groups, states); };
  const auto dt = trial.read<T, 3>("input/dt", {batch, length, heads});
  const auto A = trial.read<T, 1>("param/A", {heads});
  const auto b = trial.read<T, 3>("input/B", {batch, length, groups * states});
  const auto c = trial.read<T, 3>("input/C", {batch, length, groups * states});
  const auto skip = trial.read_if_given<T, 1>("param/D");
  const auto dt_bias = trial.read_if_given<T, 1>("param/dt_bias");
  const auto segments = trial.segments();
  const auto initial = trial.read_if_given<T, 4>("state/initial/ssm");
  auto y = filled_like(x, not_a_number);
  DynamicTensor<T, 4> final({sequence_count(batch, segments), heads, width, states});
  fill(final, not_a_number);
  SsdScan<T, HostSpace> forward{.x = by_head(x),
                                .dt = dt,
                                .A = A,
                                .B = by_group(b),
                                .C = by_group(c),
                                .skip = skip,
                                .dt_bias = dt_bias,
                                .dt_softplus = trial.config().boolean("dt_softplus", false),
                                .segments = segments,
                                .initial_state = initial,
                                .final_state = final,
                                .y = by_head(y)};
  if (trial.config().has("dt_limit")) {
    const nlohmann::json& limits = trial.config().json().at("dt_limit");
    if (!limits.is_array() || limits.size() != 2 || !limits[0].is_number() ||
        !limits[1].is_number())
      trial.config().refuse("dt_limit", "must be two numbers");
    forward.dt_min = limits[0].template get<double>();
    forward.dt_max = limits[1].template get<double>();
  }
  ssd_scan(ctx, forward);
  trial.compare("output/y", y, tolerance<T>.value);
  trial.compare_if_given("state/final/ssm", final, tolerance<T>.value);
  check_ssd_scan_chunks<B, T>(trial, ctx, forward, y);
  if (!trial.has_any("grad/")) return;

  trial.enter("");
  const auto dy = trial.read<T, 3>("cotangent/y", x.extents().to_array());
  const auto dfinal = trial.read_if_given<T, 4>("cotangent/state/ssm");
  auto dx = filled_like(x, not_a_number);
  auto ddt = filled_like(dt, not_a_number);
  auto dA = filled_like(A, 0);
  auto dB = filled_like(b, not_a_number);
  auto dC = filled_like(c, not_a_number);
  auto dskip = filled_like(skip, 0);
  auto ddt_bias = filled_like(dt_bias, 0);
  auto dinitial = filled_like(final, not_a_number);
  ssd_scan_backward(ctx, SsdScanBackward<T, HostSpace>{.forward = forward,
                                                       .dy = by_head(dy),
                                                       .dfinal_state = dfinal,
                                                       .dx = by_head(dx),
                                                       .ddt = ddt,
                                                       .dA = dA,
                                                       .dB = by_group(dB),
                                                       .dC = by_group(dC),
                                                       .dskip = dskip,
                                                       .ddt_bias = ddt_bias,
                                                       .dinitial_state = dinitial});
  trial.compare_if_given("grad/input/x", dx, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/dt", ddt, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/B", dB, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/C", dC, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/A", dA, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/D", dskip, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/dt_bias", ddt_bias, tolerance<T>.gradient);
  trial.compare_if_given("grad/state/ssm", dinitial, tolerance<T>.gradient);
}

}  // namespace ssm::conformance
