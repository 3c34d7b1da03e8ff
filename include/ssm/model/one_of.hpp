// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <tuple>
#include <utility>
#include <variant>

#include "ssm/layer/adds_residual.hpp"
#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"

namespace ssm {

/// A layer that is one of several kinds, which one is known at run time: the mixers of a hybrid
/// model. Adds nothing to names.
///   using Mixer =
///       OneOf<H3<H3Config{}>, Mamba<MambaConfig{}>, CausalAttention<CausalAttentionConfig{}>>;
///   std::vector<Mixer> mixers{H3<H3Config{}>({.channels = 64}),
///                             Mamba<MambaConfig{}>({.channels = 64})};
/// x, y    [B, L, D]   y must not overlap x
/// Throws  ArgumentError  for parameters, a tape or a state of another kind
template <class... Kinds>
class OneOf : public LayerVerbs<OneOf<Kinds...>> {
  static_assert(sizeof...(Kinds) > 0, "OneOf needs kinds");
  template <std::size_t I>
  using Kind = std::tuple_element_t<I, std::tuple<Kinds...>>;

 public:
  static constexpr bool adds_residual = (AddsResidual<Kinds> && ...);
  static constexpr bool takes_norm = (TakesNorm<Kinds> && ...);
  static constexpr bool leaves_output_bias = (LeavesOutputBias<Kinds> && ...);

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<OneOf, T, Space> {
    std::variant<typename Kinds::template Parameters<T, Space>...> kind;
  };
  template <class T, class Space = HostSpace>
  struct State {
    std::variant<typename Kinds::template State<T, Space>...> kind;
  };
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    std::tuple<typename Kinds::template Tape<T, Space>...> kinds;  // a shared one serves all
    std::size_t kind = sizeof...(Kinds);                           // of the call; none so far
  };

  template <class Layer>
    requires(std::is_same_v<Layer, Kinds> || ...)
  OneOf(Layer layer) : layer_(std::move(layer)) {}

  /// Which kind it is, counted from 0.
  std::size_t kind() const { return layer_.index(); }
  Index inputs() const {
    return std::visit([](const auto& layer) { return input_channels(layer); }, layer_);
  }
  Index outputs() const {
    return std::visit([](const auto& layer) { return output_channels(layer); }, layer_);
  }
  /// Of kinds that leave the width as it is.
  Index channels() const { return inputs(); }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<Kinds, B, T> && ...);

  template <class B, class T>
    requires RunsOn<OneOf, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    evaluate_kind<B, T>(ctx, p, x, y, tape, options);
  }
  template <class B, class T>
    requires(RunsOn<OneOf, B, T>&& adds_residual)
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options,
                Input<B, T, dyn, dyn, dyn> residual) const {
    evaluate_kind<B, T>(ctx, p, x, y, tape, options, residual);
  }
  template <class B, class T>
    requires(RunsOn<OneOf, B, T>&& takes_norm)
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options,
                Input<B, T, dyn, dyn, dyn> residual, NonDeduced<FirstNorm<B, T>> norm) const {
    evaluate_kind<B, T>(ctx, p, x, y, tape, options, residual, norm);
  }

  template <class B, class T>
    requires RunsOn<OneOf, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    differentiate_kind<B, T>(ctx, p, tape, dy, dx, gradients, ends);
  }
  template <class B, class T>
    requires(RunsOn<OneOf, B, T>&& leaves_output_bias)
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends,
                     OutputBias output_bias) const {
    differentiate_kind<B, T>(ctx, p, tape, dy, dx, gradients, ends, output_bias);
  }
  template <class P>
  static auto output_bias(P& gradients) requires leaves_output_bias {
    View<typename P::Scalar, 1, typename P::Space> bias;
    of_kind(gradients.kind.index(), [&](auto i) { bias = Kind<i>::output_bias(as<i>(gradients)); });
    return bias;
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    State<T, typename B::Space> state;
    of_kind(kind(), [&](auto i) {
      as<i>(state) = initial_state_of<T>(std::get<i>(layer_), ctx, sequences, reserve);
    });
    return state;
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    of_kind(kind(),
            [&](auto i) { as<i>(p) = std::get<i>(layer_).template zero_parameters<T>(ctx); });
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    of_kind(kind(), [&](auto i) { std::get<i>(layer_).fill_parameters(as<i>(p), seed); });
  }

  static void for_each_parameter(auto&& visit, auto& p, auto&... more) {
    of_kind(p.kind.index(),
            [&](auto i) { Kind<i>::for_each_parameter(visit, as<i>(p), as<i>(more)...); });
  }
  /// States to be filled take the kind of the first.
  static void for_each_state(auto&& visit, auto& state, auto&... more) {
    of_kind(state.kind.index(),
            [&](auto i) { Kind<i>::for_each_state(visit, as<i>(state), as<i>(more)...); });
  }

 private:
  template <class B, class T, class... More>
  void evaluate_kind(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                     Tape<T, typename B::Space>* tape,
                     const SequenceOptions<State<T, typename B::Space>>& options,
                     const More&... more) const {
    if (tape != nullptr) tape->kind = kind();
    of_kind(kind(), [&](auto i) {
      constexpr std::size_t index = i;
      std::get<index>(layer_).evaluate(
          ctx, as<index>(p), x, y,
          OptionalTape(tape).part([](auto& kept) -> auto& { return tape_of<index>(kept); }),
          options.part([](auto& state) -> auto& { return as<index>(state); }), more...);
    });
  }

  template <class B, class T, class... More>
  void differentiate_kind(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                          const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                          Output<B, T, dyn, dyn, dyn> dx,
                          Parameters<Wide<T>, typename B::Space>& gradients,
                          const SequenceGradients<State<T, typename B::Space>>& ends,
                          const More&... more) const {
    of_kind(kind(), [&](auto i) {
      constexpr std::size_t index = i;
      std::get<index>(layer_).differentiate(
          ctx, as<index>(p), tape_of<index>(tape), dy, dx, as<index>(gradients),
          ends.part([](auto& state) -> auto& { return as<index>(state); }), more...);
    });
  }

  /// run(std::integral_constant<std::size_t, kind>)
  template <class Run>
  static void of_kind(std::size_t kind, Run&& run) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((kind == I ? run(std::integral_constant<std::size_t, I>{}) : void()), ...);
    }
    (std::index_sequence_for<Kinds...>{});
  }

  template <std::size_t I>
  static auto& tape_of(auto& tape) {
    if (tape.kind != I) throw ArgumentError("OneOf: a tape of another kind");
    return std::get<I>(tape.kinds);
  }
  /// The part of kind I. What may be written to becomes that kind.
  template <std::size_t I>
  static auto& as(auto& parts) {
    if constexpr (!std::is_const_v<std::remove_reference_t<decltype(parts)>>)
      if (parts.kind.index() != I) parts.kind.template emplace<I>();
    auto* part = std::get_if<I>(&parts.kind);
    if (part == nullptr) throw ArgumentError("OneOf: parameters or a state of another kind");
    return *part;
  }

  std::variant<Kinds...> layer_;
};

}  // namespace ssm
