// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "ssm/backend/cuda/transpose.hpp"

namespace ssm::cuda {

/// Sequences as the tensor-core kernels take them, positions contiguous: in place where they lie
/// so, else transposed through workspace.
///   ChannelMajor<Ctx, T> sequences(ctx, stream);
///   call.x = sequences.input(a.x);
///   call.y = sequences.output(a.y);
///   …
///   sequences.finish();
template <class Ctx, class T>
class ChannelMajor {
 public:
  using Space = typename Ctx::Space;

  ChannelMajor(Ctx& ctx, Stream stream) : frame_(ctx.workspace().frame()), stream_(stream) {}

  /// Null stays null.
  Sequences<const T> input(const View<const T, 3, Space>& x) {
    if (!x) return {};
    if (is_channel_major(x)) return {x.data(), x.stride(0), x.stride(2)};
    const auto copy = scratch(x.extents());
    cuda::transpose(on_device(ssm::Rearrange<T, Space>{.x = x, .y = copy}), stream_);
    return {copy.data(), copy.stride(0), copy.stride(2)};
  }
  Sequences<T> output(const View<T, 3, Space>& y) {
    if (!y) return {};
    if (is_channel_major(y)) return {y.data(), y.stride(0), y.stride(2)};
    const auto copy = scratch(y.extents());
    copies_[count_++] = {.x = copy, .y = y};
    return {copy.data(), copy.stride(0), copy.stride(2)};
  }
  /// The gradient of an operand, which the kernels write where the operand was given, wanted or
  /// not.
  Sequences<T> gradient(const View<T, 3, Space>& wanted, const View<const T, 3, Space>& of) {
    if (!of) return {};
    if (wanted) return output(wanted);
    const auto unused = scratch(of.extents());
    return {unused.data(), unused.stride(0), unused.stride(2)};
  }
  /// Copies outputs to where they belong.
  void finish() {
    for (std::size_t i = 0; i < count_; ++i) cuda::transpose(on_device(copies_[i]), stream_);
  }

  /// Bytes for a kernel, aligned as it wants them.
  void* bytes(std::size_t count) {
    constexpr std::size_t alignment = 256;
    const auto memory = frame_.template tensor<char>(static_cast<Index>(count + alignment));
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (alignment - address % alignment) % alignment;
  }
  auto& frame() { return frame_; }

 private:
  template <class E>
  static bool is_channel_major(const View<E, 3, Space>& x) {
    return x.stride(1) == 1;
  }
  View<T, 3, Space> scratch(const DynamicExtents<3>& shape) {
    return frame_.template tensor<T>(shape[0], shape[2], shape[1]).transpose(1, 2);
  }

  typename Workspace<Space>::Frame frame_;
  Stream stream_;
  std::array<ssm::Rearrange<T, Space>, 4> copies_{};
  std::size_t count_ = 0;
};

}  // namespace ssm::cuda
