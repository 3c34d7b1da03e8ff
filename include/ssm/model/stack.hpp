// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "ssm/core/gradient_listener.hpp"
#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"
#include "ssm/model/fixed_string.hpp"
#include "ssm/model/recompute.hpp"

namespace ssm {

/// Blocks of one type and the same width in turn; how many is known at run time.
///   y = block_{n−1}( … block_0(x))
/// x, y    [B, L, D]   y must not overlap x
/// Tensors of block i are named `list_name`.i before the block's own names.
/// With `tape.recompute` the tape holds what blocks read, and `backward` runs each forward once
/// more: Recompute.
template <class Block, FixedString list_name = "layers">
class Stack : public LayerVerbs<Stack<Block, list_name>> {
 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Stack, T, Space> {
    std::vector<typename Block::template Parameters<T, Space>> blocks;
  };
  template <class T, class Space = HostSpace>
  struct State {
    std::vector<typename Block::template State<T, Space>> blocks;
  };
  template <class T, class Space = HostSpace>
  struct Tape : InputTape<T, Space>,
                Recompute<Stack, typename Block::template Tape<T, Space>, T, Space> {
    std::vector<typename Block::template Tape<T, Space>> blocks;
    std::vector<DynamicTensor<T, 3, Space>> between;  // the output of every block but the last
  };

  /// Throws  ArgumentError  without blocks, or where they differ in width
  explicit Stack(std::vector<Block> blocks) : blocks_(std::move(blocks)) {
    if (blocks_.empty()) throw ArgumentError("Stack: a model needs at least one block");
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const std::string block = "block " + std::to_string(i);
      detail::require_fitting("Stack", "the block before", channels(), block,
                              input_channels(blocks_[i]));
      detail::require_fitting("Stack", block, output_channels(blocks_[i]), "every block",
                              channels());
    }
  }

  Index channels() const { return input_channels(blocks_.front()); }
  const std::vector<Block>& blocks() const { return blocks_; }
  Index block_count() const { return static_cast<Index>(blocks_.size()); }

  template <class B, class T>
  static constexpr bool runs_on = RunsOn<Block, B, T>;

  template <class B, class T>
    requires RunsOn<Stack, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                Input<B, T, dyn, dyn, dyn> x, Output<B, T, dyn, dyn, dyn> y,
                NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const std::size_t count = blocks_.size();
    if (tape != nullptr) {
      tape->blocks.resize(tape->recompute ? 0 : count);
      tape->between.resize(count - 1);
    }
    if (options.final_state != nullptr) options.final_state->blocks.resize(count);
    if (tape != nullptr && tape->recompute) tape->begin(ctx, x, options);
    // Without a tape two buffers take turns.
    View<T, 3, Space> turns[2];
    if (tape == nullptr && count > 1) {
      turns[0] = frame.template tensor<T>(x.extents());
      if (count > 2) turns[1] = frame.template tensor<T>(x.extents());
    }
    View<const T, 3, Space> current = x;
    for (std::size_t i = 0; i < count; ++i) {
      View<T, 3, Space> next = y;
      if (i + 1 < count) {
        if (tape != nullptr) tape->between[i].resize(x.extents());
        next = tape != nullptr ? tape->between[i].view() : turns[i % 2];
      }
      blocks_[i].evaluate(ctx, p.blocks[i], current, next, tape ? &block_tape(*tape, i) : nullptr,
                          options.part(
                              [i](auto& state) -> auto& { return state.blocks[i]; }, i));
      current = next;
    }
  }

  template <class B, class T>
    requires RunsOn<Stack, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const std::size_t count = blocks_.size();
    if (ends.initial_state != nullptr) ends.initial_state->blocks.resize(count);
    View<T, 3, Space> turns[2];
    if (count > 1)
      for (auto& turn : turns) turn = frame.template tensor<T>(dy.extents());
    View<const T, 3, Space> current = dy;
    for (std::size_t i = count; i-- > 0;) {
      const View<T, 3, Space> next = i == 0 ? View<T, 3, Space>(dx) : turns[i % 2];
      if (tape.recompute && !tape.holds(i)) {
        auto part = ctx.workspace().frame();
        const auto y = part.template tensor<T>(dy.extents());
        blocks_[i].evaluate(ctx, p.blocks[i], i == 0 ? tape.x : tape.between[i - 1].view(), y,
                            &tape.use(i),
                            tape.again().part(
                                [i](auto& state) -> auto& { return state.blocks[i]; }, i));
      }
      blocks_[i].differentiate(ctx, p.blocks[i], block_tape(tape, i), current, next,
                               gradients.blocks[i],
                               ends.part([i](auto& state) -> auto& { return state.blocks[i]; }));
      tell_done(ctx, gradients.blocks[i]);
      current = next;
    }
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    State<T, typename B::Space> state;
    for (const Block& block : blocks_)
      state.blocks.push_back(initial_state_of<T>(block, ctx, sequences, reserve));
    return state;
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    for (const Block& block : blocks_) p.blocks.push_back(block.template zero_parameters<T>(ctx));
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    for (std::size_t i = 0; i < blocks_.size(); ++i)
      blocks_[i].fill_parameters(p.blocks[i], seed.fork(i));
  }

  /// Parameters to be filled take the number of blocks of the first.
  static void for_each_parameter(auto&& visit, auto& p, auto&... more) {
    (match_block_count(p.blocks.size(), more), ...);
    for (std::size_t i = 0; i < p.blocks.size(); ++i)
      Block::for_each_parameter(scoped(list_name.text() + "." + std::to_string(i), visit),
                                p.blocks[i], more.blocks[i]...);
  }
  /// States to be filled take the length of the first.
  static void for_each_state(auto&& visit, auto& state, auto&... more) {
    (match_block_count(state.blocks.size(), more), ...);
    for (std::size_t i = 0; i < state.blocks.size(); ++i) {
      const auto named = [&](const std::string& name, auto&... tensors) {
        visit(list_name.text() + "." + std::to_string(i) + "." + name, tensors...);
      };
      Block::for_each_state(named, state.blocks[i], more.blocks[i]...);
    }
  }

 private:
  /// That of block i: its own, or what all of them use in turn.
  static auto& block_tape(auto& tape, std::size_t i) {
    return tape.recompute ? tape.use(i) : tape.blocks[i];
  }
  static void match_block_count(std::size_t count, auto& state) {
    if constexpr (!std::is_const_v<std::remove_reference_t<decltype(state)>>)
      state.blocks.resize(count);
  }

  std::vector<Block> blocks_;
};

}  // namespace ssm
