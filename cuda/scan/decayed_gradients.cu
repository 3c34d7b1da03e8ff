// SPDX-License-Identifier: Apache-2.0
#include "scan/decayed_products.cuh"

namespace ssm::cuda::device {
namespace {

/// Of four numbers, each summed over four neighboring lanes, that of number lane % 4.
__device__ float sum_of_rows(const float (&v)[4]) {
  const bool odd = (threadIdx.x & 1) != 0;
  const bool upper = (threadIdx.x & 2) != 0;
  const float low = (odd ? v[1] : v[0]) + __shfl_xor_sync(0xffffffffu, odd ? v[0] : v[1], 1);
  const float high = (odd ? v[3] : v[2]) + __shfl_xor_sync(0xffffffffu, odd ? v[2] : v[3], 1);
  return (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, 2);
}
/// Of eight numbers, each summed over the lanes that are equal modulo 4, that of number lane / 4.
__device__ float sum_of_columns(const float (&v)[8]) {
  float rest[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) rest[i] = v[i];
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    const bool upper = (threadIdx.x & (4 * half)) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? rest[i] : rest[i + half];
      const float kept = upper ? rest[i + half] : rest[i];
      rest[i] = kept + __shfl_xor_sync(0xffffffffu, given, 4 * half);
    }
  }
  return rest[0];
}
/// Where this thread's sum_of_rows and sum_of_columns belong, in tiles 32 wide and 32 high.
__device__ int row_of_sum() {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return lane % 4 * 8 + lane / 4;
}
__device__ int column_of_sum() {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return lane / 8 * 8 + lane % 4 * 2 + lane / 4 % 2;
}

/// A block: `Columns` columns of the pairs of a chunk of a group. Several: of heads in a group.
/// HasSums: of these also the sums of pairs.
template <class T, int Columns, bool Several, bool HasSums>
__global__ void __launch_bounds__(kTileThreads, 2)
    multiply_pairs_kernel(const __grid_constant__ TiledMemory<T> a,
                          const __grid_constant__ HeadRows<const T> dy,
                          const __grid_constant__ PositionSums to_sums) {
  using Tile = WarpTile<Columns>;
  static_assert(!HasSums || (Tile::width == 32 && 16 * Tile::blocks == 32));
  constexpr int across = kTile / Columns;
  const int first = static_cast<int>(blockIdx.x) % across * Columns;
  const int g = static_cast<int>(blockIdx.x) / across % a.groups;
  const Chunk chunk = a.chunk(static_cast<int>(blockIdx.x) / across / a.groups);
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  if (rows <= 0) return;
  const ProductStages<T, Columns> stages;
  float* const factors = stages.factors(false);  // [3, 2, 128]: log sums, and scales
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const Index b = chunk.s.batch;
  const int shared = Several ? a.heads / a.groups : 1;
  const int head_steps = steps_of(a.values);
  const Tile tile;
  const bool is_zero = first + tile.column > tile.row + 16 * tile.blocks - 1;
  Sums<Columns> total;
  Sums<Columns> sums;
  set_zero(total);
  set_zero(sums);
  unsigned products[Tile::blocks][2][Tile::eights];  // where m < t
  if constexpr (HasSums) {
    const T* const from = a.products + a.pair(chunk.place, g);
#pragma unroll
    for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < Tile::eights; ++j) {
          const int t = tile.row + block * 16 + half * 8 + lane / 4;
          const int m = first + tile.column + j * 8 + lane % 4 * 2;
          const unsigned pair =
              m < t ? *reinterpret_cast<const unsigned*>(from + t * kTile + m) : 0u;
          products[block][half][j] = m + 1 < t ? pair : pair & 0xffffu;
        }
  }
  for_each_step<kStages>(
      shared * head_steps,
      [&](int step, int stage) {
        const int n = Several ? step / head_steps : 0;
        const int h = g * shared + n;
        const int j = (step - n * head_steps) * kStageDepth;
        copy_tile<kTile, kStageDepth>(stages.left(stage), kStagePitch, dy.at(b, chunk.begin, h) + j,
                                      dy.position, rows, a.values - j);
        copy_tile<Columns, kStageDepth>(stages.right(stage), kStagePitch,
                                        a.v.at(b, chunk.begin + first, h) + j, a.v.position,
                                        rows - first, a.values - j);
        if (j == 0)
          copy_factors(factors + n % kStages * 2 * kTile + thread / kTile * kTile,
                       thread < kTile ? a.log_sums : a.scale, a, chunk, h, thread % kTile);
      },
      [&](int step, int stage) {
        if (is_zero) return;
        add_row_products<T, Columns>(sums, tile, stages.left(stage), stages.right(stage));
        const int n = Several ? step / head_steps : 0;
        if (step != (n + 1) * head_steps - 1) return;
        const float* const logs = factors + n % kStages * 2 * kTile;
        const float* const scales = logs + kTile;
        const Index at = a.position_sum(chunk.place, g * shared + n);
        if constexpr (HasSums) {
          // Of neighboring lanes, one has the diagonal.
          if (first + tile.column == tile.row && lane / 8 == lane % 4) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float(&own)[4] = sums[i / 2][i];
              to_sums.diagonal[at + tile.row + i * 8 + lane / 4] =
                  lane / 4 % 2 == 0 ? own[i % 2 * 2] : own[i % 2 * 2 + 1];
            }
          }
        }
        float row_sums[2 * Tile::blocks];
        float column_sums[2 * Tile::eights];
#pragma unroll
        for (int i = 0; i < 2 * Tile::blocks; ++i) row_sums[i] = 0;
#pragma unroll
        for (int i = 0; i < 2 * Tile::eights; ++i) column_sums[i] = 0;
#pragma unroll
        for (int j = 0; j < Tile::eights; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int m = first + tile.column + j * 8 + lane % 4 * 2 + e;
            const float log = logs[m];
            const float scale = scales[m];
#pragma unroll
            for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                const int t = tile.row + block * 16 + half * 8 + lane / 4;
                float& sum = sums[block][j][2 * half + e];
                const float faded = m <= t && t < rows ? __expf(logs[t] - log) * sum : 0.0f;
                if constexpr (HasSums) {
                  const float2 pair = wide_pair<T>(products[block][half][j]);
                  const float weighted = faded * (e == 0 ? pair.x : pair.y);
                  column_sums[2 * j + e] += weighted;
                  row_sums[2 * block + half] += scale * weighted;
                }
                if constexpr (Several) {
                  total[block][j][2 * half + e] += scale * faded;
                  sum = 0;
                } else {
                  sum = scale * faded;
                }
              }
          }
        if constexpr (HasSums) {
          to_sums
              .rows[(first + tile.column) / 32 * a.position_sums() + at + tile.row + row_of_sum()] =
              sum_of_rows(row_sums);
          to_sums.columns[tile.row / 32 * a.position_sums() + at + first + tile.column +
                          column_of_sum()] = sum_of_columns(column_sums);
        }
      });
  T* const to = a.pairs + a.pair(chunk.place, g) + first;
  if (!is_zero)
    put_rounded<T, Columns>(Several ? total : sums, tile, [&](int r, int c, uint4 words) {
      *reinterpret_cast<uint4*>(to + r * kTile + c) = words;
    });
}

/// A block: `Columns` gradients of the keys, or queries, of a chunk of a group. Several: of heads
/// in a group. HasSums: of these also the sums of states.
template <class T, int Columns, bool Several, bool HasSums>
__global__ void __launch_bounds__(kTileThreads, Columns > kTile ? 1 : 2)
    multiply_keys_kernel(const __grid_constant__ TiledMemory<T> a,
                         const __grid_constant__ KeyProduct<T> p) {
  using Tile = WarpTile<Columns>;
  static_assert(!HasSums || (Tile::width == 32 && 16 * Tile::blocks == 32));
  const int across = tiles_of(a.keys, Columns);
  const int first = static_cast<int>(blockIdx.x) % across * Columns;
  const int g = static_cast<int>(blockIdx.x) / across % a.groups;
  const Chunk chunk = a.chunk(static_cast<int>(blockIdx.x) / across / a.groups);
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  if (rows <= 0) return;
  const ProductStages<T, Columns> stages;
  float* const factors = stages.factors(true);  // [3, 128]
  const int thread = static_cast<int>(threadIdx.x);
  const Index b = chunk.s.batch;
  const int shared = Several ? a.heads / a.groups : 1;
  const int head_steps = steps_of(a.values);
  const int state_steps = p.has_state ? shared * head_steps : 0;
  const T* const x = p.x.at(b, chunk.begin, g) + first;
  const int pair_steps = p.y ? steps_of(rows) : 0;
  if (p.y)
    copy_tile<kTile, kTile>(stages.square(), kTile + 8, a.pairs + a.pair(chunk.place, g), kTile,
                            kTile, kTile);
  const Tile tile;
  const int lane = thread % 32;
  unsigned partner[Tile::blocks][2][Tile::eights];
  if constexpr (HasSums) {
    const T* const from = p.partner.at(b, chunk.begin, g);
#pragma unroll
    for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < Tile::eights; ++j) {
          const int r = tile.row + block * 16 + half * 8 + lane / 4;
          const int c = first + tile.column + j * 8 + lane % 4 * 2;
          partner[block][half][j] = r < rows && c < a.keys
                                        ? *reinterpret_cast<const unsigned*>(
                                              from + static_cast<Index>(r) * p.partner.position + c)
                                        : 0u;
        }
  }
  Sums<Columns> total;
  Sums<Columns> sums;
  set_zero(total);
  set_zero(sums);
  for_each_step<kStages>(
      state_steps + pair_steps,
      [&](int step, int stage) {
        if (step < state_steps) {
          const int n = Several ? step / head_steps : 0;
          const int h = g * shared + n;
          const int j = (step - n * head_steps) * kStageDepth;
          copy_tile<kTile, kStageDepth>(stages.left(stage), kStagePitch,
                                        p.z.at(b, chunk.begin, h) + j, p.z.position, rows,
                                        a.values - j);
          copy_tile<Columns, kStageDepth>(
              stages.right(stage), kStagePitch,
              p.states + a.state(chunk.place, h) + static_cast<Index>(first) * a.values + j,
              a.values, a.keys - first, a.values - j);
          if (j == 0 && thread < kTile)
            copy_factors(factors + n % kStages * kTile, p.factor, a, chunk, h, thread);
        } else {
          const int t = (step - state_steps) * kStageDepth;
          copy_tile<kStageDepth, Columns>(stages.right(stage), Columns + 8,
                                          x + static_cast<Index>(t) * p.x.position, p.x.position,
                                          rows - t, a.keys - first);
        }
      },
      [&](int step, int stage) {
        if (step >= state_steps)
          return add_square_products<T, Columns>(Several ? total : sums, tile, stages.square(),
                                                 p.turned, (step - state_steps) * kStageDepth,
                                                 stages.right(stage), nullptr);
        add_row_products<T, Columns>(sums, tile, stages.left(stage), stages.right(stage));
        const int n = Several ? step / head_steps : 0;
        if (step != (n + 1) * head_steps - 1) return;
        const float* const factor = factors + n % kStages * kTile;
        if constexpr (HasSums) {
          float row_sums[2 * Tile::blocks];
#pragma unroll
          for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              float& sum = row_sums[2 * block + half];
              sum = 0;
#pragma unroll
              for (int j = 0; j < Tile::eights; ++j) {
                const float2 pair = wide_pair<T>(partner[block][half][j]);
                sum += pair.x * sums[block][j][2 * half];
                sum += pair.y * sums[block][j][2 * half + 1];
              }
            }
          const float sum = sum_of_rows(row_sums);
          if (first + tile.column < a.keys)
            p.sums[(first + tile.column) / 32 * a.position_sums() +
                   a.position_sum(chunk.place, g * shared + n) + tile.row + row_of_sum()] = sum;
        }
#pragma unroll
        for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
          for (int j = 0; j < Tile::eights; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float faded =
                  factor[tile.row + block * 16 + e / 2 * 8 + lane / 4] * sums[block][j][e];
              if constexpr (Several) {
                total[block][j][e] += faded;
                sums[block][j][e] = 0;
              } else {
                sums[block][j][e] = faded;
              }
            }
      });
  if (!p.y) return;
  T* const to = p.y.at(b, chunk.begin, g) + first;
  put_rounded<T, Columns>(Several ? total : sums, tile, [&](int r, int c, uint4 words) {
    if (r < rows && first + c < a.keys)
      *reinterpret_cast<uint4*>(to + static_cast<Index>(r) * p.y.position + c) = words;
  });
}

}  // namespace

template <class T>
void multiply_pairs(const TiledMemory<T>& a, const HeadRows<const T>& dy, const PositionSums& sums,
                    Stream stream, const char* operation) {
  const Index groups = a.chunking.places * a.groups;
  const auto multiply_by = [&](auto kernel, int columns, std::size_t shared) {
    launch_blocks(kernel, groups * tiles_of(kTile, columns), shared, stream, operation, a, dy,
                  sums);
  };
  constexpr std::size_t half = ProductShared<kTile / 2>::bytes(false);
  if (sums)
    multiply_by(multiply_pairs_kernel<T, kTile / 2, true, true>, kTile / 2, half);
  else if (a.heads > a.groups)
    multiply_by(multiply_pairs_kernel<T, kTile / 2, true, false>, kTile / 2, half);
  else
    multiply_by(multiply_pairs_kernel<T, kTile, false, false>, kTile,
                ProductShared<kTile>::bytes(false));
}

template <class T>
void multiply_keys(const TiledMemory<T>& a, const KeyProduct<T>& product, Stream stream,
                   const char* operation) {
  const Index groups = a.chunking.places * a.groups;
  const auto multiply_by = [&](auto kernel, int columns, std::size_t shared) {
    launch_blocks(kernel, groups * tiles_of(a.keys, columns), shared, stream, operation, a,
                  product);
  };
  constexpr std::size_t half = ProductShared<kTile / 2>::bytes(true);
  if (product.sums != nullptr)
    multiply_by(multiply_keys_kernel<T, kTile / 2, true, true>, kTile / 2, half);
  else if (a.heads > a.groups)
    multiply_by(multiply_keys_kernel<T, kTile / 2, true, false>, kTile / 2, half);
  else
    multiply_by(multiply_keys_kernel<T, kTile, false, false>, kTile,
                ProductShared<kTile>::bytes(true));
}

#define SSM_INSTANTIATE(T)                                                         \
  template void multiply_pairs<T>(const TiledMemory<T>&, const HeadRows<const T>&, \
                                  const PositionSums&, Stream, const char*);       \
  template void multiply_keys<T>(const TiledMemory<T>&, const KeyProduct<T>&, Stream, const char*);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda::device
