// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/attention.hpp"

namespace ssm::cuda {

/// Whether a tile of queries is small: every sequence has at most 16.
template <class T, class Space>
bool has_few_queries(const ssm::Attention<T, Space>& a) {
  return a.q.extent(1) <= 16;
}
/// The keys of few queries are cut into parts that run side by side.
struct AttentionSplit {
  Index parts = 1;
  Index keys = 0;  // of a part
};
/// Parts of at least 128 keys, as many as run at once.
template <class T, class Space>
AttentionSplit attention_split(const ssm::Attention<T, Space>& a) {
  const Index at_once = a.q.extent(3) <= 64 ? 1280 : 640;
  const Index rows = a.q.extent(0) * a.q.extent(2), keys = a.k.extent(1);
  if (!has_few_queries(a) || rows == 0) return {};
  const Index wanted = std::min(at_once / rows, keys / 128);
  if (wanted <= 1) return {};
  const Index each = ((keys + wanted - 1) / wanted + 63) / 64 * 64;
  return {(keys + each - 1) / each, each};
}
/// Queries of a sequence, on average.
template <class T, class Space>
Index mean_queries(const ssm::Attention<T, Space>& a) {
  return a.segments.size() < 2 ? a.q.extent(1)
                               : a.q.extent(1) / (static_cast<Index>(a.segments.size()) - 1);
}
/// Whether blocks of tiled_attention, where the device is a Hopper, count in the workspace the
/// tiles of queries that they have begun: in long sequences of wide heads, where it pays.
template <class T, class Space>
bool counts_tiles(const ssm::Attention<T, Space>& a) {
  return a.q.extent(3) > 64 && a.q.extent(3) <= 128 && mean_queries(a) >= 1024;
}
/// Floats of workspace of tiled_attention.
template <class T, class Space>
Index tiled_attention_scratch(const ssm::Attention<T, Space>& a) {
  const AttentionSplit split = attention_split(a);
  const Index rows = a.q.extent(0) * a.q.extent(1) * a.q.extent(2);
  if (split.parts > 1) return split.parts * rows * (a.q.extent(3) + 1);
  return counts_tiles(a) ? 1 : 0;
}

/// ssm::Attention of half types on tensor cores; formula and shapes as there. T: BFloat16, Float16;
/// products are of T, scores and sums float, weights rounded to T before they meet the values.
/// A block of threads keeps a tile of queries and walks over the keys that they see, with an online
/// softmax. Heads of 32, 64, 128, 192 and 256 channels fill the tiles; others are padded with
/// zeros. Of more than 32 channels four warps multiply at once where the code is for sm_90a.
/// A NaN or an infinity among a sequence's values may reach earlier queries of the same tile, as
/// weights of 0 meet it.
/// workspace   tiled_attention_scratch(a) floats
/// Source  Dao 2023 (FlashAttention-2) §3; Shah et al. 2024 (FlashAttention-3) §3.2 for scores that
///         are made while the weights before meet their values
template <class T>
SSM_CUDA_API void tiled_attention(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                                  const std::int64_t* cached, float* workspace, Stream stream);

/// Where tiles of keys add to dq in turn: tiles of so many queries, by heads of 64 or 128 channels.
struct AttentionDqTiles {
  static constexpr Index queries = 64;
  static constexpr Index channels(Index width) { return width <= 64 ? 64 : 128; }
};
/// Whether tiled_attention_backward may do so: where the device is a Hopper. Heads of few channels
/// only in long sequences, where it pays.
template <class T, class Space>
bool may_add_to_dq(const ssm::Attention<T, Space>& a) {
  const Index width = a.q.extent(3);
  return width <= 128 && (width > 64 || (width > 32 && mean_queries(a) >= 3072));
}
/// Tiles of queries of all heads, at most.
template <class T, class Space>
Index attention_query_tiles(const ssm::Attention<T, Space>& a) {
  constexpr Index each = AttentionDqTiles::queries;
  const Index length = a.q.extent(1);
  return a.q.extent(2) * (a.segments.empty()
                              ? a.q.extent(0) * ((length + each - 1) / each)
                              : length / each + static_cast<Index>(a.segments.size()) - 1);
}
/// Floats of workspace of tiled_attention_backward for two numbers of each query.
template <class T, class Space>
Index attention_query_scratch(const ssm::Attention<T, Space>& a) {
  return 2 * AttentionDqTiles::queries * attention_query_tiles(a);
}
/// Floats of workspace of tiled_attention_backward.
template <class T, class Space>
Index tiled_attention_backward_scratch(const ssm::Attention<T, Space>& a) {
  const Index numbers = attention_query_scratch(a);
  if (!may_add_to_dq(a)) return numbers;
  const Index floats = AttentionDqTiles::queries * AttentionDqTiles::channels(a.q.extent(3));
  return numbers + attention_query_tiles(a) * (floats + 1);  // and a number of the turn
}
/// The gradient of the same. Weights and gradients of scores are rounded to T before they meet
/// the next operand. Every sum has one order. Scores are computed twice: a block with a tile of
/// queries walks over keys for dq, one with a tile of keys over queries for dk and dv. On Hopper
/// heads of 65 … 128 channels, and of 33 … 64 in long sequences, compute them once: blocks with a
/// tile of keys add to dq, too, in turn. Heads of more than 128 channels compute them once more, dv
/// apart from dk.
/// workspace   tiled_attention_backward_scratch(g.forward) floats, 16-byte aligned
template <class T>
SSM_CUDA_API void tiled_attention_backward(const ssm::AttentionBackward<T, CudaSpace>& g,
                                           DeviceSegments segments, const std::int64_t* cached,
                                           float* workspace, Stream stream);

/// Whether a view's rows of channels can be read 16 bytes at a time.
template <class T, class Space>
bool has_aligned_rows(const View<T, 4, Space>& x) {
  constexpr Index step = 8;
  for (int axis = 0; axis < 3; ++axis)
    if (x.extent(axis) > 1 && x.stride(axis) % step != 0) return false;
  return x.stride(3) == 1 && x.extent(3) % step == 0 &&
         reinterpret_cast<std::uintptr_t>(x.data()) % 16 == 0;
}
/// Whether tiled_attention can: heads of a multiple of 8 channels, at most 256, in aligned rows, a
/// positive scale, and sizes that an int counts.
template <class T, class Space>
bool has_tiles(const ssm::Attention<T, Space>& a) {
  const auto fits = [](const auto& x) {
    return (x.extent(0) + 1) * (x.extent(1) + 1) * x.extent(2) <= std::numeric_limits<int>::max();
  };
  return a.scale > 0 && a.q.extent(3) >= 8 && a.q.extent(3) <= 256 && fits(a.q) && fits(a.k) &&
         static_cast<Index>(a.segments.size()) * a.q.extent(2) <= (Index{1} << 30) &&
         has_aligned_rows(a.q) && has_aligned_rows(a.k) && has_aligned_rows(a.v) &&
         (!a.y || has_aligned_rows(a.y));
}
template <class T, class Space>
bool has_tiles(const ssm::AttentionBackward<T, Space>& g) {
  return has_tiles(g.forward) && has_aligned_rows(g.y) && has_aligned_rows(g.dy) &&
         has_aligned_rows(g.dq) && has_aligned_rows(g.dk) && has_aligned_rows(g.dv);
}

}  // namespace ssm::cuda
