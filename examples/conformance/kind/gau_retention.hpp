// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "retention.hpp"
#include "ssm/layer/gau_retention.hpp"

namespace ssm::conformance {

/// Runs GauRetention with the sources that the file gives: whole sequence, chunks, single
/// positions, gradients.
template <class B, class T>
class GauRetentionCheck {
  using Layer = GauRetention<GauRetentionConfig{}>;
  using Hidden = typename Layer::template Hidden<T, HostSpace>;
  using State = typename Layer::template State<T, HostSpace>;
  using Sequence3 = DynamicTensor<T, 3>;

  struct Pair {  // keys and values of one layer, or their gradients
    Sequence3 k, v;
    Hidden views(Index begin, Index end) {
      return {.k = k.view().slice(1, begin, end), .v = v.view().slice(1, begin, end)};
    }
    Hidden views() { return {.k = k, .v = v}; }
  };

 public:
  explicit GauRetentionCheck(Trial& trial)
      : trial_(trial),
        layer_({.channels = trial.size("d"),
                .query_key_dim = trial.size("query_key_dim"),
                .value_dim = trial.size("value_dim"),
                .heads = trial.size("heads"),
                .k_hidden = trial.size("k_hidden"),
                .v_hidden = trial.size("v_hidden"),
                .form = retention_form(trial),
                .eps = trial.number("eps")}) {
    ctx_.workspace().fill_with_nan(true);
    parameters_ = layer_.template zero_parameters<T>(ctx_);
    Layer::for_each_parameter(
        [&](const ParameterSpec& spec, auto& tensor) {
          using Tensor = std::remove_reference_t<decltype(tensor)>;
          const View<T, Tensor::rank()> view = tensor;
          const std::string name = "param/" + spec.name;
          if (trial_.size("sources") == 0 && !trial_.has(name))
            fill(view, not_a_number);  // the gates of a first layer: a file may lack them
          else
            copy(trial_.template view<Tensor::rank()>(name, view.extents().to_array()), view);
        },
        parameters_);
    x_ = trial_.template read<T, 3>("input/x");
    for (Index i = 0; i < trial_.size("sources"); ++i)
      sources_.push_back(
          {.k = trial_.template read<T, 3>("input/dense_k/" + std::to_string(i), shape_of_k()),
           .v = trial_.template read<T, 3>("input/dense_v/" + std::to_string(i), shape_of_v())});
    has_initial_ = trial_.has_any("state/initial/");
    if (has_initial_) initial_ = read_state("state/initial/");
  }

  void run() {
    trial_.enter("");
    Pair own = unwritten_pair();
    Sequence3 y = filled_like(x_, not_a_number);
    State final = layer_.template initial_state<T>(ctx_, x_.extent(0));
    layer_.evaluate(ctx_, parameters_, x_, y, &tape_,
                    {.initial_state = has_initial_ ? &initial_ : nullptr,
                     .final_state = trial_.has_any("state/final/") ? &final : nullptr},
                    sources(0, length()), own.views());
    compare(y, own, final);
    if (!trial_.splits().empty()) {
      check_chunks(trial_.splits(), " in chunks");
      check_chunks(std::vector<Index>(static_cast<std::size_t>(length()), 1), " by steps");
    }
    trial_.enter("");
    if (trial_.has_any("grad/")) check_gradients(own);
  }

 private:
  Index length() const { return x_.extent(1); }
  std::array<Index, 3> shape_of_k() const { return {x_.extent(0), length(), layer_.key_dim()}; }
  std::array<Index, 3> shape_of_v() const { return {x_.extent(0), length(), layer_.value_dim()}; }
  Pair unwritten_pair() const {
    const auto unwritten = [](std::array<Index, 3> shape) {
      return filled_like(Sequence3({shape[0], shape[1], shape[2]}), not_a_number);
    };
    return {.k = unwritten(shape_of_k()), .v = unwritten(shape_of_v())};
  }
  static double leeway() { return std::is_same_v<T, float> ? head_norm_leeway : 1; }

  State read_state(const std::string& prefix) {
    State state = layer_.template initial_state<T>(ctx_, x_.extent(0));
    const View<T, 4> retention = state.retention;
    copy(trial_.template view<4>(prefix + "retention", retention.extents().to_array()), retention);
    if (trial_.has(prefix + "position"))
      copy(trial_.template integers<1>(prefix + "position", {x_.extent(0)}), state.position);
    return state;
  }

  /// The sources' rows begin … end−1, each with rows of its own: a chunk's sources are a chunk's
  /// hidden states.
  std::vector<Hidden> sources(Index begin, Index end) {
    chunk_.clear();
    std::vector<Hidden> views;
    for (Pair& source : sources_)
      chunk_.push_back({.k = ssm::clone(source.views(begin, end).k),
                        .v = ssm::clone(source.views(begin, end).v)});
    for (Pair& pair : chunk_) views.push_back(pair.views());
    return views;
  }

  void check_chunks(const std::vector<Index>& lengths, const char* phase) {
    trial_.enter(phase);
    Pair own = unwritten_pair();
    Sequence3 y = filled_like(x_, not_a_number);
    State state = layer_.template initial_state<T>(ctx_, x_.extent(0));
    if (has_initial_) copy_state<Layer>(ctx_, initial_, state);
    Index begin = 0;
    for (const Index count : lengths) {
      const Index end = begin + count;
      const Sequence3 x = ssm::clone(x_.slice(1, begin, end));
      Sequence3 part = filled_like(x, not_a_number);
      Pair hidden{.k = ssm::clone(own.views(begin, end).k),
                  .v = ssm::clone(own.views(begin, end).v)};
      layer_.evaluate(ctx_, parameters_, x, part, nullptr,
                      {.initial_state = &state, .final_state = &state}, sources(begin, end),
                      hidden.views());
      copy(part, y.slice(1, begin, end));
      copy(hidden.k, own.views(begin, end).k);
      copy(hidden.v, own.views(begin, end).v);
      begin = end;
    }
    compare(y, own, state);
  }

  void compare(const Sequence3& y, const Pair& own, const State& final) {
    const double allowed = leeway() * tolerance<T>.value;
    trial_.compare("output/y", y, allowed);
    trial_.compare("output/k_curr", own.k, allowed);
    trial_.compare("output/v_curr", own.v, allowed);
    if (!trial_.has_any("state/final/")) return;
    trial_.compare("state/final/retention", final.retention, allowed);
    trial_.template compare_integers<std::int64_t, 1>("state/final/position", final.position);
  }

  void check_gradients(Pair& own) {
    const auto dy = trial_.template read<T, 3>("cotangent/y", x_.extents().to_array());
    Pair down{.k = trial_.template read<T, 3>("cotangent/k_curr", shape_of_k()),
              .v = trial_.template read<T, 3>("cotangent/v_curr", shape_of_v())};
    std::vector<Pair> dsources;
    std::vector<Hidden> views;
    for (const Pair& source : sources_)
      dsources.push_back({.k = filled_like(source.k, 0), .v = filled_like(source.v, 0)});
    for (Pair& pair : dsources) views.push_back(pair.views());
    auto gradients = layer_.template zero_parameters<T>(ctx_);
    auto dx = filled_like(x_, not_a_number);
    State dfinal, dinitial;
    SequenceGradients<State> ends;
    if (trial_.has_any("cotangent/state/")) {
      dfinal = read_state("cotangent/state/");
      ends.final_state = &dfinal;
    }
    if (trial_.has_any("grad/state/")) {
      dinitial = layer_.template initial_state<T>(ctx_, x_.extent(0));
      fill_unwritten(dinitial.retention);
      ends.initial_state = &dinitial;
    }
    layer_.differentiate(ctx_, parameters_, tape_, dy, dx, gradients, ends, sources(0, length()),
                         own.views(), views, down.views());
    const double allowed = leeway() * tolerance<T>.gradient;
    trial_.compare("grad/input/x", dx, allowed);
    compare_gradients<Layer>(trial_, gradients, allowed);
    for (std::size_t i = 0; i < dsources.size(); ++i) {
      trial_.compare("grad/input/dense_k/" + std::to_string(i), dsources[i].k, allowed);
      trial_.compare("grad/input/dense_v/" + std::to_string(i), dsources[i].v, allowed);
    }
    if (ends.initial_state != nullptr)
      trial_.compare("grad/state/retention", dinitial.retention, allowed);
  }

  Trial& trial_;
  Layer layer_;
  Context<B> ctx_;
  typename Layer::template Parameters<T, HostSpace> parameters_;
  Sequence3 x_;
  std::vector<Pair> sources_;
  std::vector<Pair> chunk_;
  State initial_;
  bool has_initial_ = false;
  typename Layer::template Tape<T, HostSpace> tape_;
};

template <class B, class T>
void check_gau_retention(Trial& trial) {
  GauRetentionCheck<B, T>(trial).run();
}

}  // namespace ssm::conformance
