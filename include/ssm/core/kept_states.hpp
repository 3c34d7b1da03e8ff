// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "ssm/core/error.hpp"

namespace ssm {

/// The states that sequences came to a rank with in a forward pass, for the backward pass that
/// follows: there they need not be computed and sent once more, and ranks wait for each other in
/// one direction alone. A backward pass asks for them from the last call to the first.
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

  /// Memory for the states of a call. `type` tells kinds of calls apart.
  template <class Space>
  void* keep(const void* type, std::size_t bytes) {
    if (count_ == entries_.size()) entries_.emplace_back();
    Entry& entry = entries_[count_++];
    if (entry.room < bytes) {
      entry.memory.reset();
      entry.memory = std::shared_ptr<void>(Space::allocate(bytes),
                                           [](void* memory) { Space::deallocate(memory); });
      entry.room = bytes;
    }
    entry.type = type;
    entry.bytes = bytes;
    entry.is_taken = false;
    return entry.memory.get();
  }
  /// What the last call of that kind kept that is still to be taken.
  /// is_taken   by the call of the gradient; else the forward call only runs again
  const void* find(const void* type, std::size_t bytes, bool is_taken) {
    for (std::size_t i = count_; i-- > 0;) {
      Entry& entry = entries_[i];
      if (entry.type != type || entry.is_taken) continue;
      if (entry.bytes != bytes) break;
      entry.is_taken = is_taken;
      return entry.memory.get();
    }
    throw Error("a backward pass across ranks must be the forward pass backwards");
  }

 private:
  struct Entry {
    const void* type = nullptr;
    std::shared_ptr<void> memory{};
    std::size_t room = 0, bytes = 0;
    bool is_taken = false;
  };
  std::vector<Entry> entries_;
  std::size_t count_ = 0;
  bool is_backward_ = false;
};

}  // namespace ssm
