// SPDX-License-Identifier: Apache-2.0
// Counts the heap allocations of every program that includes it: it replaces malloc and operator
// new, weakly, so that any number of sources may include it and a program's own replacements win.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>
#if defined(__clang__) && __has_include(<mm_malloc.h>)
#include <mm_malloc.h>  // declares posix_memalign without noexcept: before our definition alone
#endif

namespace ssm::laws {

inline std::atomic<std::size_t> allocations{0};
/// For what a program allocates in another way: a function that says how often it has.
inline std::size_t (*more_allocations)() = nullptr;

/// How many heap allocations, on any thread, the program has made so far.
inline std::size_t allocation_count() {
  return allocations.load() + (more_allocations != nullptr ? more_allocations() : 0);
}

/// Whether allocations are seen here at all: a program may have its own operator new.
inline bool allocations_are_counted() {
  const std::size_t before = allocation_count();
  void* volatile pointer = ::operator new(1);
  ::operator delete(pointer);
  return allocation_count() > before;
}

}  // namespace ssm::laws

// The sanitizers bring their own malloc; there, and without glibc, only what goes through operator
// new is counted. So it is with SSM_LAWS_COUNT_OPERATOR_NEW, which leaves out aligned memory too:
// where a driver allocates for itself.
#if defined(__has_feature)
#define SSM_LAWS_HAS_FEATURE(feature) __has_feature(feature)
#else
#define SSM_LAWS_HAS_FEATURE(feature) 0
#endif
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !SSM_LAWS_HAS_FEATURE(address_sanitizer) && !SSM_LAWS_HAS_FEATURE(thread_sanitizer) &&   \
    !SSM_LAWS_HAS_FEATURE(memory_sanitizer) && !defined(SSM_LAWS_COUNT_OPERATOR_NEW)

extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* pointer, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);

[[gnu::weak]] void* malloc(std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_malloc(bytes);
}
[[gnu::weak]] void* calloc(std::size_t count, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_calloc(count, bytes);
}
[[gnu::weak]] void* realloc(void* pointer, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_realloc(pointer, bytes);
}
[[gnu::weak]] void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_memalign(alignment, bytes);
}
[[gnu::weak]] void* memalign(std::size_t alignment, std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  return __libc_memalign(alignment, bytes);
}
[[gnu::weak]] int posix_memalign(void** pointer, std::size_t alignment,
                                 std::size_t bytes) noexcept {
  ++ssm::laws::allocations;
  *pointer = __libc_memalign(alignment, bytes);
  return *pointer == nullptr ? ENOMEM : 0;
}
}

#else

// Not inlined: g++ compares a visible free() with an invisible operator new, and warns.
[[gnu::weak, gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++ssm::laws::allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::weak, gnu::noinline]] void* operator new(std::size_t bytes) {
  void* pointer = ::operator new(bytes, std::nothrow);
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}
[[gnu::weak, gnu::noinline]] void operator delete(void* pointer) noexcept { std::free(pointer); }
[[gnu::weak, gnu::noinline]] void operator delete(void* pointer, std::size_t) noexcept {
  std::free(pointer);
}
#ifndef SSM_LAWS_COUNT_OPERATOR_NEW
[[gnu::weak, gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment,
                                                const std::nothrow_t&) noexcept {
  ++ssm::laws::allocations;
  const auto unit = static_cast<std::size_t>(alignment);
  return std::aligned_alloc(unit, (bytes / unit + 1) * unit);
}
[[gnu::weak, gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  void* pointer = ::operator new(bytes, alignment, std::nothrow);
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}
[[gnu::weak, gnu::noinline]] void operator delete(void* pointer, std::align_val_t) noexcept {
  std::free(pointer);
}
[[gnu::weak, gnu::noinline]] void operator delete(void* pointer, std::size_t,
                                                  std::align_val_t) noexcept {
  std::free(pointer);
}
#endif

#endif
#undef SSM_LAWS_HAS_FEATURE
