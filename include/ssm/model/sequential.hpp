// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <tuple>
#include <utility>

#include "ssm/layer/layer.hpp"

namespace ssm {

/// Blocks of different types and the same width in turn, all known at compile time.
///   y = block_{n−1}( … block_0(x))
/// x, y    [B, L, D]   y must not overlap x
/// Tensors of block i are named "layers.i." before the block's own names.
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

  Sequential() = default;
  explicit Sequential(Blocks... blocks) : blocks_(std::move(blocks)...) {}

  Index channels() const { return std::get<0>(blocks_).channels(); }
  static constexpr Index block_count() { return Index{sizeof...(Blocks)}; }

  template <class B, class T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                Kept<Tape<T, typename B::Space>> tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    View<const T, 3, Space> current = x;
    for_each_index([&](auto i) {
      constexpr std::size_t index = i;
      const auto next = i + 1 == count ? View<T, 3, Space>(y)
                                       : room<T, Space>(frame, tape ? &tape->between[i] : nullptr,
                                                        x.extent(0), x.extent(1), x.extent(2));
      std::get<i>(blocks_).evaluate(
          ctx, std::get<i>(p.blocks), current, next, tape ? &std::get<i>(tape->blocks) : nullptr,
          options.part(
              [](auto& state) -> auto& { return std::get<index>(state.blocks); }, index));
      current = next;
    });
  }

  template <class B, class T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx, Parameters<T, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    View<const T, 3, Space> current = dy;
    for_each_index([&](auto forward_index) {
      constexpr std::size_t i = count - 1 - forward_index;
      const auto next = i == 0 ? View<T, 3, Space>(dx) : frame.template tensor<T>(dy.extents());
      std::get<i>(blocks_).differentiate(
          ctx, std::get<i>(p.blocks), std::get<i>(tape.blocks), current, next,
          std::get<i>(gradients.blocks),
          ends.part([](auto& state) -> auto& { return std::get<i>(state.blocks); }));
      current = next;
    });
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences) const {
    State<T, typename B::Space> state;
    for_each_index([&](auto i) {
      std::get<i>(state.blocks) = std::get<i>(blocks_).template initial_state<T>(ctx, sequences);
    });
    return state;
  }
  template <class T = float, class B>
  Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    for_each_index([&](auto i) {
      std::get<i>(p.blocks) = std::get<i>(blocks_).template zero_parameters<T>(ctx);
    });
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, Seed seed) const {
    for_each_index([&](auto i) {
      std::get<i>(blocks_).fill_parameters(std::get<i>(p.blocks), seed.fork(std::uint64_t{i}));
    });
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    for_each_index([&](auto i) {
      std::tuple_element_t<i, std::tuple<Blocks...>>::for_each_parameter(
          scoped("layers." + std::to_string(i), visit), std::get<i>(p.blocks)...);
    });
  }
  static void for_each_state(auto&& visit, auto&... state) {
    for_each_index([&](auto i) {
      const auto named = [&](const std::string& name, auto&... tensors) {
        visit("layers." + std::to_string(i) + "." + name, tensors...);
      };
      std::tuple_element_t<i, std::tuple<Blocks...>>::for_each_state(named,
                                                                     std::get<i>(state.blocks)...);
    });
  }

 private:
  std::tuple<Blocks...> blocks_;
};

}  // namespace ssm
