// SPDX-License-Identifier: Apache-2.0
// Counts every heap allocation of the program. It replaces global functions: include it in one source of a program.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace ssm::laws {

inline std::atomic<std::size_t> allocations{0};

}  // namespace ssm::laws

#ifdef SSM_TEST_ON_DEVICE
// The driver's own malloc is none of the library's doing: what counts is operator new, and page-locked memory.
namespace ssm::cuda {
extern std::atomic<std::size_t> page_locked_allocations;
}
#endif

namespace ssm::laws {

/// How many heap allocations, on any thread, the program has made so far.
inline std::size_t allocation_count() {
#ifdef SSM_TEST_ON_DEVICE
  return allocations.load() + cuda::page_locked_allocations.load();
#else
  return allocations.load();
#endif
}

}  // namespace ssm::laws

#ifdef SSM_TEST_ON_DEVICE

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++ssm::laws::allocations;
  void* pointer = std::malloc(bytes == 0 ? 1 : bytes);
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}
[[gnu::noinline]] void operator delete(void* pointer) noexcept { std::free(pointer); }
[[gnu::noinline]] void operator delete(void* pointer, std::size_t) noexcept { std::free(pointer); }

#else

// The sanitizers bring their own malloc; there, and without glibc, only what goes through operator new is counted.
#if defined(__has_feature)
#define SSM_TEST_HAS_FEATURE(feature) __has_feature(feature)
#else
#define SSM_TEST_HAS_FEATURE(feature) 0
#endif
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !SSM_TEST_HAS_FEATURE(address_sanitizer) && !SSM_TEST_HAS_FEATURE(thread_sanitizer) &&   \
    !SSM_TEST_HAS_FEATURE(memory_sanitizer)

extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* pointer, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);

void* malloc(std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_calloc(count, bytes);
}
void* realloc(void* pointer, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_realloc(pointer, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_memalign(alignment, bytes);
}
void* memalign(std::size_t alignment, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** pointer, std::size_t alignment, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  *pointer = __libc_memalign(alignment, bytes);
  return *pointer == nullptr ? ENOMEM : 0;
}
}

#else

// Not inlined: g++ compares a visible free() with an invisible operator new, and warns.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++ssm::laws::allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment,
                                     const std::nothrow_t&) noexcept {
  ++ssm::laws::allocations;
  const auto unit = static_cast<std::size_t>(alignment);
  return std::aligned_alloc(unit, (bytes / unit + 1) * unit);
}
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* pointer = ::operator new(bytes, std::nothrow);
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  void* pointer = ::operator new(bytes, alignment, std::nothrow);
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}
[[gnu::noinline]] void operator delete(void* pointer) noexcept { std::free(pointer); }
[[gnu::noinline]] void operator delete(void* pointer, std::size_t) noexcept { std::free(pointer); }
[[gnu::noinline]] void operator delete(void* pointer, std::align_val_t) noexcept {
  std::free(pointer);
}
[[gnu::noinline]] void operator delete(void* pointer, std::size_t, std::align_val_t) noexcept {
  std::free(pointer);
}

#endif
#undef SSM_TEST_HAS_FEATURE
#endif  // SSM_TEST_ON_DEVICE
