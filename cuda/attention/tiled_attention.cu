// SPDX-License-Identifier: Apache-2.0
#include "attention/persistent_attention.cuh"
#include "ssm/backend/cuda/hopper.hpp"
#include "ssm/backend/cuda/tiled_attention.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// W warps of M times 16 queries; N keys at a time; heads of at most `Width` channels; `Blocks` on
/// a multiprocessor.
template <class Tiles_, int W_, int M_, int N_, int Blocks_>
struct ForwardShape {
  /// Tiles of keys, and of values, in shared memory. Two: the next scores are made while the
  /// weights before meet their values.
  static constexpr int buffers = Tiles_::by_warpgroups ? 2 : 1;
  using Tiles = Tiles_;
  static constexpr int Width = Tiles::Width, W = W_, M = M_, N = N_, Blocks = Blocks_;
  static constexpr int queries = 16 * M * W, threads = 32 * W;
  static constexpr std::size_t bytes =
      2 * (std::size_t{Tiles::size(queries)} + 2 * buffers * Tiles::size(N));
};

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::Blocks)
    forward_kernel(const ForwardOperands<T> a) {
  using Tiles = typename Shape::Tiles;
  constexpr int Width = Shape::Width, M = Shape::M, N = Shape::N, threads = Shape::threads;
  extern __shared__ __align__(1024) unsigned char shared[];
  T* const q_tile = reinterpret_cast<T*>(shared);
  T* const k_tile = q_tile + Tiles::size(Shape::queries);
  T* const v_tile = k_tile + Shape::buffers * Tiles::size(N);

  const Packing& packing = a.sequences.packing;
  const AttentionRows rows = a.tiles.at(blockIdx.x, Shape::queries, packing);
  if (rows.count <= 0) return;
  const Index b = rows.sequence.batch, h = rows.head, t0 = rows.sequence.begin + rows.first;
  const AttentionKeys keys = a.sequences.keys(rows.sequence);
  const int seen = static_cast<int>(keys.cached + rows.first + rows.count);  // by the last query
  const int begin = a.part_keys * static_cast<int>(blockIdx.y);
  const int end = a.part_keys == 0 || seen - begin < a.part_keys ? seen : begin + a.part_keys;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int own = 16 * M * warp;  // the warp's first query
  const int first_seen = static_cast<int>(keys.cached + rows.first) + own;  // its last key

  TileLoader<Tiles, N, threads, T> next_keys(&a.k(keys.batch, keys.begin + begin, h, 0),
                                             a.k.strides[1], a.width);
  TileLoader<Tiles, N, threads, T> next_values(&a.v(keys.batch, keys.begin + begin, h, 0),
                                               a.v.strides[1], a.width);
  const float scale = a.scale * kLog2E;

  float sums[M][Width / 8][4], scores[M][N / 8][4];
  set_zero(sums);
  OnlineSoftmax<M, N> softmax;

  if (begin < end) {
    TileLoader<Tiles, Shape::queries, threads, T>(&a.q(b, t0, h, 0), a.q.strides[1], a.width)
        .load(q_tile, rows.count);
    next_keys.load(k_tile, end - begin);
  }
  const auto add_scores = [&](int first) {
    softmax.add(scores, scale, {first_seen + 1 - first, end - first});
  };
  if constexpr (Shape::buffers == 1) {
    for (int first = begin; first < end; first += N) {
      wait_for_tiles<Tiles>();  // the keys are there, the values before have been read
      next_values.load(v_tile, end - first);
      multiply_transposed<Tiles, Shape::queries>(scores, q_tile, own, k_tile);
      wait_for_tiles<Tiles>();  // the values are there, the keys have been read
      if (first + N < end) next_keys.load(k_tile, end - first - N);
      add_scores(first);
      softmax.rescale_sums(sums);
      multiply_add<Tiles>(sums, scores, v_tile);
    }
  } else if (begin < end) {
    constexpr int size = Tiles::size(N);
    wait_for_tiles<Tiles>();
    if (begin + N < end) next_keys.load(k_tile + size, end - begin - N);
    next_values.load(v_tile, end - begin);
    multiply_transposed<Tiles, Shape::queries>(scores, q_tile, own, k_tile);
    add_scores(begin);
    unsigned weights[M][N / 16][4];
    pack_sums<T>(weights, scores);
    int buffer = 0;  // of the values that the weights are for
    for (int next = begin + N; next < end; next += N, buffer ^= 1) {
      wait_for_tiles<Tiles>();  // these values and the next keys are there, those before were read
      if (next + N < end) next_keys.load(k_tile + buffer * size, end - next - N);
      next_values.load(v_tile + (buffer ^ 1) * size, end - next);
      begin_transposed<Tiles, Shape::queries>(scores, q_tile, own, k_tile + (buffer ^ 1) * size);
      begin_add<Tiles>(sums, weights, v_tile + buffer * size);
      finish<Tiles, 1>(scores);
      add_scores(next);
      finish<Tiles, 0>(sums);
      softmax.rescale_sums(sums);
      pack_sums<T>(weights, scores);
    }
    wait_for_tiles<Tiles>();
    begin_add<Tiles>(sums, weights, v_tile + buffer * size);
    finish<Tiles, 0>(sums);
  }
  if constexpr (Tiles::by_warpgroups) __syncthreads();  // all have read the queries
#pragma unroll
  for (int m = 0; m < M; ++m) {
    float factor[2], logarithm[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sum = row_sum(softmax.total[m][i]);
      factor[i] = sum == 0 ? 0 : 1 / sum;
      logarithm[i] = sum == 0 ? -INFINITY : softmax.largest[m][i] * scale + __log2f(sum);
    }
    const int row = own + 16 * m;
    if (a.part_keys == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = row + 8 * i + lane / 4;
        if (a.log_sum && lane % 4 == 0 && t < rows.count)
          a.log_sum(b, t0 + t, h) = logarithm[i] * kLn2;
      }
      store_sums<Tiles, Shape::queries>(q_tile, row, sums[m], factor[0], factor[1],
                                        &a.y(b, t0 + row, h, 0), a.y.strides[1], rows.count - row,
                                        a.width);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = row + 8 * i + lane / 4;
      if (t >= rows.count) continue;
      const Index queries =
          packing.offsets != nullptr ? packing.length : packing.sequences * packing.length;
      const Index place = (blockIdx.y * queries + b * packing.length + t0 + t) * a.tiles.heads + h;
      if (lane % 4 == 0) a.part_log_sum[place] = logarithm[i];
      float2* const to = reinterpret_cast<float2*>(a.part_y + place * a.width);
#pragma unroll
      for (int n = 0; n < Width / 8; ++n)
        if (8 * n < a.width)
          to[4 * n + lane % 4] = {sums[m][n][2 * i] * factor[i], sums[m][n][2 * i + 1] * factor[i]};
    }
  }
}

/// y and log_sum of a query from those of parts of its keys, in order.
template <class T>
struct AttentionParts {
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Index h = row % heads;
    const Index t = row / heads % length;
    const Index b = row / heads / length;
    float largest = -INFINITY;
    for (Index part = 0; part < parts; ++part)
      largest = fmaxf(largest, part_log_sum[part * rows + row]);
    float total = 0;
    for (Index part = 0; part < parts; ++part)
      total += power_of_two(part_log_sum[part * rows + row] - largest);
    lanes.each(width, [&](Index c) {
      float sum = 0;
      for (Index part = 0; part < parts; ++part) {
        const Index place = part * rows + row;
        sum += power_of_two(part_log_sum[place] - largest) * part_y[place * width + c];
      }
      from_float(sum / total, y(b, t, h, c));
    });
    if (log_sum && lanes.first()) log_sum(b, t, h) = (largest + __log2f(total)) * kLn2;
  }

  Operand<T, 4> y;
  Operand<float, 3> log_sum;
  const float* part_y;
  const float* part_log_sum;
  Index parts, rows, length, heads, width;
};

template <class Shape, class T>
void run_forward(const ForwardOperands<T>& operands, Index parts, Stream stream) {
  launch(forward_kernel<T, Shape>,
         dim3(static_cast<unsigned>(operands.tiles.count(Shape::queries)),
              static_cast<unsigned>(parts)),
         Shape::threads, Shape::bytes, stream, "attention", operands);
}

/// Whether tiles of the operands can be copied, by what becomes `maps`.
template <class Shape, class T>
bool describe_operands(const ssm::Attention<T, CudaSpace>& a, ForwardMaps& maps) {
  return describe_tiles(maps.q, a.q, Shape::queries) && describe_tiles(maps.k, a.k, Shape::N) &&
         describe_tiles(maps.v, a.v, Shape::N);
}

template <class Shape, class T>
bool run_specialized_shape(const ssm::Attention<T, CudaSpace>& a,
                           const ForwardOperands<T>& operands, Stream stream) {
  const char* const operation = "attention";
  ForwardMaps maps;
  if (!has_shared_barriers<Shape>(specialized_kernel<T, Shape>, operation) ||
      !describe_operands<Shape>(a, maps))
    return false;
  Index blocks = operands.tiles.count(Shape::queries);
  if (Shape::persists && blocks > hopper_multiprocessors) blocks = hopper_multiprocessors;
  launch(specialized_kernel<T, Shape>, dim3(static_cast<unsigned>(blocks)), Shape::threads,
         Shape::bytes, stream, operation, operands, maps);
  return true;
}
/// next_tile   as in persistent_kernel
template <class Shape, class T>
bool run_persistent_shape(const ssm::Attention<T, CudaSpace>& a, const ForwardOperands<T>& operands,
                          unsigned* next_tile, Stream stream) {
  const char* const operation = "attention";
  ForwardMaps maps;
  if (!has_shared_barriers<Shape>(persistent_kernel<T, Shape>, operation) ||
      !describe_operands<Shape>(a, maps))
    return false;
  Index blocks = operands.tiles.count(Shape::queries);
  if (blocks > hopper_multiprocessors) blocks = hopper_multiprocessors;
  if (next_tile != nullptr)
    check(cudaMemsetAsync(next_tile, 0, sizeof(unsigned), static_cast<cudaStream_t>(stream)),
          operation);
  launch(persistent_kernel<T, Shape>, dim3(static_cast<unsigned>(blocks)), Shape::threads,
         Shape::bytes, stream, operation, operands, maps, next_tile);
  return true;
}
/// All keys at once; false where the device has no code for it, or where it does not pay.
template <class T>
bool run_specialized(const ssm::Attention<T, CudaSpace>& a, const ForwardOperands<T>& operands,
                     float* workspace, Stream stream) {
  using Wide = WarpgroupTiles<128>;
  using Narrow = WarpgroupTiles<64>;
  if (counts_tiles(a))
    return run_persistent_shape<PersistentShape<Wide, 2, 128, 3>>(
        a, operands, reinterpret_cast<unsigned*>(workspace), stream);
  if (operands.width > 64 && operands.width <= 128)
    return run_specialized_shape<SpecializedShape<Wide, 2, 128, 3, true>>(a, operands, stream);
  // Shorter sequences leave much of the tiles that are 192 queries high empty, and the shortest
  // have too few tiles to go on to.
  if (operands.width > 32 && operands.width <= 64 && mean_queries(a) >= 512)
    return mean_queries(a) >= 3072
               ? run_persistent_shape<PersistentShape<Narrow, 3, 128, 4>>(a, operands, nullptr,
                                                                          stream)
               : run_specialized_shape<SpecializedShape<Narrow, 2, 128, 3, false, 2>>(a, operands,
                                                                                      stream);
  return false;
}

}  // namespace
}  // namespace device

template <class T>
void tiled_attention(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                     const std::int64_t* cached, float* workspace, Stream stream) {
  using namespace device;
  const AttentionSplit split = attention_split(a);
  const Index rows = a.q.extent(0) * a.q.extent(1) * a.q.extent(2), width = a.q.extent(3);
  if (rows == 0) return;
  ForwardOperands<T> operands(a, segments, cached);
  if (split.parts > 1) {
    operands.part_keys = static_cast<int>(split.keys);
    operands.part_y = workspace;
    operands.part_log_sum = workspace + split.parts * rows * width;
  }
  if (!has_few_queries(a) && run_specialized(a, operands, workspace, stream)) return;
  if (has_few_queries(a)) {
    if (width <= 64)
      run_forward<ForwardShape<WarpTiles<64>, 1, 1, 64, 4>>(operands, split.parts, stream);
    else if (width <= 128)
      run_forward<ForwardShape<WarpTiles<128>, 1, 1, 64, 4>>(operands, split.parts, stream);
    else
      run_forward<ForwardShape<WarpTiles<256>, 1, 1, 32, 4>>(operands, split.parts, stream);
  } else if (width <= 32) {
    run_forward<ForwardShape<WarpTiles<32>, 4, 2, 64, 2>>(operands, 1, stream);
  } else if (width <= 64) {
    run_forward<ForwardShape<WarpgroupTiles<64>, 8, 1, 64, 2>>(operands, 1, stream);
  } else if (width <= 128) {
    run_forward<ForwardShape<WarpgroupTiles<128>, 8, 1, 128, 1>>(operands, 1, stream);
  } else if (width <= 192) {
    run_forward<ForwardShape<WarpgroupTiles<192>, 8, 1, 64, 1>>(operands, 1, stream);
  } else {
    run_forward<ForwardShape<WarpgroupTiles<256>, 8, 1, 64, 1>>(operands, 1, stream);
  }
  if (split.parts > 1)
    for_each_row(
        rows, stream, "attention",
        AttentionParts<T>{operands.y, operands.log_sum, operands.part_y, operands.part_log_sum,
                          split.parts, rows, a.q.extent(1), a.q.extent(2), width});
}

#define SSM_INSTANTIATE(T)                       \
  template SSM_CUDA_API void tiled_attention<T>( \
      const ssm::Attention<T, CudaSpace>&, DeviceSegments, const std::int64_t*, float*, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
