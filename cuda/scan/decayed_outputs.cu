// SPDX-License-Identifier: Apache-2.0
#include "scan/decayed_products.cuh"

namespace ssm::cuda::device {
namespace {

/// A block: the products of a chunk of a group, and the weights of kHeadsAtOnce of its heads.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    multiply_weights_kernel(const __grid_constant__ TiledMemory<T> a) {
  const int shared = a.heads / a.groups;
  const int parts = a.weights == nullptr ? 1 : tiles_of(shared, kHeadsAtOnce);
  const int part = static_cast<int>(blockIdx.x) % parts;
  const int g = static_cast<int>(blockIdx.x) / parts % a.groups;
  const Chunk chunk = a.chunk(static_cast<int>(blockIdx.x) / parts / a.groups);
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  if (rows <= 0) return;
  const int first_head = g * shared + part * kHeadsAtOnce;
  const int heads = a.weights == nullptr ? 0 : min(kHeadsAtOnce, shared - part * kHeadsAtOnce);
  const ProductStages<T, kTile> stages;
  float* const logs = stages.factors(false);
  const int thread = static_cast<int>(threadIdx.x);
  for (int n = thread / kTile; n < heads; n += kTileThreads / kTile)
    copy_factors(logs + n * kTile, a.log_sums, a, chunk, first_head + n, thread % kTile);
  const T* const q = a.q.at(chunk.s.batch, chunk.begin, g);
  const T* const k = a.k.at(chunk.s.batch, chunk.begin, g);
  const WarpTile<kTile> tile;
  const bool is_zero = tile.column > tile.row + 16 * tile.blocks - 1;  // nobody reads those
  Sums<kTile> sums;
  set_zero(sums);
  for_each_step<kStages>(
      steps_of(a.keys),
      [&](int step, int stage) {
        const int c = step * kStageDepth;
        copy_tile<kTile, kStageDepth>(stages.left(stage), kStagePitch, q + c, a.q.position, rows,
                                      a.keys - c);
        copy_tile<kTile, kStageDepth>(stages.right(stage), kStagePitch, k + c, a.k.position, rows,
                                      a.keys - c);
      },
      [&](int, int stage) {
        if (!is_zero)
          add_row_products<T, kTile>(sums, tile, stages.left(stage), stages.right(stage));
      });
  if (is_zero) return;
  const int lane = thread % 32;
  /// value(t, column of this thread, product) where m ≤ t, and zeros.
  const auto put_lower = [&](T* to, auto value) {
    Sums<kTile> lower;
#pragma unroll
    for (int block = 0; block < tile.blocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = tile.row + block * 16 + half * 8 + lane / 4;
        const int last = t < rows ? t - tile.column - lane % 4 * 2 : -1;
#pragma unroll
        for (int j = 0; j < tile.eights; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            lower[block][j][2 * half + e] =
                j * 8 + e <= last ? value(t, 2 * j + e, sums[block][j][2 * half + e]) : 0.0f;
      }
    put_rounded<T, kTile>(lower, tile, [&](int r, int c, uint4 words) {
      *reinterpret_cast<uint4*>(to + r * kTile + c) = words;
    });
  };
  if (a.products != nullptr && part == 0)
    put_lower(a.products + a.pair(chunk.place, g), [](int, int, float product) { return product; });
  for (int n = 0; n < heads; ++n) {
    const float* const log = logs + n * kTile;
    float column_logs[2 * WarpTile<kTile>::eights];
#pragma unroll
    for (int j = 0; j < tile.eights; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        column_logs[2 * j + e] = log[tile.column + j * 8 + lane % 4 * 2 + e];
    put_lower(a.weights + a.weight(chunk.place, first_head + n),
              [&](int t, int column, float product) {
                return __expf(log[t] - column_logs[column]) * product;
              });
  }
}

/// square(t, m) = e^{log_t − log_m}·square(t, m) where m ≤ t < rows; it is 0 elsewhere. By eight
/// numbers of a row, of a pair of rows as many as of every other.
template <class T>
__device__ void fade_square(T* square, const float* logs, int rows) {
  constexpr int eights = kTile / 8 + 1;  // of rows r and kTile − 1 − r
  for (int i = static_cast<int>(threadIdx.x); i < kTile / 2 * eights; i += kTileThreads) {
    const int pair = i / eights, of_first = pair / 8 + 1, n = i % eights;
    const int t = n < of_first ? pair : kTile - 1 - pair;
    const int first = (n < of_first ? n : n - of_first) * 8;
    if (t >= rows) continue;
    uint4* const at = reinterpret_cast<uint4*>(square + t * (kTile + 8) + first);
    const uint4 old = *at;
    unsigned words[4] = {old.x, old.y, old.z, old.w};
    float own[8];
    *reinterpret_cast<float4*>(own) = *reinterpret_cast<const float4*>(logs + first);
    *reinterpret_cast<float4*>(own + 4) = *reinterpret_cast<const float4*>(logs + first + 4);
    const float log = logs[t];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 both = wide_pair<T>(words[k]);
      const auto faded = [&](int m, float product) {
        return first + m <= t ? __expf(log - own[m]) * product : 0.0f;
      };
      words[k] = pack_pair<T>(faded(2 * k, both.x), faded(2 * k + 1, both.y));
    }
    *at = uint4{words[0], words[1], words[2], words[3]};
  }
}

/// A block: `Columns` values of the positions of a chunk of a head.
template <class T, int Columns>
__global__ void __launch_bounds__(kTileThreads, Columns > kTile ? 1 : 2)
    multiply_values_kernel(const __grid_constant__ TiledMemory<T> a,
                           const __grid_constant__ ValueProduct<T> p) {
  const int across = tiles_of(a.values, Columns);
  const int first = static_cast<int>(blockIdx.x) % across * Columns;
  const int h = static_cast<int>(blockIdx.x) / across % a.heads;
  const Chunk chunk = a.chunk(static_cast<int>(blockIdx.x) / across / a.heads);
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  if (rows <= 0) return;
  const ProductStages<T, Columns> stages;
  const int thread = static_cast<int>(threadIdx.x);
  const Index b = chunk.s.batch;
  const int g = h / (a.heads / a.groups);
  const int state_steps = p.has_state ? steps_of(a.keys) : 0;
  const T* const x = p.x.at(b, chunk.begin, g);
  const T* const z = p.z.at(b, chunk.begin, h) + first;
  const T* const state = p.states + a.state(chunk.place, h) + first;
  T* const weights = stages.square();
  float* const factor = stages.factors(true);
  float* const scales = p.scale != nullptr ? factor + kTile : nullptr;
  const bool fades = a.weights == nullptr;
  float* const logs = factor + 2 * kTile;
  copy_tile<kTile, kTile>(
      weights, kTile + 8,
      fades ? a.products + a.pair(chunk.place, g) : a.weights + a.weight(chunk.place, h), kTile,
      kTile, kTile);
  if (thread < kTile) {
    copy_factors(factor, p.factor, a, chunk, h, thread);
    if (fades) copy_factors(logs, a.log_sums, a, chunk, h, thread);
  } else if (scales != nullptr) {
    copy_factors(scales, p.scale, a, chunk, h, thread - kTile);
  }
  const WarpTile<Columns> tile;
  Sums<Columns> sums;
  set_zero(sums);
  for_each_step<kStages>(
      state_steps + steps_of(rows),
      [&](int step, int stage) {
        if (step < state_steps) {
          const int c = step * kStageDepth;
          copy_tile<kTile, kStageDepth>(stages.left(stage), kStagePitch, x + c, p.x.position, rows,
                                        a.keys - c);
          copy_tile<kStageDepth, Columns>(stages.right(stage), Columns + 8,
                                          state + static_cast<Index>(c) * a.values, a.values,
                                          a.keys - c, a.values - first);
        } else {
          const int t = (step - state_steps) * kStageDepth;
          copy_tile<kStageDepth, Columns>(stages.right(stage), Columns + 8,
                                          z + static_cast<Index>(t) * p.z.position, p.z.position,
                                          rows - t, a.values - first);
        }
      },
      [&](int step, int stage) {
        if (step == 0 && fades) {
          fade_square(weights, logs, rows);
          if (state_steps == 0) __syncthreads();
        }
        if (step >= state_steps)
          return add_square_products<T, Columns>(sums, tile, weights, p.turned,
                                                 (step - state_steps) * kStageDepth,
                                                 stages.right(stage), scales);
#pragma unroll
        for (int k = 0; k < kStageDepth; k += 16) {
          unsigned r[WarpTile<Columns>::eights][2];
          load_right<true>(r, stages.right(stage) + k * (Columns + 8) + tile.column, Columns + 8);
          add_products<false>(sums, stages.left(stage) + tile.row * kStagePitch + k, kStagePitch,
                              r);
        }
        if (step == state_steps - 1)
          tile.each_pair(sums, [&](int r, int, float& low, float& high) {
            low *= factor[r], high *= factor[r];
          });
      });
  if (p.row_scale != nullptr) {
    const float* const scale = p.row_scale + a.row(b, chunk.begin, h);
    tile.each_pair(sums, [&](int r, int, float& low, float& high) {
      const float own = r < rows ? scale[static_cast<Index>(r) * a.heads] : 0.0f;
      low *= own, high *= own;
    });
  }
  if (p.skip) {
    const float skip = p.skip(h);
    const T* const skipped = p.skipped.at(b, chunk.begin, h) + first;
    tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
      if (r >= rows || first + c >= a.values) return;
      const float2 x = wide_pair(skipped + static_cast<Index>(r) * p.skipped.position + c);
      low += skip * x.x, high += skip * x.y;
    });
  }
  T* const to = p.y.at(b, chunk.begin, h) + first;
  put_rounded<T, Columns>(sums, tile, [&](int r, int c, uint4 words) {
    if (r < rows && first + c < a.values)
      *reinterpret_cast<uint4*>(to + static_cast<Index>(r) * p.y.position + c) = words;
  });
}

}  // namespace

template <class T>
void multiply_weights(const TiledMemory<T>& a, Stream stream, const char* operation) {
  const int parts = a.weights == nullptr ? 1 : tiles_of(a.heads / a.groups, kHeadsAtOnce);
  launch_blocks(multiply_weights_kernel<T>, a.chunking.places * a.groups * parts,
                ProductShared<kTile>::bytes(false), stream, operation, a);
}

template <class T>
void multiply_values(const TiledMemory<T>& a, const ValueProduct<T>& product, Stream stream,
                     const char* operation) {
  const auto multiply_by = [&]<int Columns>(std::integral_constant<int, Columns>) {
    launch_blocks(multiply_values_kernel<T, Columns>,
                  a.chunking.places * a.heads * tiles_of(a.values, Columns),
                  ProductShared<Columns>::bytes(true), stream, operation, a, product);
  };
  if (value_tile(a.values) == 64)
    multiply_by(std::integral_constant<int, 64>());
  else if (a.values % 256 != 0)
    multiply_by(std::integral_constant<int, 128>());
  else
    multiply_by(std::integral_constant<int, 256>());
}

#define SSM_INSTANTIATE(T)                                                                \
  template void multiply_weights<T>(const TiledMemory<T>&, Stream, const char*);          \
  template void multiply_values<T>(const TiledMemory<T>&, const ValueProduct<T>&, Stream, \
                                   const char*);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda::device
