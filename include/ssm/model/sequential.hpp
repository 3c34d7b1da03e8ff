// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"
#include "ssm/model/named.hpp"

namespace ssm {

/// Blocks of different types in turn, all known at compile time; each takes as many channels as the
/// one before it gives.
///   y = block_{n−1}( … block_0(x))
/// x       [B, L, inputs]
/// y       [B, L, outputs]   y must not overlap x
/// Tensors of block i are named "layers.i." before the block's own names, or by the name of a
/// `Named` block.
/// Throws  ArgumentError  from the constructors, where a block gives another number of channels
///                        than the next one takes
template <class... Blocks>
class Sequential : public LayerVerbs<Sequential<Blocks...>> {
  static constexpr std::size_t count = sizeof...(Blocks);
  static_assert(count > 0, "a model needs at least one block");

  /// visit(std::integral_constant<std::size_t, i>) for every block, in order.
  template <class Visit>
  static void for_each_index(Visit&& visit) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (visit(std::integral_constant<std::size_t, I>{}), ...);
    }
    (std::make_index_sequence<count>{});
  }

 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Sequential, T, Space> {
    std::tuple<typename Blocks::template Parameters<T, Space>...> blocks;
  };
  template <class T, class Space = HostSpace>
  struct State {
    std::tuple<typename Blocks::template State<T, Space>...> blocks;
  };
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space> {
    std::tuple<typename Blocks::template Tape<T, Space>...> blocks;
    std::array<DynamicTensor<T, 3, Space>, count>
        between;  // the output of every block but the last
  };

  Sequential() requires(std::is_default_constructible_v<Blocks>&&...) { require_widths(); }
  explicit Sequential(Blocks... blocks) : blocks_(std::move(blocks)...) { require_widths(); }

  Index inputs() const { return input_channels(std::get<0>(blocks_)); }
  Index outputs() const { return output_channels(std::get<count - 1>(blocks_)); }
  /// Of blocks that leave the width as it is.
  Index channels() const { return inputs(); }
  static constexpr Index block_count() { return Index{sizeof...(Blocks)}; }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<Blocks, B, T> && ...);

  template <class B, class T>
    requires RunsOn<Sequential, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const Buffers buffers(frame, tape);
    View<const T, 3, Space> current = x;
    for_each_index([&](auto i) {
      constexpr std::size_t index = i;
      const auto next = i + 1 == count
                            ? View<T, 3, Space>(y)
                            : buffers.at(
                                  [](auto& kept) -> auto& { return kept.between[index]; },
                                  x.extent(0), x.extent(1), output_channels(std::get<i>(blocks_)));
      std::get<i>(blocks_).evaluate(
          ctx, std::get<i>(p.blocks), current, next,
          buffers.part([](auto& kept) -> auto& { return std::get<index>(kept.blocks); }),
          options.part(
              [](auto& state) -> auto& { return std::get<index>(state.blocks); }, index));
      current = next;
    });
  }

  template <class B, class T>
    requires RunsOn<Sequential, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    View<const T, 3, Space> current = dy;
    for_each_index([&](auto forward_index) {
      constexpr std::size_t i = count - 1 - forward_index;
      const auto next = i == 0 ? View<T, 3, Space>(dx)
                               : frame.template tensor<T>(dy.extent(0), dy.extent(1),
                                                          input_channels(std::get<i>(blocks_)));
      std::get<i>(blocks_).differentiate(
          ctx, std::get<i>(p.blocks), std::get<i>(tape.blocks), current, next,
          std::get<i>(gradients.blocks),
          ends.part([](auto& state) -> auto& { return std::get<i>(state.blocks); }));
      current = next;
    });
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    State<T, typename B::Space> state;
    for_each_index([&](auto i) {
      std::get<i>(state.blocks) =
          initial_state_of<T>(std::get<i>(blocks_), ctx, sequences, reserve);
    });
    return state;
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    for_each_index([&](auto i) {
      std::get<i>(p.blocks) = std::get<i>(blocks_).template zero_parameters<T>(ctx);
    });
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    for_each_index([&](auto i) {
      std::get<i>(blocks_).fill_parameters(std::get<i>(p.blocks), seed.fork(std::uint64_t{i}));
    });
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    for_each_index([&](auto i) {
      std::tuple_element_t<i, std::tuple<Blocks...>>::for_each_parameter(scoped(name<i>(), visit),
                                                                         std::get<i>(p.blocks)...);
    });
  }
  static void for_each_state(auto&& visit, auto&... state) {
    for_each_index([&](auto i) {
      std::tuple_element_t<i, std::tuple<Blocks...>>::for_each_state(scoped(name<i>(), visit),
                                                                     std::get<i>(state.blocks)...);
    });
  }

 private:
  template <std::size_t i>
  static std::string name() {
    return detail::block_name<std::tuple_element_t<i, std::tuple<Blocks...>>>("layers." +
                                                                              std::to_string(i));
  }
  void require_widths() const {
    for_each_index([&](auto i) {
      if constexpr (i + 1 < count)
        detail::require_fitting(
            "Sequential", "block " + std::to_string(i), output_channels(std::get<i>(blocks_)),
            "block " + std::to_string(i + 1), input_channels(std::get<i + 1>(blocks_)));
    });
  }

  std::tuple<Blocks...> blocks_;
};

}  // namespace ssm
