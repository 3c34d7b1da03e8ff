// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>

#include "device/launch.cuh"
#include "kernel/activation_functions.cuh"
#include "kernel/prefetch.cuh"
#include "kernel/shared_tiles.cuh"
#include "kernel/warpgroup_products.cuh"
#include "matmul/matmul_some_rows.cuh"

namespace ssm::cuda::device {
namespace {

constexpr int tile_rows = static_cast<int>(some_rows);
constexpr int tile_columns = 128;  // 64 a warpgroup
constexpr int chunk = 64;          // of the depth
constexpr int threads = 256;
constexpr int parts = 3;
constexpr int stages = 4;
constexpr int most_shares = 8;  // of the depth, the blocks of a cluster

/// c = act(a · weightsᵀ + bias) + residual, all rows contiguous.
struct SomeRowsProduct {
  const BFloat16* weights = nullptr;  // [columns, depth], rows `step` apart
  std::int64_t step = 0;
  const float* bias = nullptr;
  const float* residual = nullptr;
  std::int64_t residual_step = 0;
  float* c = nullptr;
  std::int64_t c_step = 0;
  int columns = 0;
  int first_tile = 0;
  ActivationKind activation = ActivationKind::none;
};
struct SomeRows {
  const float* a = nullptr;
  std::int64_t a_step = 0;
  int rows = 0, depth = 0, tiles = 0;
  SomeRowsProduct products[some_rows_products];
};

struct alignas(1024) SomeRowsShared {
  static constexpr int sum_step = tile_columns + 4;  // apart from other banks
  BFloat16 weights[stages][tile_columns * chunk];    // panels of 64 rows
  float rows[stages][tile_rows * chunk];
  BFloat16 parts_of_rows[2][parts][tile_rows * chunk];
  /// Over weights that have been read.
  __device__ float* sums() { return reinterpret_cast<float*>(weights); }
};
static_assert(sizeof(float) * tile_rows * SomeRowsShared::sum_step <=
              sizeof(SomeRowsShared::weights));

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

__device__ unsigned rank_in_cluster() {
  unsigned rank;
  asm volatile("mov.u32 %0,%%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ void wait_for_cluster() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
/// Four numbers of the shared memory of another block of the cluster.
__device__ float4 load_from(unsigned rank, const float* own) {
  unsigned address;
  float4 v;
  asm volatile("mapa.shared::cluster.u32 %0,%1,%2;"
               : "=r"(address)
               : "r"(shared_address(own)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3},[%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

/// A block: 128 columns of a product, a share of the depth.
struct SomeRowsBlock {
  SomeRowsShared& shared;
  const SomeRows& call;
  const SomeRowsProduct& product;
  int first_column, first_row, begin, chunks;  // begin: of the depth

  __device__ int last_column(int n) const { return n < product.columns ? n : product.columns - 1; }

  __device__ void prefetch() const {
    for (int i = static_cast<int>(threadIdx.x); i < tile_columns * chunks; i += threads) {
      const int n = first_column + i / chunks;
      if (n < product.columns)
        device::prefetch(product.weights + n * product.step + begin + i % chunks * chunk);
    }
  }
  /// 16 bytes a copy. Of rows, first the even pieces of a row, then the odd ones: neighbors read
  /// neighbors.
  __device__ void copy_weights(int number) const {
    BFloat16* const to = shared.weights[number % stages];
#pragma unroll
    for (int j = 0; j < tile_columns * chunk / 8 / threads; ++j) {
      const int i = static_cast<int>(threadIdx.x) + j * threads, n = i / 8, piece = i % 8;
      copy_run_async(shared_address(to + n * chunk + (piece ^ n % 8) * 8),
                     product.weights + last_column(first_column + n) * product.step + begin +
                         number * chunk + piece * 8);
    }
  }
  __device__ void copy_rows(int number) const {
    float* const to = shared.rows[number % stages];
#pragma unroll
    for (int j = 0; j < tile_rows * chunk / 4 / threads; ++j) {
      const int i = static_cast<int>(threadIdx.x) + j * threads, m = i / 16, piece = i % 16;
      const int row = first_row + m;
      const bool is_there = row < call.rows;
      copy_run_async(
          shared_address(to + m * chunk + (piece % 2 * 8 + piece / 2) * 4),
          call.a + (is_there ? row : 0) * call.a_step + begin + number * chunk + piece * 4,
          is_there);
    }
  }
  /// A group of copies, empty behind the last chunk.
  __device__ void copy(int number) const {
    if (number < chunks) {
      copy_weights(number);
      copy_rows(number);
    }
    commit_copies();
  }
  __device__ static float rest_of(float x, float part) {
    return fabsf(part) <= 3.4e38F ? x - part : 0.0F;  // of infinity nothing is left
  }
  __device__ void split_rows(int number) const {
    const float* const from = shared.rows[number % stages];
#pragma unroll
    for (int j = 0; j < tile_rows * chunk / 8 / threads; ++j) {
      const int i = static_cast<int>(threadIdx.x) + j * threads, m = i / 8, piece = i % 8;
      const float4 low = *reinterpret_cast<const float4*>(from + m * chunk + piece * 4),
                   high = *reinterpret_cast<const float4*>(from + m * chunk + (8 + piece) * 4);
      float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        unsigned words[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          words[k] = pack_bf16(x[2 * k], x[2 * k + 1]);
          x[2 * k] = rest_of(x[2 * k], low_of(words[k]));
          x[2 * k + 1] = rest_of(x[2 * k + 1], high_of(words[k]));
        }
        store_run(shared_address(shared.parts_of_rows[number % 2][part] + m * chunk +
                                 (piece ^ m % 8) * 8),
                  {words[0], words[1], words[2], words[3]});
      }
    }
  }
  /// sums[n, m] += the products of a chunk: the smallest parts first.
  __device__ void multiply(int number, float (&sums)[8][4]) const {
    const auto a = describe_panels(
        shared.weights[number % stages] + static_cast<int>(threadIdx.x) / 128 * 64 * chunk, 16);
    hold(sums);
    begin_products();
#pragma unroll
    for (int part = parts - 1; part >= 0; --part) {
      const auto b = describe_panels(shared.parts_of_rows[number % 2][part], 16);
#pragma unroll
      for (int step = 0; step < chunk / 16; ++step)
        multiply_shared<BFloat16, 8>(sums, a + 2 * step, b + 2 * step, true);
    }
    end_products();
    hold(sums);
  }

  __device__ void run() const {
    float sums[8][4] = {};
#pragma unroll
    for (int i = 0; i + 1 < stages; ++i) copy(i);
    wait_for_groups<stages - 2>();
    __syncthreads();
    split_rows(0);
    for (int i = 0; i < chunks; ++i) {
      wait_for_groups<stages - 3>();  // chunk i + 1, whose rows are split below
      show_copies_to_products();
      __syncthreads();
      multiply(i, sums);
      copy(i + stages - 1);
      if (i + 1 < chunks) split_rows(i + 1);
      wait_for_products<0>();
      hold(sums);
    }
    __syncthreads();
    write_sums(sums);
    wait_for_cluster();
    finish();
    wait_for_cluster();  // others read this block's sums
  }
  __device__ void write_sums(const float (&sums)[8][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int n = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        shared.sums()[(8 * j + lane % 4 * 2 + i % 2) * SomeRowsShared::sum_step + n + i / 2 * 8] =
            sums[j][i];
  }
  /// The blocks of a cluster finish some rows each, by the sums of all in their order.
  __device__ void finish() const {
    const int shares = static_cast<int>(gridDim.x), rows = tile_rows / shares;
    const int first = static_cast<int>(rank_in_cluster()) * rows;
    for (int i = static_cast<int>(threadIdx.x); i < rows * tile_columns / 4; i += threads) {
      const int m = first + i / (tile_columns / 4), n = i % (tile_columns / 4) * 4;
      if (first_row + m >= call.rows) break;
      float values[4] = {};
      for (int share = 0; share < shares; ++share) {
        const float4 more = load_from(static_cast<unsigned>(share),
                                      shared.sums() + m * SomeRowsShared::sum_step + n);
        values[0] += more.x, values[1] += more.y, values[2] += more.z, values[3] += more.w;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (first_column + n + j < product.columns)
          write(first_row + m, first_column + n + j, values[j]);
    }
  }
  __device__ void write(int m, int n, float value) const {
    if (product.bias != nullptr) value += product.bias[n];
    if (product.activation != ActivationKind::none) value = activate(product.activation, value);
    if (product.residual != nullptr) value += product.residual[m * product.residual_step + n];
    product.c[m * product.c_step + n] = value;
  }
};

#endif

__global__ void __launch_bounds__(threads, 1)
    multiply_some_rows(const __grid_constant__ SomeRows call) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  extern __shared__ unsigned char memory[];
  const unsigned misplaced = shared_address(memory) % 1024;  // alike in the blocks of a cluster
  auto& shared =
      *reinterpret_cast<SomeRowsShared*>(memory + (misplaced == 0 ? 0 : 1024 - misplaced));
  const int tile = static_cast<int>(blockIdx.y);
  int which = 0;
#pragma unroll
  for (int i = 1; i < static_cast<int>(some_rows_products); ++i)
    if (call.products[i].columns > 0 && tile >= call.products[i].first_tile) which = i;
  const auto& product = call.products[which];
  const int chunks = call.depth / chunk / static_cast<int>(gridDim.x);
  const SomeRowsBlock block{shared,
                            call,
                            product,
                            (tile - product.first_tile) * tile_columns,
                            static_cast<int>(blockIdx.z) * tile_rows,
                            static_cast<int>(blockIdx.x) * chunks * chunk,
                            chunks};
  let_successor_begin();
  block.prefetch();
  wait_for_predecessors();
  block.run();
#endif
}

template <class V>
bool has_pieces(const V& x, int along, int across) {
  constexpr Index size = 16 / Index{sizeof(*x.data())};
  return x.stride(along) == 1 && (x.extent(across) == 1 || x.stride(across) % size == 0) &&
         reinterpret_cast<std::uintptr_t>(x.data()) % 16 == 0;
}
template <class V>
bool has_unit_rows(const V& x) {
  return !x || x.extent(1) == 1 || x.stride(1) == 1;
}
using Call = ssm::Matmul<float, CudaSpace>;

bool is_some_rows(const Call& a) {
  const Index depth = a.a.extent(1), columns = a.c.extent(1);
  constexpr Index most = Index{1} << 22;
  return a.b_bf16 && a.c.extent(0) > 0 && a.c.extent(0) <= some_rows && depth > 0 &&
         depth % chunk == 0 && depth < most && columns > 0 && columns < most && !a.z &&
         !a.accumulate && !a.a_sum && has_pieces(a.a, 1, 0) && has_pieces(a.b_bf16, 0, 1) &&
         has_unit_rows(a.c) && has_unit_rows(a.residual) &&
         (!a.bias || columns == 1 || a.bias.stride(0) == 1);
}
bool reads_same(const Call& a, const Call& b) {
  return a.a.data() == b.a.data() && a.a.extents() == b.a.extents() &&
         a.a.stride(0) == b.a.stride(0);
}

/// Shares of the depth that make the longest of the device's processors end first.
int shares_of(int tiles, int chunks) {
  constexpr int processors = 132, beside = 5;  // chunks that beginning and ending are worth
  int best = 1, least = 0;
  for (int shares = 1; shares <= most_shares; shares *= 2) {
    if (chunks % shares != 0) break;
    const int rounds = (tiles * shares + processors - 1) / processors;
    const int cost = rounds * (chunks / shares + beside);
    if (least != 0 && cost >= least) continue;
    least = cost;
    best = shares;
  }
  return best;
}

bool runs_here() {
  return once_per_device<SomeRows>("matmul", [] {
    int device = 0, major = 0;
    check(cudaGetDevice(&device), "matmul");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "matmul");
    return major == 9;
  });
}

}  // namespace

std::size_t matmul_some_rows(std::span<const Call> products, Stream stream) {
  if (products.empty() || !is_some_rows(products.front()) || !runs_here()) return 0;
  const Call& first = products.front();
  SomeRows all;
  all.a = first.a.data();
  all.a_step = first.a.extent(0) > 1 ? first.a.stride(0) : 0;
  all.rows = static_cast<int>(first.a.extent(0));
  all.depth = static_cast<int>(first.a.extent(1));
  std::size_t count = 0;
  for (const Call& a : products.first(std::min(products.size(), some_rows_products))) {
    if (!is_some_rows(a) || !reads_same(first, a)) break;
    const int columns = static_cast<int>(a.c.extent(1));
    all.products[count++] = {a.b_bf16.data(),
                             a.b_bf16.stride(1),
                             a.bias.data(),
                             a.residual.data(),
                             a.residual ? a.residual.stride(0) : 0,
                             a.c.data(),
                             a.c.stride(0),
                             columns,
                             all.tiles,
                             a.activation};
    all.tiles += (columns + tile_columns - 1) / tile_columns;
  }
  if (all.tiles > 65535) return 0;
  const int shares = shares_of(all.tiles, all.depth / chunk);
  constexpr auto bytes = sizeof(SomeRowsShared) + 1024;
  check(cudaFuncSetAttribute(multiply_some_rows, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "matmul");
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(shares), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shares), static_cast<unsigned>(all.tiles));
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  check(cudaLaunchKernelEx(&config, multiply_some_rows, all), "matmul");
  return count;
}

}  // namespace ssm::cuda::device
