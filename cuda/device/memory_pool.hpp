// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iterator>
#include <list>
#include <map>
#include <mutex>
#include <unordered_map>

namespace ssm::cuda::device {

/// Blocks of a few MiB, several to a chunk of the driver's, which rounds what it gives up to pages
/// of 2 MiB: a model's tensors would leave a tenth of the memory unused. As with the driver, a
/// block that is given back is free when the device has done all that it was given before.
class MemoryPool {
 public:
  struct Driver {
    void* (*allocate)(std::size_t bytes);  // on the current device; throws
    void (*deallocate)(void* memory);
    void (*wait)(int device);  // until it has done all that it was given
  };
  explicit MemoryPool(Driver driver) : driver_(driver) {}
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// Whether a block belongs here: smaller ones share a page as it is, and of larger ones the rest
  /// of a page is little.
  static constexpr bool suits(std::size_t bytes) {
    return bytes > page / 2 && bytes < largest_chunk && bytes % page != 0;
  }

  /// A block on the current device, aligned to 512 bytes.
  void* take(std::size_t bytes, int device) {
    bytes = rounded(bytes, alignment);
    const std::scoped_lock lock(mutex_);
    std::size_t held = 0;
    for (Chunk& chunk : chunks_) {
      if (chunk.device != device) continue;
      held += chunk.size;
      for (const auto& [begin, size] : chunk.free)
        if (size >= bytes) return cut(chunk, begin, bytes);
    }
    const std::size_t least = rounded(bytes, page);
    std::size_t size = std::max(least, std::min(largest_chunk, rounded(held, page)));
    void* memory = nullptr;
    try {
      memory = driver_.allocate(size);
    } catch (const std::exception&) {
      if (size == least) throw;
      memory = driver_.allocate(size = least);
    }
    chunks_.push_back({static_cast<std::byte*>(memory), size, device, {{0, size}}});
    return cut(chunks_.back(), 0, bytes);
  }

  /// Whether it was one of these blocks.
  bool give_back(void* block) {
    int device = 0;
    {
      const std::scoped_lock lock(mutex_);
      const auto found = blocks_.find(block);
      if (found == blocks_.end()) return false;
      device = found->second.chunk->device;
    }
    driver_.wait(device);
    const std::scoped_lock lock(mutex_);
    const auto found = blocks_.find(block);
    const auto [chunk, size] = found->second;
    blocks_.erase(found);
    join(*chunk, static_cast<std::size_t>(static_cast<std::byte*>(block) - chunk->memory), size);
    if (chunk->free.begin()->second != chunk->size) return true;
    driver_.deallocate(chunk->memory);
    chunks_.remove_if([gone = chunk](const Chunk& each) { return &each == gone; });
    return true;
  }

 private:
  struct Chunk {
    std::byte* memory;
    std::size_t size;
    int device;
    std::map<std::size_t, std::size_t> free;  // where they begin, and their sizes
  };
  struct Block {
    Chunk* chunk;
    std::size_t size;
  };
  static constexpr std::size_t alignment = 512;
  static constexpr std::size_t page = 2 << 20;
  static constexpr std::size_t largest_chunk = 32 << 20;

  static constexpr std::size_t rounded(std::size_t bytes, std::size_t to) {
    return (bytes + to - 1) / to * to;
  }
  void* cut(Chunk& chunk, std::size_t begin, std::size_t bytes) {
    void* const block = chunk.memory + begin;
    blocks_.emplace(block, Block{&chunk, bytes});
    const auto free = chunk.free.find(begin);
    const std::size_t rest = free->second - bytes;
    chunk.free.erase(free);
    if (rest > 0) chunk.free.emplace(begin + bytes, rest);
    return block;
  }
  /// Frees a stretch, as one with those beside it.
  static void join(Chunk& chunk, std::size_t begin, std::size_t size) {
    const auto after = chunk.free.lower_bound(begin);
    if (after != chunk.free.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == begin) {
        begin = before->first;
        size += before->second;
        chunk.free.erase(before);
      }
    }
    if (after != chunk.free.end() && begin + size == after->first) {
      size += after->second;
      chunk.free.erase(after);
    }
    chunk.free.emplace(begin, size);
  }

  Driver driver_;
  std::mutex mutex_;
  std::list<Chunk> chunks_;
  std::unordered_map<void*, Block> blocks_;
};

}  // namespace ssm::cuda::device
