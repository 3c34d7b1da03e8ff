// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ssm/core/error.hpp"

namespace ssm {

/// The states that sequences came to a rank with in a forward pass, for the backward pass that
/// follows: there they need not be computed and sent once more, and ranks wait for each other in
/// one direction alone. A backward pass finds them by where the operands of the calls lie; those of
/// calls whose operands lay in scratch memory, which is elsewhere by then, from the last to the
/// first.
///   kept.begin();             layer.forward(…);
///   kept.begin_backward();    layer.backward(…);    kept.end();
/// The memory is kept from pass to pass.
class KeptStates {
 public:
  void begin() {
    count_ = 0;
    is_backward_ = false;
  }
  void begin_backward() { is_backward_ = true; }
  bool is_backward() const { return is_backward_; }
  /// Throws  Error  where the backward pass did not ask for all of them
  void end() {
    for (std::size_t i = 0; i < count_; ++i)
      if (!entries_[i].is_taken)
        throw Error("a backward pass across ranks must be the forward pass backwards");
  }

  /// What a call is known by: its kind, and where its operands lie.
  struct Call {
    const void* type = nullptr;
    std::uint64_t operands = 0;
    std::size_t bytes = 0;  // of its states
  };
  /// Memory for the states of a call.
  template <class Space>
  void* keep(const Call& call) {
    if (count_ == entries_.size()) entries_.emplace_back();
    Entry& entry = entries_[count_++];
    if (entry.room < call.bytes) {
      entry.memory.reset();
      entry.memory = std::shared_ptr<void>(Space::allocate(call.bytes),
                                           [](void* memory) { Space::deallocate(memory); });
      entry.room = call.bytes;
    }
    entry.call = call;
    entry.is_taken = false;
    return entry.memory.get();
  }
  /// is_taken   by the call of the gradient; else the forward call only runs again
  const void* find(const Call& call, bool is_taken) {
    Entry* found = nullptr;
    for (std::size_t i = count_; i-- > 0;) {
      Entry& entry = entries_[i];
      if (entry.is_taken || entry.call.type != call.type || entry.call.bytes != call.bytes)
        continue;
      const bool is_same = entry.call.operands == call.operands;
      if (found == nullptr || is_same) found = &entry;
      if (is_same) break;
    }
    if (found == nullptr)
      throw Error("a backward pass across ranks must be the forward pass backwards");
    found->is_taken = is_taken;
    return found->memory.get();
  }

 private:
  struct Entry {
    Call call{};
    std::shared_ptr<void> memory{};
    std::size_t room = 0;
    bool is_taken = false;
  };
  std::vector<Entry> entries_;
  std::size_t count_ = 0;
  bool is_backward_ = false;
};

}  // namespace ssm
