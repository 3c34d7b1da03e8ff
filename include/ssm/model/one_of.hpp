// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <variant>

#include "ssm/layer/layer.hpp"

namespace ssm {

/// A layer that is one of two kinds, known at run time: the mixers of a hybrid model. Adds nothing to names.
/// x, y    [B, L, D]   y must not overlap x
template <class First, class Second>
class OneOf : public LayerVerbs<OneOf<First, Second>> {
  template <class A, class B>
  struct Either {
    bool is_second = false;
    A first;
    B second;
  };

 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<OneOf, T, Space>,
                      Either<typename First::template Parameters<T, Space>,
                             typename Second::template Parameters<T, Space>> {};
  template <class T, class Space = HostSpace>
  struct State : Either<typename First::template State<T, Space>,
                        typename Second::template State<T, Space>> {};
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    typename First::template Tape<T, Space> first;
    typename Second::template Tape<T, Space> second;
  };

  OneOf(First layer) : layer_(std::move(layer)) {}
  OneOf(Second layer) : layer_(std::move(layer)) {}

  bool is_second() const { return layer_.index() == 1; }
  Index channels() const {
    return std::visit([](const auto& layer) { return layer.channels(); }, layer_);
  }
  /// Of kinds that differ in width from input to output; else `channels()`.
  Index inputs() const {
    return std::visit(
        [](const auto& layer) {
          if constexpr (requires { layer.inputs(); })
            return layer.inputs();
          else
            return layer.channels();
        },
        layer_);
  }
  Index outputs() const {
    return std::visit(
        [](const auto& layer) {
          if constexpr (requires { layer.outputs(); })
            return layer.outputs();
          else
            return layer.channels();
        },
        layer_);
  }

  template <class B, class T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                Kept<Tape<T, typename B::Space>> tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    if (is_second()) {
      if (options.final_state != nullptr) options.final_state->is_second = true;
      std::get<1>(layer_).evaluate(ctx, p.second, x, y, tape ? &tape->second : nullptr,
                                   options.part(second_of));
    } else {
      std::get<0>(layer_).evaluate(ctx, p.first, x, y, tape ? &tape->first : nullptr,
                                   options.part(first_of));
    }
  }

  template <class B, class T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx, Parameters<T, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    if (is_second()) {
      if (ends.initial_state != nullptr) ends.initial_state->is_second = true;
      std::get<1>(layer_).differentiate(ctx, p.second, tape.second, dy, dx, gradients.second,
                                        ends.part(second_of));
    } else {
      std::get<0>(layer_).differentiate(ctx, p.first, tape.first, dy, dx, gradients.first,
                                        ends.part(first_of));
    }
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences) const {
    State<T, typename B::Space> state;
    state.is_second = is_second();
    if (is_second())
      state.second = std::get<1>(layer_).template initial_state<T>(ctx, sequences);
    else
      state.first = std::get<0>(layer_).template initial_state<T>(ctx, sequences);
    return state;
  }
  template <class T = float, class B>
  Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.is_second = is_second();
    if (is_second())
      p.second = std::get<1>(layer_).template zero_parameters<T>(ctx);
    else
      p.first = std::get<0>(layer_).template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, Seed seed) const {
    if (is_second())
      std::get<1>(layer_).fill_parameters(p.second, seed);
    else
      std::get<0>(layer_).fill_parameters(p.first, seed);
  }

  static void for_each_parameter(auto&& visit, auto& p, auto&... more) {
    if (p.is_second)
      Second::for_each_parameter(visit, p.second, more.second...);
    else
      First::for_each_parameter(visit, p.first, more.first...);
  }
  /// States to be filled take the kind of the first.
  static void for_each_state(auto&& visit, auto& state, auto&... more) {
    (follow(state.is_second, more), ...);
    if (state.is_second)
      Second::for_each_state(visit, state.second, more.second...);
    else
      First::for_each_state(visit, state.first, more.first...);
  }

 private:
  static void follow(bool is_second, auto& state) {
    if constexpr (!std::is_const_v<std::remove_reference_t<decltype(state)>>)
      state.is_second = is_second;
  }

  static constexpr auto first_of = [](auto& state) -> auto& { return state.first; };
  static constexpr auto second_of = [](auto& state) -> auto& { return state.second; };

  std::variant<First, Second> layer_;
};

}  // namespace ssm
