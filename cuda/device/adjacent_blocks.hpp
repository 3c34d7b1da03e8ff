// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>

namespace ssm::cuda::device {

/// Blocks that share memory and are given back one by one.
class AdjacentBlocks {
 public:
  /// Never destroyed: tensors that are static give their blocks back late.
  static AdjacentBlocks& all() {
    static auto* const blocks = new AdjacentBlocks();
    return *blocks;
  }

  /// allocate(bytes) for all blocks together, aligned to 256 bytes each, and deallocate(memory)
  /// when the last of them is given back.
  void take(std::span<const std::size_t> bytes, std::span<void*> blocks,
            void* (*allocate)(std::size_t), void (*deallocate)(void*)) {
    std::size_t total = 0;
    for (const std::size_t count : bytes) total += padded(count);
    const std::shared_ptr<void> memory(allocate(total), deallocate);
    const std::scoped_lock lock(mutex_);
    auto* next = static_cast<std::byte*>(memory.get());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      memory_of_.emplace(next, memory);
      blocks[i] = next;
      next += padded(bytes[i]);
    }
  }
  /// Whether it was one of these blocks.
  bool give_back(void* block) {
    std::shared_ptr<void> memory;  // let go of after the lock
    const std::scoped_lock lock(mutex_);
    const auto found = memory_of_.find(block);
    if (found == memory_of_.end()) return false;
    memory = std::move(found->second);
    memory_of_.erase(found);
    return true;
  }

 private:
  static constexpr std::size_t padded(std::size_t count) {
    constexpr std::size_t alignment = 256;
    return std::max((count + alignment - 1) / alignment, std::size_t{1}) * alignment;
  }

  std::mutex mutex_;
  std::unordered_map<void*, std::shared_ptr<void>> memory_of_;
};

}  // namespace ssm::cuda::device
