// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>

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
