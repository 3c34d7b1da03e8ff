// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>

namespace ssm {

/// Asks the system for pages of 2 MiB under a block of fresh memory, where it gives them to those
/// who ask: reading gigabytes of weights then takes fewer look-ups of addresses. What the system
/// refuses stays as it is.
inline void ask_for_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t page = std::size_t{1} << 21;
  const std::size_t before = (page - reinterpret_cast<std::uintptr_t>(memory) % page) % page;
  if (bytes < before + page) return;  // none lies whole in the block
  ::madvise(static_cast<std::byte*>(memory) + before, (bytes - before) / page * page,
            MADV_HUGEPAGE);
#endif
}

}  // namespace ssm
