// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>

#include "ssm/core/error.hpp"  // OutOfMemory

namespace ssm {

/// Where the elements of a tensor live. A backend brings its own space by writing such a struct.
template <class S>
concept MemorySpace = requires(std::size_t bytes, void* pointer, const void* source) {
  { S::host_readable } -> std::convertible_to<bool>;
  { S::name() } -> std::convertible_to<std::string_view>;
  { S::allocate(bytes) } -> std::same_as<void*>;
  { S::deallocate(pointer) }
  noexcept;
  S::copy(pointer, source, bytes);
};

/// Ordinary memory, aligned for every vector unit in use. Large blocks ask for large pages, where
/// the system gives them to those who ask: reading weights then takes fewer look-ups of addresses.
struct HostSpace {
  static constexpr bool host_readable = true;
  static constexpr std::size_t alignment = 64;  // bytes: one cache line, one AVX-512 register

  static constexpr std::string_view name() { return "host memory"; }

  /// Throws  OutOfMemory
  static void* allocate(std::size_t bytes) {
    void* pointer = ::operator new (bytes, std::align_val_t{alignment}, std::nothrow);
    if (pointer == nullptr) throw OutOfMemory(bytes, name());
    if (bytes >= 2 * large_page) ask_for_large_pages(pointer, bytes);
    return pointer;
  }
  static void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  static void deallocate(void* pointer) noexcept {
    ::operator delete (pointer, std::align_val_t{alignment});
  }

 private:
  static constexpr std::size_t large_page = std::size_t{1} << 21;  // bytes

  static void ask_for_large_pages([[maybe_unused]] void* pointer,
                                  [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // The pages that lie whole in the block; a system that has none refuses, and nothing is lost.
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    const std::size_t before = (large_page - address % large_page) % large_page;
    ::madvise(static_cast<std::byte*>(pointer) + before, (bytes - before) / large_page * large_page,
              MADV_HUGEPAGE);
#endif
  }
};

}  // namespace ssm
