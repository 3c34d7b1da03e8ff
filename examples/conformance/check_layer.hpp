// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/layer/layer.hpp"
#include "trial.hpp"

namespace ssm::conformance {

/// How a file's states lie beside the layer's: the same way, or with the first two axes exchanged
/// and the layer's first axis as long as the file says (a key–value cache).
enum class StateLayout { same, time_first };

inline constexpr auto not_a_number = std::numeric_limits<double>::quiet_NaN();

/// A tensor for a result that must be overwritten, or added to; none where the operand it belongs
/// to was not given.
template <class T, class E>
Tensor<T, E> filled_like(const Tensor<T, E>& operand, double value) {
  Tensor<T, E> tensor;
  if (!operand) return tensor;
  tensor.reset(operand.extents());
  fill(tensor, value);
  return tensor;
}

/// What a result holds before it is written: NaN, or a number that no count is.
template <class X>
void fill_unwritten(X& tensor) {
  if constexpr (std::is_integral_v<ValueOf<X>>)
    fill(tensor, -1);
  else
    fill(tensor, not_a_number);
}

/// Fills the parameters of L from `param/` + prefix + name.
template <class L, class P>
void read_parameters(Trial& trial, P& parameters, const std::string& prefix = "") {
  L::for_each_parameter(
      [&](const ParameterSpec& spec, auto& tensor) {
        constexpr int rank = std::remove_reference_t<decltype(tensor)>::rank();
        const View<typename P::Scalar, rank> view = tensor;
        copy(trial.view<rank>("param/" + prefix + spec.name, view.extents().to_array()), view);
      },
      parameters);
}

/// Holds the gradients of L's parameters against `grad/param/` + prefix + name, where the file has
/// them.
template <class L, class P>
void compare_gradients(Trial& trial, const P& gradients, double allowed,
                       const std::string& prefix = "") {
  L::for_each_parameter(
      [&](const ParameterSpec& spec, const auto& tensor) {
        trial.compare_if_given("grad/param/" + prefix + spec.name, tensor, allowed);
      },
      gradients);
}

/// Runs one layer over one case: whole sequence, chunks, single positions, gradients. Everything it
/// writes starts as NaN.
template <class B, class T, class L>
class LayerCheck {
  using Parameters = typename L::template Parameters<T, typename B::Space>;
  using State = typename L::template State<T, typename B::Space>;
  using Sequence3 = DynamicTensor<T, 3>;

 public:
  /// `leeway` multiplies the tolerances of single precision, for layers that are worse conditioned
  /// than most.
  LayerCheck(Trial& trial, const L& layer, StateLayout layout, double leeway = 1)
      : trial_(trial),
        layer_(layer),
        layout_(layout),
        leeway_(std::is_same_v<T, float> ? leeway : 1) {
    ctx_.workspace().fill_with_nan(true);
    parameters_ = layer_.template zero_parameters<T>(ctx_);
    read_parameters<L>(trial_, parameters_);
    x_ = trial_.template read<T, 3>("input/x");
    segments_ = trial_.segments();
    initial_ = zero_state();
    has_initial_ = trial_.has_any("state/initial/");
    has_final_ = trial_.has_any("state/final/");
    read_state("state/initial/", initial_);
  }

  void run() {
    check_whole();
    if (!has_initial_) check_stateless(" without states");
    if (!trial_.splits().empty()) {
      check_chunks();
      check_steps();
    }
    if (trial_.has_any("grad/")) check_gradients();
  }

  /// The outputs alone, by the call that carries no states.
  void check_stateless(std::string phase) {
    trial_.enter(std::move(phase));
    Sequence3 y = output();
    layer_.forward(ctx_, parameters_, x_, y, {.segments = segments_});
    compare_output(y);
  }

 private:
  void check_whole() {
    trial_.enter("");
    Sequence3 y = output();
    State final = nan_state(has_final_ ? "state/final/" : "state/initial/");
    layer_.forward(ctx_, parameters_, x_, y, tape_, options(has_final_ ? &final : nullptr));
    compare_output(y);
    compare_state("state/final/", final, leeway_ * tolerance<T>.value);
  }

  void check_chunks() {
    trial_.enter(" in chunks");
    const auto& splits = trial_.splits();
    if (std::accumulate(splits.begin(), splits.end(), Index{0}) != x_.extent(1))
      throw CaseError("splits do not sum to the length " + std::to_string(x_.extent(1)));
    Sequence3 y = output();
    State state = zero_state();
    copy_state<L>(ctx_, initial_, state);
    Index begin = 0;
    for (const Index length : splits) {
      const Sequence3 x_chunk = ssm::clone(x_.slice(1, begin, begin + length));
      Sequence3 y_chunk = ssm::clone(y.slice(1, begin, begin + length));
      layer_.prefill(ctx_, parameters_, x_chunk, y_chunk, state);
      copy(y_chunk, y.slice(1, begin, begin + length));
      begin += length;
    }
    compare_output(y);
    compare_state("state/final/", state, leeway_ * tolerance<T>.value);
  }

  void check_steps() {
    trial_.enter(" by steps");
    Sequence3 y = output();
    State state = zero_state();
    copy_state<L>(ctx_, initial_, state);
    for (Index t = 0; t < x_.extent(1); ++t)
      layer_.step(ctx_, parameters_, x_.select(1, t), y.select(1, t), state);
    compare_output(y);
    compare_state("state/final/", state, leeway_ * tolerance<T>.value);
  }

  void check_gradients() {
    trial_.enter("");
    const auto shape = trial_.shape("output/y");
    const auto dy = trial_.template read<T, 3>("cotangent/y", {shape[0], shape[1], shape[2]});
    Sequence3 dx(x_.extents());
    fill(dx, not_a_number);
    Parameters gradients = layer_.template zero_parameters<T>(ctx_);
    SequenceGradients<State> ends;
    State dfinal = zero_state();
    if (trial_.has_any("cotangent/state/")) {
      if constexpr (!std::is_same_v<State, NoState>) reshape_like("state/final/", dfinal);
      L::for_each_state([](const std::string&, auto& tensor) { fill(tensor, 0); }, dfinal);
      read_state("cotangent/state/", dfinal);
      ends.final_state = &dfinal;
    }
    State dinitial = nan_state("state/initial/");
    if (trial_.has_any("grad/state/")) ends.initial_state = &dinitial;
    layer_.backward(ctx_, parameters_, tape_, dy, dx, gradients, ends);
    const double allowed = leeway_ * tolerance<T>.gradient;
    trial_.compare_if_given("grad/input/x", dx, allowed);
    compare_gradients<L>(trial_, gradients, allowed);
    if (ends.initial_state != nullptr) compare_state("grad/state/", dinitial, allowed);
  }

  SequenceOptions<State> options(State* final) const {
    return {.segments = segments_,
            .initial_state = has_initial_ ? &initial_ : nullptr,
            .final_state = final};
  }
  State zero_state() const {
    return layer_.template initial_state<T>(ctx_, sequence_count(x_.extent(0), segments_));
  }
  State nan_state(const std::string& shaped_as) {
    State state = zero_state();
    reshape_like(shaped_as, state);
    L::for_each_state([](const std::string&, auto& tensor) { fill_unwritten(tensor); }, state);
    return state;
  }
  Sequence3 output() {
    const auto shape = trial_.shape("output/y");
    if (shape.size() != 3) throw CaseError("tensor 'output/y' must have three axes");
    Sequence3 y({shape[0], shape[1], shape[2]});
    fill(y, not_a_number);
    return y;
  }

  /// Fills the tensors of a state that the file has.
  void read_state(const std::string& prefix, State& state) {
    reshape_like(prefix, state);
    L::for_each_state(
        [&](const std::string& name, auto& tensor) {
          using Tensor = std::remove_reference_t<decltype(tensor)>;
          if (!trial_.has(prefix + name)) return;
          const View<ValueOf<Tensor>, Tensor::rank()> view = tensor;
          const auto shape = as_in_file(view).extents().to_array();
          if constexpr (std::is_integral_v<ValueOf<Tensor>>)
            copy(trial_.template integers<Tensor::rank()>(prefix + name, shape), as_in_file(view));
          else
            copy(trial_.template view<Tensor::rank()>(prefix + name, shape), as_in_file(view));
        },
        state);
  }
  /// Gives a key–value cache the number of positions it has in the file, the same for every
  /// sequence.
  void reshape_like(const std::string& prefix, State& state) {
    if (layout_ == StateLayout::same) return;
    Index positions = 0;
    L::for_each_state(
        [&](const std::string& name, auto& tensor) {
          using Tensor = std::remove_reference_t<decltype(tensor)>;
          if (!trial_.has(prefix + name)) {
            if constexpr (std::is_integral_v<ValueOf<Tensor>>) fill(tensor, positions);
            return;
          }
          const auto shape = trial_.shape(prefix + name);
          if (shape.size() < 2) throw CaseError("tensor '" + prefix + name + "' has too few axes");
          auto extents = tensor.extents().to_array();
          extents[0] = positions = shape[1];
          std::apply([&](auto... n) { tensor.reset(typename Tensor::Shape(n...)); }, extents);
        },
        state);
  }
  template <class V>
  V as_in_file(const V& view) const {
    if constexpr (V::rank() > 1)
      return layout_ == StateLayout::same ? view : V(view.transpose(0, 1));
    else
      return view;
  }

  void compare_output(const Sequence3& y) {
    trial_.compare("output/y", y, leeway_ * tolerance<T>.value);
  }
  void compare_state(const std::string& prefix, const State& state, double allowed) {
    L::for_each_state(
        [&](const std::string& name, const auto& tensor) {
          using Tensor = std::remove_cvref_t<decltype(tensor)>;
          using Value = ValueOf<Tensor>;
          if (!trial_.has(prefix + name)) return;
          const View<const Value, Tensor::rank()> view = tensor.view();
          if constexpr (std::is_integral_v<Value>)
            trial_.template compare_integers<Value, Tensor::rank()>(prefix + name,
                                                                    as_in_file(view));
          else
            trial_.compare(prefix + name, as_in_file(view), allowed);
        },
        state);
  }

  Trial& trial_;
  const L& layer_;
  StateLayout layout_;
  double leeway_;
  Context<B> ctx_;
  Parameters parameters_;
  Sequence3 x_;
  std::vector<Index> segments_;
  State initial_;
  bool has_initial_ = false;
  bool has_final_ = false;
  typename L::template Tape<T, typename B::Space> tape_;
};

/// Everything the case has; L is a layer with run-time sizes.
template <class B, class T, class L>
void check_layer(Trial& trial, const L& layer, StateLayout layout = StateLayout::same,
                 double leeway = 1) {
  LayerCheck<B, T, L>(trial, layer, layout, leeway).run();
}

/// Only the outputs without an initial state: for another way to compute them.
template <class B, class T, class L>
void check_stateless(Trial& trial, const L& layer, std::string phase) {
  LayerCheck<B, T, L>(trial, layer, StateLayout::same).check_stateless(std::move(phase));
}

}  // namespace ssm::conformance
