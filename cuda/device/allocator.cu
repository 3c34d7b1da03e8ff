// SPDX-License-Identifier: Apache-2.0
// Device memory from the CUDA runtime, or from an allocator of the program's.
#include <atomic>
#include <mutex>
#include <unordered_map>

#include "device/adjacent_blocks.hpp"
#include "device/own_memory.hpp"
#include "ssm/backend/cuda/device.hpp"

namespace ssm::cuda {
namespace {

struct Foreign {
  std::atomic<bool> was_used = false;  // else nothing below is looked at
  std::mutex mutex;
  Allocator allocator;
  std::unordered_map<void*, bool> blocks;  // and whether their allocator is the one in use
};
Foreign& foreign() {
  static auto* const all = new Foreign;  // memory is given back after static objects went, too
  return *all;
}

bool deallocate_foreign(void* pointer) noexcept {
  Foreign& all = foreign();
  if (!all.was_used) return false;
  Allocator owner;
  {
    const std::lock_guard lock(all.mutex);
    const auto found = all.blocks.find(pointer);
    if (found == all.blocks.end()) return false;
    if (found->second) owner = all.allocator;
    all.blocks.erase(found);
  }
  if (owner.deallocate != nullptr) owner.deallocate(owner.user, pointer);
  return true;
}

}  // namespace

void use_allocator(const Allocator& allocator) {
  Foreign& all = foreign();
  const std::lock_guard lock(all.mutex);
  all.allocator = allocator;
  for (auto& block : all.blocks) block.second = false;
  all.was_used = true;
}

void* allocate(std::size_t bytes) {
  Foreign& all = foreign();
  Allocator allocator;
  if (all.was_used) {
    const std::lock_guard lock(all.mutex);
    allocator = all.allocator;
  }
  if (allocator.allocate == nullptr) return device::allocate(bytes);
  void* const pointer =
      allocator.allocate(allocator.user, bytes, current_device(), device::scope_stream());
  if (pointer == nullptr) throw OutOfMemory(bytes, CudaSpace::name());
  const std::lock_guard lock(all.mutex);
  all.blocks[pointer] = true;
  return pointer;
}

void deallocate(void* pointer) noexcept {
  if (device::AdjacentBlocks::all().give_back(pointer)) return;
  if (!deallocate_foreign(pointer)) device::deallocate(pointer);
}

void allocate_adjacent(std::span<const std::size_t> bytes, std::span<void*> blocks) {
  device::AdjacentBlocks::all().take(bytes, blocks, allocate, deallocate);
}

}  // namespace ssm::cuda
