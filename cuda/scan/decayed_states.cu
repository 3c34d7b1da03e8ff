// SPDX-License-Identifier: Apache-2.0
#include "scan/decayed_products.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda::device {
namespace {

template <int Columns>
struct WalkShared {
  static constexpr int stages = kTile / kStageDepth;  // a chunk
  static constexpr int left = kStageDepth * (kTile + 8);
  static constexpr int right = kStageDepth * (Columns + 8);
  static constexpr int stage = left + right;
  static constexpr int factors = kTile + 4;  // floats: weights of a chunk, and its fade
  static constexpr std::size_t bytes = stages * stage * 2 + 2 * factors * sizeof(float);
};

/// A block walks with 128 × Columns of a head's state along a sequence.
template <class T, int Columns>
__global__ void __launch_bounds__(kTileThreads, Columns > kTile ? 1 : 2)
    walk_states_kernel(const __grid_constant__ TiledMemory<T> a,
                       const __grid_constant__ StateWalk<T> walk) {
  using Shared = WalkShared<Columns>;
  T* const memory = shared_numbers<T>();
  float* const factors = reinterpret_cast<float*>(memory + Shared::stages * Shared::stage);
  const int thread = static_cast<int>(threadIdx.x);
  const int across = tiles_of(a.values, Columns);
  const int down = tiles_of(a.keys, kTile);
  int i = static_cast<int>(blockIdx.x);
  const int first_value = i % across * Columns;
  i /= across;
  const int first_key = i % down * kTile;
  i /= down;
  const int h = i % a.heads;
  const Sequence s = a.chunking.packing.sequence(i / a.heads);
  const int g = h / (a.heads / a.groups);
  const Index first = a.chunking.first(s);
  const int count = static_cast<int>(a.chunking.count(s));
  const int length = static_cast<int>(a.chunking.length);
  const T* const left_rows = walk.left.at(s.batch, s.begin, g) + first_key;
  const T* const right_rows = walk.right.at(s.batch, s.begin, h) + first_value;
  const int positions = static_cast<int>(s.end - s.begin);
  const auto begin_of = [&](int n) { return (walk.backwards ? count - 1 - n : n) * length; };
  /// Terms at … at + 31 of the n-th chunk.
  const auto issue = [&](int n, int at) {
    if (n < count) {
      const int begin = begin_of(n);
      const int rows = min(positions - begin, length) - at;
      T* const left = memory + at / kStageDepth * Shared::stage;
      copy_tile<kStageDepth, kTile>(left, kTile + 8,
                                    left_rows + static_cast<Index>(begin + at) * walk.left.position,
                                    walk.left.position, rows, a.keys - first_key);
      copy_tile<kStageDepth, Columns>(
          left + Shared::left, Columns + 8,
          right_rows + static_cast<Index>(begin + at) * walk.right.position, walk.right.position,
          rows, a.values - first_value);
      if (at == 0 && thread <= kTile) {
        const bool exists = thread < kTile ? thread < rows : rows > 0;
        const Index t = s.begin + begin + (thread < kTile ? thread : rows - 1);
        const float* const from = thread < kTile ? walk.weight : a.from_begin;
        copy_or_zero(factors + n % 2 * Shared::factors + thread,
                     exists ? from + a.row(s.batch, t, h) : from, exists);
      }
    }
    end_group();
  };
#pragma unroll
  for (int at = 0; at < kTile - kStageDepth; at += kStageDepth) issue(0, at);
  const WarpTile<Columns> tile;
  Sums<Columns> sums;
  set_zero(sums);
  if (walk.start)
    tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
      if (first_key + r >= a.keys || first_value + c >= a.values) return;
      low = walk.start(s.row, h, first_key + r, first_value + c);
      high = walk.start(s.row, h, first_key + r, first_value + c + 1);
    });
  for (int n = 0; n < count; ++n) {
    const int begin = begin_of(n);
    const int rows = min(positions - begin, length);
    const bool adds = n < count - 1 || walk.end;
    const float* const factor = factors + n % 2 * Shared::factors;
#pragma unroll
    for (int at = 0; at < kTile; at += kStageDepth) {
      wait_for_older_groups<Shared::stages - 2>();
      __syncthreads();
      issue(at == 0 ? n : n + 1, (at + kTile - kStageDepth) % kTile);
      if (at == 0) {
        const Index place = first + (walk.backwards ? count - 1 - n : n);
        T* const to = walk.states + a.state(place, h) + first_value;
        put_rounded<T, Columns>(sums, tile, [&](int r, int c, uint4 words) {
          if (first_key + r < a.keys && first_value + c < a.values)
            *reinterpret_cast<uint4*>(to + static_cast<Index>(first_key + r) * a.values + c) =
                words;
        });
        const float fade = rows > 0 ? factor[kTile] : 1.0f;
        tile.each_pair(sums, [&](int, int, float& low, float& high) { low *= fade, high *= fade; });
      }
      if (at >= rows || !adds) continue;
      const T* const left = memory + at / kStageDepth * Shared::stage;
      const T* const right = left + Shared::left;
#pragma unroll
      for (int k = 0; k < kStageDepth; k += 16) {
        unsigned r[WarpTile<Columns>::eights][2];
        load_right<true>(r, right + k * (Columns + 8) + tile.column, Columns + 8);
        scale_right<T>(r, factor + at + k);
        add_products<true>(sums, left + k * (kTile + 8) + tile.row, kTile + 8, r);
      }
    }
  }
  if (walk.end)
    tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
      if (first_key + r >= a.keys || first_value + c >= a.values) return;
      walk.end(s.row, h, first_key + r, first_value + c) = low;
      walk.end(s.row, h, first_key + r, first_value + c + 1) = high;
    });
}

}  // namespace

template <class T>
void walk_states(const TiledMemory<T>& a, const StateWalk<T>& walk, Stream stream,
                 const char* operation) {
  const auto blocks_of = [&](int columns) {
    return a.chunking.packing.sequences * a.heads * tiles_of(a.keys, kTile) *
           tiles_of(a.values, columns);
  };
  const auto walk_by = [&]<int Columns>(std::integral_constant<int, Columns>) {
    launch_blocks(walk_states_kernel<T, Columns>, blocks_of(Columns), WalkShared<Columns>::bytes,
                  stream, operation, a, walk);
  };
  // Wide tiles read keys less often, narrow ones are more.
  if (a.values <= kTile / 2 || blocks_of(kTile) < hopper_multiprocessors)
    walk_by(std::integral_constant<int, kTile / 2>());
  else if (a.values % (2 * kTile) == 0 && 3 * blocks_of(2 * kTile) >= 2 * hopper_multiprocessors)
    walk_by(std::integral_constant<int, 2 * kTile>());
  else
    walk_by(std::integral_constant<int, kTile>());
}

#define SSM_INSTANTIATE(T) \
  template void walk_states<T>(const TiledMemory<T>&, const StateWalk<T>&, Stream, const char*);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda::device
