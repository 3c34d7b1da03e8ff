// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <span>

#include "ssm/backend/cuda/device.hpp"
#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"

namespace ssm::cuda {

/// The same operands for the compiled functions, which know one space: addresses mean the same to
/// both sides.
template <template <class, class> class Operands, class T, class Space>
auto on_device(const Operands<T, Space>& operands) {
  return std::bit_cast<Operands<T, CudaSpace>>(operands);
}

/// So many tensors are given to one kernel that works on a list of them.
inline constexpr std::size_t tensors_a_kernel = 96;

/// f(on_device of each of them), as a span, `Count` at a time; no memory is allocated.
template <std::size_t Count, template <class, class> class Operands, class T, class Space, class F>
void for_each_on_device(std::span<const Operands<T, Space>> operands, F f) {
  std::array<Operands<T, CudaSpace>, Count> some;
  for (std::size_t begin = 0; begin < operands.size(); begin += Count) {
    const auto chunk = operands.subspan(begin, std::min(Count, operands.size() - begin));
    for (std::size_t i = 0; i < chunk.size(); ++i) some[i] = on_device(chunk[i]);
    f(std::span<const Operands<T, CudaSpace>>(some.data(), chunk.size()));
  }
}

/// Queues work on the context's stream; where the host can read the memory, waits until it is done.
template <class Ctx, class Work>
void queue(Ctx& ctx, Work&& work) {
  work(ctx.resources().stream());
  if constexpr (Ctx::Space::host_readable) ctx.resources().synchronize();
}

/// Offsets of packed sequences where the device can read them; null offsets where sequences are not
/// packed.
struct DeviceSegments {
  const Index* offsets = nullptr;
  Index count = 0;  // sequences
};
template <class Ctx, class Frame>
DeviceSegments segments_on_device(Ctx& ctx, Frame& frame, Segments segments) {
  if (segments.empty()) return {};
  const auto offsets = frame.template tensor<Index>(static_cast<Index>(segments.size()));
  copy(offsets.data(), segments.data(), segments.size_bytes(), ctx.resources().stream());
  return {offsets.data(), static_cast<Index>(segments.size()) - 1};
}

}  // namespace ssm::cuda
