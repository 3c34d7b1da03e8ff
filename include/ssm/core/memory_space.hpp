// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
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

/// Ordinary memory, aligned for every vector unit in use.
struct HostSpace {
  static constexpr bool host_readable = true;
  static constexpr std::size_t alignment = 64;  // bytes: one cache line, one AVX-512 register

  static constexpr std::string_view name() { return "host memory"; }

  /// Throws  OutOfMemory
  static void* allocate(std::size_t bytes) {
    void* pointer = ::operator new (bytes, std::align_val_t{alignment}, std::nothrow);
    if (pointer == nullptr) throw OutOfMemory(bytes, name());
    return pointer;
  }
  /// Zeros, which most systems make when a page is touched first: gradients and moments of a large
  /// model cost no time before they are used. For blocks of at least `least_zeroed` bytes; a
  /// program whose `operator new` gives memory that nothing else can give sets the largest number.
  /// Throws  OutOfMemory
  static inline std::size_t least_zeroed = std::size_t{1} << 22;
  [[gnu::noinline]] static void* allocate_zeroed(std::size_t bytes) {
    constexpr std::size_t more = 2 * alignment;  // for the alignment, and the address to free
    void* whole = nullptr;
    if (bytes <= std::numeric_limits<std::size_t>::max() - more)
      whole = std::calloc(bytes + more, 1);
    if (whole == nullptr) throw OutOfMemory(bytes, name());
    auto* pointer = static_cast<std::byte*>(whole) + more;
    pointer -= reinterpret_cast<std::uintptr_t>(pointer) % alignment;
    std::memcpy(pointer - sizeof(void*), &whole, sizeof(void*));
    return pointer;
  }
  [[gnu::noinline]] static void deallocate_zeroed(void* pointer) noexcept {
    void* whole = nullptr;
    std::memcpy(&whole, static_cast<std::byte*>(pointer) - sizeof(void*), sizeof(void*));
    std::free(whole);
  }
  static void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  static void deallocate(void* pointer) noexcept {
    ::operator delete (pointer, std::align_val_t{alignment});
  }
};

}  // namespace ssm
