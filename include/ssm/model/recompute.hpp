// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <limits>
#include <optional>

#include "ssm/core/context.hpp"
#include "ssm/layer/tape.hpp"

namespace ssm {

/// A base of the tape of a layer that is a list of blocks: with `recompute`, set before `forward`,
/// blocks share one tape of their own, and `backward` runs the forward of each once more, from what
/// it read, just before its gradient (activation recomputation, also called checkpointing).
///   auto tape = layer.make_tape(ctx);
///   tape.recompute = true;
/// The same losses and gradients, bit for bit. The tape shrinks by the blocks' own tapes but one,
/// for one more forward pass of all blocks but the last. Where ranks share sequences, the states
/// that a SequenceCut keeps serve that pass too, which then waits for no other rank.
/// Source  Chen et al. 2016 (sublinear memory cost)
template <class L, class BlockTape, class T, class Space>
class Recompute : public SequenceTape<L, typename L::template State<T, Space>> {
  using State = typename L::template State<T, Space>;

 public:
  bool recompute = false;
  View<const T, 3, Space> x;

  /// Keeps what the call began with.
  template <class B>
  void begin(Context<B>& ctx, const View<const T, 3, Space>& read,
             const SequenceOptions<State>& options) {
    x = read;
    this->keep(ctx, options);
    dropout_ = options.dropout;
    has_final_state_ = options.final_state != nullptr;
    if (has_final_state_) copy_state<L>(ctx, *options.final_state, final_state_);
  }
  /// The options of the same call once more. Its final state is nobody's: kernels may differ by
  /// whether there is one.
  SequenceOptions<State> again() const {
    auto result = this->options();
    if (has_final_state_) result.final_state = &final_state_;
    result.dropout = dropout_;
    return result;
  }
  /// The shared tape, for block i from here on.
  BlockTape& use(std::size_t i) const {
    block_ = i;
    return shared_;
  }
  /// Whether the shared tape is that of block i.
  bool holds(std::size_t i) const { return block_ == i; }

 private:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  std::optional<Seed> dropout_;
  bool has_final_state_ = false;
  mutable State final_state_;
  mutable BlockTape shared_;  // of whichever block was evaluated last
  mutable std::size_t block_ = none;
};

}  // namespace ssm
