// SPDX-License-Identifier: Apache-2.0
// Linked into a program, makes every aligned allocation of it, and so all of HostSpace, page-locked
// memory that the device reads and writes: what BasicCuda<HostSpace> works on. Without a device it
// is ordinary memory.
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>

#include "ssm/backend/cuda/device.hpp"
#include "ssm/core/memory_space.hpp"

namespace ssm::cuda {
extern std::atomic<std::size_t> page_locked_allocations;
std::atomic<std::size_t> page_locked_allocations{0};  // so far: for tests
}  // namespace ssm::cuda

namespace {

constexpr std::size_t header_bytes = 64;  // keeps the alignment of HostSpace
constexpr std::size_t slab_bytes = std::size_t{16} << 20;

/// In front of every block.
struct Header {
  std::size_t size_class;  // the block has 2^size_class bytes
};

/// Freed blocks by size, and the slab that new ones are cut from; page-locking is slow, so nothing
/// is given back.
class Pool {
 public:
  void* allocate(std::size_t bytes) {
    const auto size_class = static_cast<std::size_t>(std::bit_width(bytes + header_bytes - 1));
    ++ssm::cuda::page_locked_allocations;
    const std::lock_guard lock(mutex_);
    void* block = free_[size_class];
    if (block != nullptr) {
      free_[size_class] = *static_cast<void**>(block);
    } else {
      block = cut(std::size_t{1} << size_class);
    }
    new (block) Header{size_class};
    return static_cast<std::byte*>(block) + header_bytes;
  }
  void deallocate(void* pointer) {
    void* const block = static_cast<std::byte*>(pointer) - header_bytes;
    const std::size_t size_class = static_cast<Header*>(block)->size_class;
    const std::lock_guard lock(mutex_);
    *static_cast<void**>(block) = free_[size_class];
    free_[size_class] = block;
  }

 private:
  void* cut(std::size_t bytes) {
    if (bytes > slab_bytes) return page_locked(bytes);
    if (left_ < bytes) {
      next_ = static_cast<std::byte*>(page_locked(slab_bytes));
      left_ = slab_bytes;
    }
    void* const block = next_;
    next_ += bytes;
    left_ -= bytes;
    return block;
  }
  static void* page_locked(std::size_t bytes) {
    static const bool has_device = ssm::cuda::device_count() > 0;
    if (has_device) return ssm::cuda::allocate_page_locked(bytes);
    void* const pointer = std::aligned_alloc(header_bytes, bytes);
    if (pointer == nullptr) throw std::bad_alloc();
    return pointer;
  }

  std::mutex mutex_;
  std::array<void*, 65> free_{};
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
};

Pool& pool() {
  static Pool* const the_pool = new Pool();  // outlives everything that frees
  return *the_pool;
}

/// Large tensors, too, have memory of the pool.
[[maybe_unused]] const bool all_are_locked = [] {
  ssm::HostSpace::least_zeroed = std::numeric_limits<std::size_t>::max();
  return true;
}();

}  // namespace

// HostSpace asks for 64-byte alignment; the block sizes are powers of two of at least 128 bytes in
// slabs that are aligned to pages.
void* operator new(std::size_t bytes, std::align_val_t) { return pool().allocate(bytes); }
void* operator new(std::size_t bytes, std::align_val_t, const std::nothrow_t&) noexcept {
  try {
    return pool().allocate(bytes);
  } catch (...) {
    return nullptr;
  }
}
void operator delete(void* pointer, std::align_val_t) noexcept {
  if (pointer != nullptr) pool().deallocate(pointer);
}
void operator delete(void* pointer, std::size_t, std::align_val_t) noexcept {
  if (pointer != nullptr) pool().deallocate(pointer);
}
void operator delete(void* pointer, std::align_val_t, const std::nothrow_t&) noexcept {
  if (pointer != nullptr) pool().deallocate(pointer);
}
