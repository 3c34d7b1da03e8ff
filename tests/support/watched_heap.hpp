// SPDX-License-Identifier: Apache-2.0
// Watches the heap: how many bytes the program holds, and the largest request. It replaces global
// functions: include it in one source of a program.
#pragma once

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace ssm {

inline std::atomic<std::size_t> live_bytes = 0;
inline std::size_t largest_allocation = 0;  // bytes; set to 0 before what is to be watched

inline void* watched_allocation(std::size_t bytes, std::size_t alignment) {
  largest_allocation = std::max(largest_allocation, bytes);
  void* const pointer = std::aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
  live_bytes += malloc_usable_size(pointer);
  return pointer;
}
inline void watched_deallocation(void* pointer) {
  live_bytes -= malloc_usable_size(pointer);
  std::free(pointer);
}

}  // namespace ssm

// Never inlined: g++ would warn of memory from `new` that goes to `free` wherever it sees only one
// side.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return ssm::watched_allocation(bytes, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* pointer = ::operator new(bytes, std::nothrow);
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment,
                                     const std::nothrow_t&) noexcept {
  return ssm::watched_allocation(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* pointer) noexcept {
  ssm::watched_deallocation(pointer);
}
[[gnu::noinline]] void operator delete(void* pointer, std::size_t) noexcept {
  ssm::watched_deallocation(pointer);
}
[[gnu::noinline]] void operator delete(void* pointer, std::align_val_t) noexcept {
  ssm::watched_deallocation(pointer);
}
[[gnu::noinline]] void operator delete(void* pointer, std::size_t, std::align_val_t) noexcept {
  ssm::watched_deallocation(pointer);
}
