// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <vector>

#include "mamba.hpp"  // mamba_sizes
#include "ssm/layer/dense_mamba.hpp"

namespace ssm::conformance {

/// A block with the sources that the file gives. The block's own check cannot know them; their
/// final states, which the file has too, come from scans of their own.
template <class B, class T>
class DenseMambaCheck {
  using Layer = DenseMamba<DenseMambaConfig{.mamba = {.state = dyn, .conv_width = dyn},
                                            .select_hidden = dyn}>;
  using State = typename Layer::template State<T>;
  using Hidden = typename Layer::template Hidden<T>;
  using KeptHidden = typename Layer::template KeptHidden<T>;
  using Sequence3 = DynamicTensor<T, 3>;

 public:
  explicit DenseMambaCheck(Trial& trial)
      : trial_(trial),
        layer_({.mamba = mamba_sizes(trial), .select_hidden = trial.size("select_hidden")}),
        count_(trial.size("sources")),
        x_(trial.read<T, 3>("input/x")),
        parameters_(layer_.template zero_parameters<T>(ctx_)),
        has_initial_(trial.has_any("state/initial/")) {
    ctx_.workspace().fill_with_nan(true);
    if (count_ > 0)
      read_parameters<Layer>(trial_, parameters_);
    else  // a gate that selects from nothing is not in the file
      read_parameters<typename decltype(parameters_.mamba)::Layer>(trial_, parameters_.mamba);
    initial_ = read_state("state/initial/");
    for (Index i = 0; i < count_; ++i) {
      KeptHidden& kept = kept_.emplace_back();
      kept.u = trial.read<T, 3>(source("input/", i, "u"));
      kept.dt = trial.read<T, 3>(source("input/", i, "delta"));
      kept.B = trial.read<T, 3>(source("input/", i, "B"));
      kept.A = trial.read<T, 2>(source("param/", i, "A"));
      kept.initial_state = trial.read_if_given<T, 3>(source("state/initial/", i, "ssm"));
    }
  }

  void run() {
    check_whole();
    if (!trial_.splits().empty()) {
      check_chunks(" in chunks", trial_.splits());
      check_chunks(" by steps",
                   std::vector<Index>(static_cast<std::size_t>(x_.extent(1)), Index{1}));
    }
    trial_.enter("");
    if (trial_.has_any("grad/")) check_gradients();
  }

 private:
  static std::string source(const char* prefix, Index i, const char* name) {
    return prefix + ("source/" + std::to_string(i)) + "/" + name;
  }
  State read_state(const std::string& prefix) {
    State state = layer_.template initial_state<T>(ctx_, x_.extent(0));
    Layer::for_each_state(
        [&](const std::string& name, auto& tensor) {
          if (!trial_.has(prefix + name)) return;
          const View<T, 3> view = tensor;
          copy(trial_.template view<3>(prefix + name, view.extents().to_array()), view);
        },
        state);
    return state;
  }
  Sequence3 output() const { return filled_like(x_, not_a_number); }
  State zero_state() const { return layer_.template initial_state<T>(ctx_, x_.extent(0)); }

  Sequence3 zero_source_state() const {
    return Sequence3({x_.extent(0), layer_.inner(), layer_.state()});
  }

  /// A source's scan, for its states alone: what it reads out does not matter.
  static SelectiveScan<T, HostSpace> own_scan(const Hidden& hidden) {
    return {.u = hidden.u,
            .dt = hidden.dt,
            .A = hidden.A,
            .B = hidden.B,
            .C = hidden.B,
            .initial_state = hidden.initial_state};
  }
  void run_own_scan(const Hidden& hidden, Sequence3& final_state) {
    Sequence3 ignored(hidden.u.extents());
    auto scan = own_scan(hidden);
    scan.y = ignored;
    scan.final_state = final_state;
    selective_scan(ctx_, scan);
  }
  static Hidden view_of_kept(KeptHidden& kept) {
    return {.u = kept.u,
            .dt = kept.dt,
            .B = kept.B,
            .A = kept.A,
            .initial_state = kept.initial_state.view()};
  }
  std::vector<Hidden> sources() {
    std::vector<Hidden> all;
    for (KeptHidden& kept : kept_) all.push_back(view_of_kept(kept));
    return all;
  }

  void check_whole() {
    trial_.enter("");
    Sequence3 y = output();
    State final = zero_state();
    layer_.template evaluate<B, T>(ctx_, parameters_, x_, y, &tape_, options(&final), sources(),
                                   {});
    compare(y, final);
    if (!has_initial_) {
      trial_.enter(" without states");
      fill(y, not_a_number);
      layer_.template evaluate<B, T>(ctx_, parameters_, x_, y, nullptr, {}, sources(), {});
      trial_.compare("output/y", y, tolerance<T>.value);
      trial_.enter("");
    }
    for (Index i = 0; i < count_; ++i) {
      Sequence3 states = zero_source_state();
      run_own_scan(sources()[static_cast<std::size_t>(i)], states);
      trial_.compare_if_given(source("state/final/", i, "ssm"), states, tolerance<T>.value);
    }
  }

  void check_chunks(std::string phase, const std::vector<Index>& lengths) {
    trial_.enter(std::move(phase));
    Sequence3 y = output();
    State state = zero_state();
    copy_state<Layer>(ctx_, initial_, state);
    std::vector<Sequence3> source_states;
    for (const Hidden& hidden : sources()) {
      source_states.push_back(zero_source_state());
      if (hidden.initial_state) copy(hidden.initial_state, source_states.back());
    }
    Index begin = 0;
    for (const Index length : lengths) {
      const Sequence3 x_chunk = ssm::clone(x_.slice(1, begin, begin + length));
      Sequence3 y_chunk = filled_like(x_chunk, not_a_number);
      std::vector<Sequence3> before;
      std::vector<Hidden> parts = sources();
      for (std::size_t i = 0; i < parts.size(); ++i) {
        for (View<T, 3>* view : {&parts[i].u, &parts[i].dt, &parts[i].B})
          *view = view->slice(1, begin, begin + length);
        parts[i].initial_state = before.emplace_back(source_states[i].clone());
      }
      layer_.template evaluate<B, T>(ctx_, parameters_, x_chunk, y_chunk, nullptr,
                                     {.initial_state = &state, .final_state = &state}, parts, {});
      copy(y_chunk, y.slice(1, begin, begin + length));
      for (std::size_t i = 0; i < parts.size(); ++i) run_own_scan(parts[i], source_states[i]);
      begin += length;
    }
    compare(y, state);
  }

  void check_gradients() {
    const auto dy = trial_.template read<T, 3>("cotangent/y", x_.extents().to_array());
    const State dfinal = read_state("cotangent/state/");
    State dinitial = zero_state();
    Sequence3 dx = output();
    auto gradients = layer_.template zero_parameters<T>(ctx_);
    std::vector<KeptHidden> kept;
    std::vector<Hidden> dsources;
    for (const KeptHidden& like : kept_) {
      KeptHidden& to = kept.emplace_back();
      to.u = filled_like(like.u, 0);
      to.dt = filled_like(like.dt, 0);
      to.B = filled_like(like.B, 0);
      to.A = filled_like(like.A, 0);
      to.initial_state = zero_source_state();
    }
    for (KeptHidden& to : kept) dsources.push_back(view_of_kept(to));
    layer_.template differentiate<B, T>(ctx_, parameters_, tape_, dy, dx, gradients,
                                        {.final_state = &dfinal, .initial_state = &dinitial},
                                        sources(), {}, dsources, {});
    trial_.compare_if_given("grad/input/x", dx, tolerance<T>.gradient);
    compare_gradients<Layer>(trial_, gradients, tolerance<T>.gradient);
    trial_.compare_if_given("grad/state/conv", dinitial.conv, tolerance<T>.gradient);
    trial_.compare_if_given("grad/state/ssm", dinitial.ssm, tolerance<T>.gradient);
    for (Index i = 0; i < count_; ++i)
      check_source_gradients(i, dsources[static_cast<std::size_t>(i)]);
  }

  /// With what the final states of the source's own scan say.
  void check_source_gradients(Index i, const Hidden& to) {
    const Hidden hidden = sources()[static_cast<std::size_t>(i)];
    const Sequence3 dy = filled_like(Sequence3(hidden.u.extents()), 0);
    const auto dfinal = trial_.template read_if_given<T, 3>(source("cotangent/state/", i, "ssm"));
    selective_scan_backward(
        ctx_, SelectiveScanBackward<T, HostSpace>{.forward = own_scan(hidden),
                                                  .dy = dy,
                                                  .dfinal_state = dfinal,
                                                  .accumulate = true,
                                                  .du = to.u,
                                                  .ddt = to.dt,
                                                  .dA = to.A,
                                                  .dB = to.B,
                                                  .dinitial_state = to.initial_state});
    const double allowed = tolerance<T>.gradient;
    trial_.compare_if_given(source("grad/input/", i, "u"), to.u, allowed);
    trial_.compare_if_given(source("grad/input/", i, "delta"), to.dt, allowed);
    trial_.compare_if_given(source("grad/input/", i, "B"), to.B, allowed);
    trial_.compare_if_given(source("grad/param/", i, "A"), to.A, allowed);
    trial_.compare_if_given(source("grad/state/", i, "ssm"), to.initial_state, allowed);
  }

  SequenceOptions<State> options(State* final) const {
    return {.initial_state = has_initial_ ? &initial_ : nullptr, .final_state = final};
  }
  void compare(const Sequence3& y, const State& final) {
    trial_.compare("output/y", y, tolerance<T>.value);
    trial_.compare_if_given("state/final/conv", final.conv, tolerance<T>.value);
    trial_.compare_if_given("state/final/ssm", final.ssm, tolerance<T>.value);
  }

  Trial& trial_;
  Context<B> ctx_;
  Layer layer_;
  Index count_;
  Sequence3 x_;
  typename Layer::template Parameters<T> parameters_;
  State initial_;
  bool has_initial_;
  std::vector<KeptHidden> kept_;
  typename Layer::template Tape<T> tape_;
};

template <class B, class T>
void check_dense_mamba(Trial& trial) {
  DenseMambaCheck<B, T>(trial).run();
}

}  // namespace ssm::conformance
