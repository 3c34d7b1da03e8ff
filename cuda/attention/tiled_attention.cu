// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_tile.cuh"
#include "ssm/backend/cuda/tiled_attention.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// W warps of M times 16 queries; N keys at a time; heads of at most `Width` channels; `Blocks` on
/// a multiprocessor.
template <int Width_, int W_, int M_, int N_, int Blocks_>
struct ForwardShape {
  static constexpr int Width = Width_, W = W_, M = M_, N = N_, Blocks = Blocks_;
  static constexpr int queries = 16 * M * W, threads = 32 * W;
  static constexpr std::size_t bytes =
      2 * (std::size_t{tile_size(queries, Width)} + 2 * tile_size(N, Width));
};

template <class T>
struct ForwardOperands {
  ForwardOperands(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                  const std::int64_t* cached)
      : q(operand(a.q)),
        k(operand(a.k)),
        v(operand(a.v)),
        y(operand(a.y)),
        log_sum(operand(a.log_sum)),
        sequences(a, segments, cached),
        tiles(sequences, a.q.extent(1), segments.offsets != nullptr, true, a.q.extent(2)),
        width(static_cast<int>(a.q.extent(3))),
        scale(static_cast<float>(a.scale)) {}

  Operand<const T, 4> q, k, v;
  Operand<T, 4> y;
  Operand<float, 3> log_sum;
  AttentionSequences sequences;
  AttentionTiles tiles;
  int width;
  float scale;
  int part_keys = 0;        // of each part of the keys; 0: there is one part
  float* part_y = nullptr;  // [parts, B·L·H, K]
  float* part_log_sum =
      nullptr;  // [parts, B·L·H], to base 2; −∞ of a part that a query does not see
};

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::Blocks)
    forward_kernel(const ForwardOperands<T> a) {
  constexpr int Width = Shape::Width, M = Shape::M, N = Shape::N, threads = Shape::threads;
  extern __shared__ __align__(128) unsigned char shared[];
  T* const q_tile = reinterpret_cast<T*>(shared);
  T* const k_tile = q_tile + tile_size(Shape::queries, Width);
  T* const v_tile = k_tile + tile_size(N, Width);

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

  TileLoader<N, Width, threads, T> next_keys(&a.k(keys.batch, keys.begin + begin, h, 0),
                                             a.k.strides[1], a.width);
  TileLoader<N, Width, threads, T> next_values(&a.v(keys.batch, keys.begin + begin, h, 0),
                                               a.v.strides[1], a.width);
  const float scale = a.scale * kLog2E;

  float sums[M][Width / 8][4], largest[M][2], total[M][2];
  set_zero(sums);
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) largest[m][i] = -INFINITY, total[m][i] = 0;

  if (begin < end) {
    TileLoader<Shape::queries, Width, threads, T>(&a.q(b, t0, h, 0), a.q.strides[1], a.width)
        .load(q_tile, rows.count);
    next_keys.load(k_tile, end - begin);
  }
  for (int first = begin; first < end; first += N) {
    wait_for_copies();
    __syncthreads();  // the keys are there, the values before have been read
    next_values.load(v_tile, end - first);
    float scores[M][N / 8][4];
    multiply_transposed<Width>(scores, q_tile + own * tile_stride(Width), k_tile);
    wait_for_copies();
    __syncthreads();  // the values are there, the keys have been read
    if (first + N < end) next_keys.load(k_tile, end - first - N);
    const bool all_seen = first + N - 1 <= first_seen && first + N <= end;
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (!all_seen) {
          // of this tile the columns before `limit` are seen
          const int seen_here = first_seen + 1 + 16 * m + 8 * i + lane / 4 - first;
          const int limit = seen_here < end - first ? seen_here : end - first;
#pragma unroll
          for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int j = 0; j < 2; ++j)
              if (8 * n + lane % 4 * 2 + j >= limit) scores[m][n][2 * i + j] = -INFINITY;
        }
        float now = largest[m][i];
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
          now = fmaxf(now, fmaxf(scores[m][n][2 * i], scores[m][n][2 * i + 1]));
        now = row_max(now);
        const float base = now == -INFINITY ? 0.0f : now * scale;
        const float rescale = power_of_two(largest[m][i] * scale - base);
        largest[m][i] = now;
        total[m][i] *= rescale;
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            float& weight = scores[m][n][2 * i + j];
            weight = power_of_two(weight * scale - base);
            total[m][i] += weight;
          }
#pragma unroll
        for (int n = 0; n < Width / 8; ++n)
          sums[m][n][2 * i] *= rescale, sums[m][n][2 * i + 1] *= rescale;
      }
    }
    multiply_add<Width>(sums, scores, v_tile);
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    float factor[2], logarithm[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sum = row_sum(total[m][i]);
      factor[i] = sum == 0 ? 0 : 1 / sum;
      logarithm[i] = sum == 0 ? -INFINITY : largest[m][i] * scale + __log2f(sum);
    }
    const int row = own + 16 * m;
    if (a.part_keys == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = row + 8 * i + lane / 4;
        if (a.log_sum && lane % 4 == 0 && t < rows.count)
          a.log_sum(b, t0 + t, h) = logarithm[i] * kLn2;
      }
      store_sums<T, Width>(q_tile + row * tile_stride(Width), sums[m], factor[0], factor[1],
                           &a.y(b, t0 + row, h, 0), a.y.strides[1], rows.count - row, a.width);
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
  if (has_few_queries(a)) {
    if (width <= 64)
      run_forward<ForwardShape<64, 1, 1, 64, 4>>(operands, split.parts, stream);
    else if (width <= 128)
      run_forward<ForwardShape<128, 1, 1, 64, 4>>(operands, split.parts, stream);
    else
      run_forward<ForwardShape<256, 1, 1, 32, 4>>(operands, split.parts, stream);
  } else if (width <= 32) {
    run_forward<ForwardShape<32, 4, 2, 64, 2>>(operands, 1, stream);
  } else if (width <= 64) {
    run_forward<ForwardShape<64, 4, 2, 64, 2>>(operands, 1, stream);
  } else if (width <= 96) {
    run_forward<ForwardShape<96, 4, 2, 64, 2>>(operands, 1, stream);
  } else if (width <= 128) {
    run_forward<ForwardShape<128, 4, 2, 64, 2>>(operands, 1, stream);
  } else if (width <= 192) {
    run_forward<ForwardShape<192, 8, 1, 64, 1>>(operands, 1, stream);
  } else {
    run_forward<ForwardShape<256, 8, 1, 64, 1>>(operands, 1, stream);
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
