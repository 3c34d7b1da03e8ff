// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

#include "ssm/core/memory_space.hpp"

namespace ssm {

/// A memory space without memory: a tensor in it has extents and no elements.
struct NoMemory {
  static constexpr bool host_readable = false;

  static constexpr std::string_view name() { return "no memory"; }
  static void* allocate(std::size_t) {
    static char somewhere = 0;  // never read or written; a tensor that is there is not null
    return &somewhere;
  }
  static void deallocate(void*) noexcept {}
  static void copy(void*, const void*, std::size_t) {}
  static void fill_zero(void*, std::size_t) {}
};

/// A backend without memory and without primitives: layers say the names and extents of their
/// tensors and allocate nothing.
///   const auto shapes = layer.zero_parameters<float>(ssm::Context<ssm::ShapesOnly>());
///   ssm::for_each_parameter(
///       [](const ssm::ParameterSpec& spec, const auto& tensor) { … tensor.extents() … }, shapes);
struct ShapesOnly {
  using Space = NoMemory;
  struct Resources {};
};

}  // namespace ssm
