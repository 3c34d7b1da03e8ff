// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"
#include "ssm/model/named.hpp"

namespace ssm {

/// Two layers in turn: y = second(first(x)). Adds nothing to the names of their tensors but that of
/// a `Named` part.
/// x       [B, L, inputs]
/// y       [B, L, outputs]   y must not overlap x
/// state   of both
/// Throws  ArgumentError  from the constructors, where the first gives another number of channels
///                        than the second takes
template <class First, class Second>
class Chain : public LayerVerbs<Chain<First, Second>> {
 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Chain, T, Space> {
    typename First::template Parameters<T, Space> first;
    typename Second::template Parameters<T, Space> second;
  };
  template <class T, class Space = HostSpace>
  struct State {
    typename First::template State<T, Space> first;
    typename Second::template State<T, Space> second;
  };
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    typename First::template Tape<T, Space> first;
    DynamicTensor<T, 3, Space> between;
    typename Second::template Tape<T, Space> second;
  };

  Chain() requires(
      std::is_default_constructible_v<First>&& std::is_default_constructible_v<Second>) {
    require_widths();
  }
  Chain(First first, Second second) : first_(std::move(first)), second_(std::move(second)) {
    require_widths();
  }

  Index inputs() const { return input_channels(first_); }
  Index outputs() const { return output_channels(second_); }
  /// Of layers that leave the width as it is.
  Index channels() const { return inputs(); }
  const First& first() const { return first_; }
  const Second& second() const { return second_; }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<First, B, T> && RunsOn<Second, B, T>);

  template <class B, class T>
    requires RunsOn<Chain, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    auto between = buffers.at(&Kept::between, x.extent(0), x.extent(1), output_channels(first_));
    first_.evaluate(ctx, p.first, x, between, buffers.part(&Kept::first),
                    options.part(first_of, std::string_view("first")));
    second_.evaluate(ctx, p.second, between, y, buffers.part(&Kept::second),
                     options.part(second_of, std::string_view("second")));
  }

  template <class B, class T>
    requires RunsOn<Chain, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    auto frame = ctx.workspace().frame();
    auto dbetween = frame.template tensor<T>(dy.extent(0), dy.extent(1), output_channels(first_));
    second_.differentiate(ctx, p.second, tape.second, dy, dbetween, gradients.second,
                          ends.part(second_of));
    first_.differentiate(ctx, p.first, tape.first, dbetween, dx, gradients.first,
                         ends.part(first_of));
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    State<T, typename B::Space> state;
    state.first = initial_state_of<T>(first_, ctx, sequences, reserve);
    state.second = initial_state_of<T>(second_, ctx, sequences, reserve);
    return state;
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.first = first_.template zero_parameters<T>(ctx);
    p.second = second_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    first_.fill_parameters(p.first, seed.fork("first"));
    second_.fill_parameters(p.second, seed.fork("second"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    First::for_each_parameter(scoped(detail::block_name<First>(""), visit), p.first...);
    Second::for_each_parameter(scoped(detail::block_name<Second>(""), visit), p.second...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    First::for_each_state(scoped(detail::block_name<First>(""), visit), state.first...);
    Second::for_each_state(scoped(detail::block_name<Second>(""), visit), state.second...);
  }

 private:
  void require_widths() const {
    detail::require_fitting("Chain", "the first layer", output_channels(first_), "the second",
                            input_channels(second_));
  }

  static constexpr auto first_of = [](auto& state) -> auto& { return state.first; };
  static constexpr auto second_of = [](auto& state) -> auto& { return state.second; };

  First first_;
  Second second_;
};

}  // namespace ssm
