// SPDX-License-Identifier: Apache-2.0
#include "attention/specialized_gradient.cuh"
#include "ssm/backend/cuda/tiled_attention.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// query_numbers, eight lanes for a query.
template <class T>
struct QueryNumbers {
  __device__ void operator()(Index index) const {
    const Index row = index / 8;
    const int lane = static_cast<int>(index % 8);
    const Index length = g.sequences.packing.length, heads = g.query_tiles.heads;
    for (Index i = index; i < g.turn_count; i += 8 * queries) g.turns[i] = 0;
    const Index h = row % heads, t = row / heads % length, b = row / heads / length;
    const T* const y = &g.y(b, t, h, 0);
    const T* const dy = &g.dy(b, t, h, 0);
    float sum = 0;
    for (int c = 8 * lane; c < g.width; c += 64) {
      float left[8], right[8];
      load_eight(y + c, 8, true, left);
      load_eight(dy + c, 8, true, right);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += left[i] * right[i];
    }
    const unsigned lanes = 0xffu << (threadIdx.x % 32 / 8 * 8);  // those of this query
#pragma unroll
    for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(lanes, sum, step);
    if (lane != 0) return;
    const Sequence sequence = g.sequences.packing.sequence_with(b, t);
    const auto write = [&](Index place, float first, float second) {
      float* const to = g.numbers(sequence, h, place);
      to[0] = first, to[2] = second;
    };
    const Index own = t - sequence.begin;
    write(own, g.log_sum(b, t, h) * kLog2E, sum);
    if (t + 1 == sequence.end)
      for (Index i = own + 1; i % AttentionDqTiles::queries != 0; ++i) write(i, 0, 0);
  }
  GradientOperands<T> g;
  Index queries;  // of all heads
};

template <class T>
void make_query_numbers(const GradientOperands<T>& g, Stream stream) {
  const Index batch = g.query_tiles.offsets != nullptr ? 1 : g.query_tiles.sequences;
  const Index queries = batch * g.sequences.packing.length * g.query_tiles.heads;
  for_each_index(8 * queries, stream, "attention_backward", QueryNumbers<T>{g, queries});
}

/// A warp has M times 16 rows of its own, a block W warps; N of the other kind at a time.
template <class Tiles_, int W_, int M_, int N_, int Blocks_>
struct QueryShape {
  using Tiles = Tiles_;
  static constexpr int Width = Tiles::Width, W = W_, M = M_, N = N_, Blocks = Blocks_;
  static constexpr int queries = 16 * M * W, threads = 32 * W;
  static constexpr std::size_t bytes =
      2 * (2 * std::size_t{Tiles::size(queries)} + 4 * Tiles::size(N));
};

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::Blocks)
    query_gradient_kernel(const GradientOperands<T> g) {
  using Tiles = typename Shape::Tiles;
  constexpr int Width = Shape::Width, M = Shape::M, N = Shape::N, threads = Shape::threads;
  constexpr int queries = Shape::queries, key_size = Tiles::size(N);
  extern __shared__ __align__(1024) unsigned char shared[];
  T* const q_tile = reinterpret_cast<T*>(shared);
  T* const dy_tile = q_tile + Tiles::size(queries);
  T* const key_tiles = dy_tile + Tiles::size(queries);  // twice keys and values

  const AttentionRows rows = g.query_tiles.at(blockIdx.x, queries, g.sequences.packing);
  if (rows.count <= 0) return;
  const Index b = rows.sequence.batch, h = rows.head, t0 = rows.sequence.begin + rows.first;
  const AttentionKeys keys = g.sequences.keys(rows.sequence);
  const int end = static_cast<int>(keys.cached + rows.first) + rows.count;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int own = 16 * M * warp;
  const int first_seen = static_cast<int>(keys.cached + rows.first) + own;
  const float scale = g.scale * kLog2E;

  TileLoader<Tiles, queries, threads, T>(&g.q(b, t0, h, 0), g.q.strides[1], g.width)
      .load(q_tile, rows.count);
  TileLoader<Tiles, queries, threads, T>(&g.dy(b, t0, h, 0), g.dy.strides[1], g.width)
      .load(dy_tile, rows.count);
  TileLoader<Tiles, N, threads, T> next_keys(&g.k(keys.batch, keys.begin, h, 0), g.k.strides[1],
                                             g.width);
  TileLoader<Tiles, N, threads, T> next_values(&g.v(keys.batch, keys.begin, h, 0), g.v.strides[1],
                                               g.width);
  next_keys.load(key_tiles, end);
  next_values.load(key_tiles + key_size, end);

  float sums[M][Width / 8][4];
  set_zero(sums);
  float2 numbers[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = own + 16 * m + 8 * i + lane / 4;
      numbers[m][i] = {0, 0};
      if (t < rows.count) {
        const float* const from = g.numbers(rows.sequence, h, rows.first + t);
        numbers[m][i] = {from[0], from[2]};
      }
    }

  T* k_tile = key_tiles;
  T* other = key_tiles + 2 * key_size;
  for (int first = 0; first < end; first += N) {
    wait_for_tiles<Tiles>();  // these are there, those before have been read
    if (first + N < end) {
      next_keys.load(other, end - first - N);
      next_values.load(other + key_size, end - first - N);
    }
    float scores[M][N / 8][4], toward[M][N / 8][4];
    begin_transposed<Tiles, queries>(scores, q_tile, own, k_tile);
    begin_transposed<Tiles, queries>(toward, dy_tile, own, k_tile + key_size);
    finish<Tiles, 1>(scores);
    const bool all_seen = first + N - 1 <= first_seen;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int limit = all_seen ? N : first_seen + 1 + 16 * m + 8 * i + lane / 4 - first;
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            float& score = scores[m][n][2 * i + j];
            const float weight = power_of_two(score * scale - numbers[m][i].x);
            score = 8 * n + lane % 4 * 2 + j < limit ? weight : 0.0f;
          }
      }
    finish<Tiles, 0>(toward);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[m][n][i] *= toward[m][n][i] - numbers[m][i / 2].y;
    multiply_add<Tiles>(sums, scores, k_tile);
    T* const swapped = k_tile;
    k_tile = other;
    other = swapped;
  }
  if constexpr (Tiles::by_warpgroups) __syncthreads();  // all have read the queries
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const int row = own + 16 * m;
    store_sums<Tiles, queries>(q_tile, row, sums[m], g.scale, g.scale, &g.dq(b, t0 + row, h, 0),
                               g.dq.strides[1], rows.count - row, g.width);
  }
}

/// As QueryShape. `Key`, `Value`: which gradients are made.
template <class Tiles_, int W_, int N_, bool Key_, bool Value_>
struct KeyShape {
  using Tiles = Tiles_;
  static constexpr int Width = Tiles::Width, W = W_, N = N_;
  static constexpr bool Key = Key_, Value = Value_;
  static constexpr int keys = 16 * W, threads = 32 * W;
  static constexpr std::size_t bytes =
      2 * (2 * std::size_t{Tiles::size(keys)} + 4 * Tiles::size(N)) + 2 * N * sizeof(float2);
};

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::threads, 1)
    key_gradient_kernel(const GradientOperands<T> g) {
  using Tiles = typename Shape::Tiles;
  constexpr int Width = Shape::Width, N = Shape::N, threads = Shape::threads;
  static_assert(AttentionDqTiles::queries % N == 0);  // behind the last query are numbers, too
  constexpr int query_size = Tiles::size(N);
  extern __shared__ __align__(1024) unsigned char shared[];
  T* const k_tile = reinterpret_cast<T*>(shared);
  T* const v_tile = k_tile + Tiles::size(Shape::keys);
  T* const query_tiles = v_tile + Tiles::size(Shape::keys);  // twice q and dy
  float2* const query_numbers = reinterpret_cast<float2*>(query_tiles + 4 * query_size);

  const AttentionRows rows = g.key_tiles.at(blockIdx.x, Shape::keys, g.sequences.packing);
  if (rows.count <= 0) return;
  const Sequence& sequence = rows.sequence;
  const AttentionKeys keys = g.sequences.keys(sequence);
  const Index b = sequence.batch, h = rows.head, s0 = keys.begin + rows.first;
  const int queries = static_cast<int>(sequence.end - sequence.begin);
  const int cached = static_cast<int>(keys.cached), first_key = static_cast<int>(rows.first);
  const int begin = first_key > cached ? (first_key - cached) / N * N : 0;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int own = 16 * warp;
  const int first_own = first_key + own - cached;  // the first query that sees the first own key
  const float scale = g.scale * kLog2E;

  float dk_sums[1][Width / 8][4], dv_sums[1][Width / 8][4];
  if constexpr (Shape::Key) set_zero(dk_sums);
  if constexpr (Shape::Value) set_zero(dv_sums);

  // Keys that no query sees may be anything: they are taken as zeros.
  const int last_seen = cached + queries - first_key;
  const int seen = last_seen < rows.count ? last_seen : rows.count;
  TileLoader<Tiles, Shape::keys, threads, T>(&g.k(keys.batch, s0, h, 0), g.k.strides[1], g.width)
      .load(k_tile, seen);
  if constexpr (Shape::Key)
    TileLoader<Tiles, Shape::keys, threads, T>(&g.v(keys.batch, s0, h, 0), g.v.strides[1], g.width)
        .load(v_tile, seen);
  const Index t0 = sequence.begin + begin;
  TileLoader<Tiles, N, threads, T> next_q(&g.q(b, t0, h, 0), g.q.strides[1], g.width);
  TileLoader<Tiles, N, threads, T> next_dy(&g.dy(b, t0, h, 0), g.dy.strides[1], g.width);
  const auto load_next = [&](int buffer, int first) {
    next_q.load(query_tiles + 2 * buffer * query_size, queries - first);
    next_dy.load(query_tiles + (2 * buffer + 1) * query_size, queries - first);
    const int row = static_cast<int>(threadIdx.x);
    if (row < N) {
      float* const to = reinterpret_cast<float*>(query_numbers + buffer * N + row);
      const float* const from = g.numbers(sequence, h, first + row);
      copy_number_or_zero(to, from, true);
      copy_number_or_zero(to + 1, from + 2, true);
    }
  };
  if (begin < queries) load_next(0, begin);

  int buffer = 0;
  for (int first = begin; first < queries; first += N, buffer ^= 1) {
    wait_for_tiles<Tiles>();  // these are there, those before have been read
    if (first + N < queries) load_next(buffer ^ 1, first + N);
    T* const q_tile = query_tiles + 2 * buffer * query_size;
    T* const dy_tile = q_tile + query_size;
    float scores[1][N / 8][4], toward[1][N / 8][4];
    begin_transposed<Tiles, Shape::keys>(scores, k_tile, own, q_tile);
    if constexpr (Shape::Key) begin_transposed<Tiles, Shape::keys>(toward, v_tile, own, dy_tile);
    finish<Tiles, Shape::Key ? 1 : 0>(scores);
    // Scores become weights; where queries do not see keys, 0.
    const bool all_seen = first >= first_own + 15;
    const float2* const column = query_numbers + buffer * N + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float base = column[8 * n + j].x;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[0][n][2 * i + j];
          const float weight = power_of_two(score * scale - base);
          const bool seen =
              all_seen || first + 8 * n + lane % 4 * 2 + j >= first_own + lane / 4 + 8 * i;
          score = seen ? weight : 0.0f;
        }
      }
    unsigned factors[1][N / 16][4], key_factors[1][N / 16][4];
    if constexpr (Shape::Key) finish<Tiles, 0>(toward);
    if constexpr (Shape::Value) {
      pack_sums<T>(factors, scores);
      begin_add<Tiles>(dv_sums, factors, dy_tile);
    }
    if constexpr (Shape::Key) {
#pragma unroll
      for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[0][n][i] *= toward[0][n][i] - column[8 * n + i % 2].y;
      pack_sums<T>(key_factors, scores);
      begin_add<Tiles>(dk_sums, key_factors, q_tile);
    }
    if constexpr (Shape::Value) finish<Tiles, 0>(dv_sums);
    if constexpr (Shape::Key) finish<Tiles, 0>(dk_sums);
  }
  wait_for_tiles<Tiles>();
  const int count = rows.count - own;
  if constexpr (Shape::Key)
    store_sums<Tiles, Shape::keys>(k_tile, own, dk_sums[0], g.scale, g.scale,
                                   &g.dk(keys.batch, s0 + own, h, 0), g.dk.strides[1], count,
                                   g.width);
  if constexpr (Shape::Value)
    store_sums<Tiles, Shape::keys>(k_tile, own, dv_sums[0], 1.0f, 1.0f,
                                   &g.dv(keys.batch, s0 + own, h, 0), g.dv.strides[1], count,
                                   g.width);
}

template <class Shape, class T>
void run_queries(const GradientOperands<T>& g, Stream stream) {
  if (const Index blocks = g.query_tiles.count(Shape::queries); blocks > 0)
    launch(query_gradient_kernel<T, Shape>, dim3(static_cast<unsigned>(blocks)), Shape::threads,
           Shape::bytes, stream, "attention_backward", g);
}
template <class Shape, class T>
void run_keys(const GradientOperands<T>& g, Stream stream) {
  if (const Index blocks = g.key_tiles.count(Shape::keys); blocks > 0)
    launch(key_gradient_kernel<T, Shape>, dim3(static_cast<unsigned>(blocks)), Shape::threads,
           Shape::bytes, stream, "attention_backward", g);
}

/// All gradients, where the device has code for it.
template <int Width, class T>
bool run_specialized(const ssm::AttentionBackward<T, CudaSpace>& g, GradientOperands<T>& operands,
                     float* dq_parts, Stream stream) {
  using Shape = SpecializedGradient<Width>;
  const char* const operation = "attention_backward";
  const auto kernel = specialized_gradient_kernel<T, Width>;
  const auto& a = g.forward;
  GradientMaps maps;
  if (!has_shared_barriers<Shape>(kernel, operation) || !describe_tiles(maps.q, a.q, Shape::N) ||
      !describe_tiles(maps.k, a.k, Shape::keys) || !describe_tiles(maps.v, a.v, Shape::keys) ||
      !describe_tiles(maps.dy, g.dy, Shape::N))
    return false;
  operands.use_dq_parts(dq_parts, Shape::N, Shape::tile_floats);
  make_query_numbers(operands, stream);
  launch(kernel, dim3(static_cast<unsigned>(operands.key_tiles.count(Shape::keys))), Shape::threads,
         Shape::bytes, stream, operation, operands, maps);
  launch(gather_dq_kernel<T, Width>,
         dim3(static_cast<unsigned>(operands.query_tiles.count(Shape::N))), 256, 0, stream,
         operation, operands);
  return true;
}

}  // namespace
}  // namespace device

template <class T>
void tiled_attention_backward(const ssm::AttentionBackward<T, CudaSpace>& g,
                              DeviceSegments segments, const std::int64_t* cached, float* workspace,
                              Stream stream) {
  using namespace device;
  GradientOperands<T> operands(g, segments, cached, workspace);
  if (may_add_to_dq(g.forward)) {
    float* const dq_parts = workspace + attention_query_scratch(g.forward);
    const bool is_narrow = AttentionDqTiles::channels(g.forward.q.extent(3)) == 64;
    if (is_narrow ? run_specialized<64>(g, operands, dq_parts, stream)
                  : run_specialized<128>(g, operands, dq_parts, stream))
      return;
  }
  make_query_numbers(operands, stream);
  const Index width = g.forward.q.extent(3);
  if (width <= 32) {
    run_queries<QueryShape<WarpTiles<32>, 4, 2, 64, 2>>(operands, stream);
    run_keys<KeyShape<WarpTiles<32>, 8, 64, true, true>>(operands, stream);
  } else if (width <= 64) {
    run_queries<QueryShape<WarpgroupTiles<64>, 4, 1, 64, 3>>(operands, stream);
    run_keys<KeyShape<WarpgroupTiles<64>, 4, 64, true, true>>(operands, stream);
  } else if (width <= 128) {
    run_queries<QueryShape<WarpgroupTiles<128>, 8, 1, 128, 1>>(operands, stream);
    run_keys<KeyShape<WarpgroupTiles<128>, 8, 64, true, true>>(operands, stream);
  } else if (width <= 192) {
    run_queries<QueryShape<WarpgroupTiles<192>, 8, 1, 32, 1>>(operands, stream);
    run_keys<KeyShape<WarpgroupTiles<192>, 8, 32, true, false>>(operands, stream);
    run_keys<KeyShape<WarpgroupTiles<192>, 8, 32, false, true>>(operands, stream);
  } else {
    run_queries<QueryShape<WarpgroupTiles<256>, 8, 1, 32, 1>>(operands, stream);
    run_keys<KeyShape<WarpgroupTiles<256>, 8, 32, true, false>>(operands, stream);
    run_keys<KeyShape<WarpgroupTiles<256>, 8, 32, false, true>>(operands, stream);
  }
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void tiled_attention_backward<T>(                                       \
      const ssm::AttentionBackward<T, CudaSpace>&, DeviceSegments, const std::int64_t*, float*, \
      Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
