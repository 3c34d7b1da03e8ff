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
/// Of the depth, the blocks of a cluster; of larger ones fewer blocks are resident.
constexpr int most_shares = 4;

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
  const BFloat16* rows_in_parts = nullptr;  // [parts, rows, depth]
  int rows = 0, depth = 0, tiles = 0;
  SomeRowsProduct products[some_rows_products];
};

struct alignas(1024) SomeRowsShared {
  static constexpr int sum_step = tile_columns + 4;  // apart from other banks
  BFloat16 weights[stages][tile_columns * chunk];    // panels of 64 rows
  BFloat16 rows[stages][parts][tile_rows * chunk];
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
  int first_column, begin, chunks;  // begin: of the depth

  __device__ int last_column(int n) const { return n < product.columns ? n : product.columns - 1; }

  __device__ void prefetch() const {
    for (int i = static_cast<int>(threadIdx.x); i < tile_columns * chunks; i += threads) {
      const int n = first_column + i / chunks;
      if (n < product.columns)
        device::prefetch(product.weights + n * product.step + begin + i % chunks * chunk);
    }
  }
  /// A thread copies 16 bytes of every 32nd row of a tile.
  static constexpr int rows_a_copy = threads / (chunk / 8);
  struct Copies {
    const BFloat16* weights[tile_columns / rows_a_copy];
    const BFloat16* rows[tile_rows / rows_a_copy];
    bool is_there[tile_rows / rows_a_copy];
    int place;  // in a tile
  };
  __device__ Copies begin_copies() const {
    const int n = static_cast<int>(threadIdx.x) / (chunk / 8),
              piece = static_cast<int>(threadIdx.x) % (chunk / 8);
    Copies copies;
    copies.place = n * chunk + (piece ^ n % 8) * 8;
#pragma unroll
    for (int j = 0; j < tile_columns / rows_a_copy; ++j)
      copies.weights[j] = product.weights +
                          last_column(first_column + n + j * rows_a_copy) * product.step + begin +
                          piece * 8;
#pragma unroll
    for (int j = 0; j < tile_rows / rows_a_copy; ++j) {
      const int row = n + j * rows_a_copy;
      copies.is_there[j] = row < call.rows;
      copies.rows[j] = call.rows_in_parts +
                       static_cast<std::int64_t>(copies.is_there[j] ? row : 0) * call.depth +
                       begin + piece * 8;
    }
    return copies;
  }
  __device__ void copy_weights(const Copies& copies, int number) const {
    const unsigned to = shared_address(shared.weights[number % stages] + copies.place);
#pragma unroll
    for (int j = 0; j < tile_columns / rows_a_copy; ++j)
      copy_run_async(to + j * rows_a_copy * chunk * 2, copies.weights[j] + number * chunk);
  }
  __device__ void copy_rows(const Copies& copies, int number) const {
    const std::int64_t next_part = static_cast<std::int64_t>(call.rows) * call.depth;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      const unsigned to = shared_address(shared.rows[number % stages][part] + copies.place);
#pragma unroll
      for (int j = 0; j < tile_rows / rows_a_copy; ++j)
        copy_run_async(to + j * rows_a_copy * chunk * 2,
                       copies.rows[j] + part * next_part + number * chunk, copies.is_there[j]);
    }
  }
  /// A group of copies, empty behind the last chunk.
  __device__ void copy(const Copies& copies, int number) const {
    if (number < chunks) {
      copy_weights(copies, number);
      copy_rows(copies, number);
    }
    commit_copies();
  }
  /// sums[n, m] += the products of a chunk: the smallest parts first.
  __device__ void multiply(int number, float (&sums)[8][4]) const {
    const auto a = describe_panels(
        shared.weights[number % stages] + static_cast<int>(threadIdx.x) / 128 * 64 * chunk, 16);
    hold(sums);
    begin_products();
#pragma unroll
    for (int part = parts - 1; part >= 0; --part) {
      const auto b = describe_panels(shared.rows[number % stages][part], 16);
#pragma unroll
      for (int step = 0; step < chunk / 16; ++step)
        multiply_shared<BFloat16, 8>(sums, a + 2 * step, b + 2 * step, true);
    }
    end_products();
    hold(sums);
  }

  __device__ void run() const {
    float sums[8][4] = {};
    const Copies copies = begin_copies();
#pragma unroll
    for (int i = 0; i + 1 < stages; ++i) copy(copies, i);
    for (int i = 0; i < chunks; ++i) {
      wait_for_groups<stages - 2>();
      show_copies_to_products();
      __syncthreads();
      multiply(i, sums);
      copy(copies, i + stages - 1);
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
      if (m >= call.rows) break;
      float values[4] = {};
      for (int share = 0; share < shares; ++share) {
        const float4 more = load_from(static_cast<unsigned>(share),
                                      shared.sums() + m * SomeRowsShared::sum_step + n);
        values[0] += more.x, values[1] += more.y, values[2] += more.z, values[3] += more.w;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (first_column + n + j < product.columns) write(m, first_column + n + j, values[j]);
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
  constexpr Index most = Index{1} << 21;  // columns of as many tiles as a grid has
  return a.b_bf16 && a.c.extent(0) > 0 && a.c.extent(0) <= some_rows && depth > 0 &&
         depth % chunk == 0 && depth < most && columns > 0 && columns < most && !a.z &&
         !a.accumulate && !a.a_sum && has_pieces(a.b_bf16, 0, 1) &&
         (columns == 1 || a.b_bf16.stride(1) >= depth) && has_unit_rows(a.c) &&
         has_unit_rows(a.residual) && (!a.bias || columns == 1 || a.bias.stride(0) == 1);
}
bool reads_same(const Call& a, const Call& b) {
  return a.a.data() == b.a.data() && a.a.extents() == b.a.extents() &&
         a.a.stride(0) == b.a.stride(0) && a.a.stride(1) == b.a.stride(1);
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

std::size_t count_some_rows(std::span<const Call> products) {
  std::size_t count = 0;
  while (count < std::min(products.size(), some_rows_products) && is_some_rows(products[count]) &&
         reads_same(products.front(), products[count]))
    ++count;
  return count > 0 && runs_here() ? count : 0;
}

void matmul_some_rows(std::span<const Call> products, const BFloat16* rows_in_parts,
                      Stream stream) {
  SomeRows all;
  all.rows_in_parts = rows_in_parts;
  all.rows = static_cast<int>(products.front().a.extent(0));
  all.depth = static_cast<int>(products.front().a.extent(1));
  std::size_t count = 0;
  for (const Call& a : products) {
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
}

}  // namespace ssm::cuda::device
