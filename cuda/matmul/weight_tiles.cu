// SPDX-License-Identifier: Apache-2.0
#include "kernel/column_sums.cuh"
#include "kernel/packs.cuh"
#include "matmul/tile_product.cuh"
#include "ssm/backend/cuda/matmul.hpp"

namespace ssm::cuda {
namespace device {

// Gradients of the weights of two maps in one kernel: where their tiles together fill the device in
// one round, and those of each alone leave a part of it idle. A block has one tile of 192 × 96,
// whose rows three warpgroups share. For sm_90a only.

struct WeightTile {
  static constexpr int Groups = 3, Rows = 64 * Groups, Columns = 96, Depth = 64, Stages = 5;
  static constexpr int Cluster = 2;  // blocks of one range of columns
  static constexpr int threads = 128 * (Groups + 1);
  static constexpr int panel = 64 * 64 * 2;  // bytes
  static constexpr int left_panels = Groups, right_panels = 2;
  static constexpr int stage = (left_panels + right_panels) * panel;
};

/// dweight [rows, columns] of one map, and the sums of dy that belong to its bias.
struct WeightProblem {
  MatrixMap dy, x;
  float* dweight;
  float* partial;  // [tiles of columns, rows] of sums over a part of the inner axis, or null
  Index step;
  int rows, columns, inner;
  bool adds;

  SSM_HOST_DEVICE int column_tiles() const {
    return (columns + WeightTile::Columns - 1) / WeightTile::Columns;
  }
  SSM_HOST_DEVICE int clusters() const {
    constexpr int together = WeightTile::Cluster * WeightTile::Rows;
    return (rows + together - 1) / together * column_tiles();
  }
};
struct WeightProblems {
  WeightProblem maps[2];
};

namespace {

template <class T>
__global__ void __launch_bounds__(WeightTile::threads, 1)
    weight_tile_kernel(const __grid_constant__ WeightProblems problems) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Tile = WeightTile;
  extern __shared__ __align__(1024) unsigned char panels[];
  __shared__ __align__(1024) unsigned short ones[8 * 64];
  __shared__ SharedBarrier full[Tile::Stages], empty[Tile::Stages];
  let_successor_begin();
  const int group = alike_in_warp(static_cast<int>(threadIdx.x / 128));
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int rank = static_cast<int>(blockIdx.x % Tile::Cluster);
  int cluster = static_cast<int>(blockIdx.x / Tile::Cluster);
  const bool is_second = cluster >= problems.maps[0].clusters();
  if (is_second) cluster -= problems.maps[0].clusters();
  const WeightProblem& a = problems.maps[is_second ? 1 : 0];
  const int column_tile = cluster % a.column_tiles(), column = column_tile * Tile::Columns;
  const int row = (cluster / a.column_tiles() * Tile::Cluster + rank) * Tile::Rows;
  const int depth = (a.inner + Tile::Depth - 1) / Tile::Depth;
  for (int i = static_cast<int>(threadIdx.x); i < 8 * 64; i += Tile::threads)
    ones[i] = std::is_same_v<T, BFloat16> ? 0x3f80 : 0x3c00;
  show_copies_to_products();
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::Stages; ++i) {
      start(full[i], 1);
      start(empty[i], 4 * Tile::Groups * Tile::Cluster);
    }
    show_barriers();
  }
  __syncthreads();
  meet_cluster();
  wait_for_predecessors();
  if (group == 0) {
    shrink_registers<32>();
    if (threadIdx.x == 0) {
#pragma unroll 1
      for (int k = 0; k < depth; ++k) {
        const int stage = k % Tile::Stages, round = k / Tile::Stages;
        if (round > 0) wait_for_phase(empty[stage], static_cast<unsigned>(round - 1));
        expect(full[stage], Tile::stage);
        unsigned char* const to = panels + stage * Tile::stage;
#pragma unroll
        for (int i = 0; i < Tile::left_panels; ++i)
          copy_panel<1>(to + i * Tile::panel, a.dy, row + 64 * i, k * Tile::Depth, full[stage]);
        // A panel for both blocks by each of them.
        copy_panel<Tile::Cluster>(to + (Tile::left_panels + rank) * Tile::panel, a.x,
                                  column + 64 * rank, k * Tile::Depth, full[stage]);
      }
    }
  } else {
    grow_registers<160>();
    constexpr int step = 2048 >> 4;  // 16 rows of a panel, in the units of a description
    float sums[Tile::Columns / 8][4], bias[1][4];
    int stage = 0;
    unsigned round = 0;
    const auto release = [&](int of) {
      if (lane < Tile::Cluster) arrive_at(empty[of], lane);
    };
    // The tiles of a range of rows sum a part of the inner axis each for the bias.
    const bool has_bias = a.partial != nullptr;
    const int begin = has_bias ? column_tile * depth / a.column_tiles() : 0;
    const int end = has_bias ? (column_tile + 1) * depth / a.column_tiles() : 0;
    const auto add = [&](int k, auto sums_dy) {
      wait_for_phase(full[stage], round);
      const unsigned char* const from = panels + stage * Tile::stage;
      const auto left = describe_panels(from + (group - 1) * Tile::panel, Tile::panel);
      const auto right = describe_panels(from + Tile::left_panels * Tile::panel, Tile::panel);
      hold(sums);
      if constexpr (sums_dy()) hold(bias);
      begin_products();
#pragma unroll
      for (int i = 0; i < Tile::Depth / 16; ++i) {
        multiply_both_transposed<T>(sums, left + i * step, right + i * step, k > 0 || i > 0);
        if constexpr (sums_dy())
          multiply_left_transposed<T>(bias, left + i * step, describe_panels(ones, 1024),
                                      k > begin || i > 0);
      }
      end_products();
      hold(sums);
      if constexpr (sums_dy()) hold(bias);
      if (k > 0) {
        wait_for_products<1>();
        release(stage == 0 ? Tile::Stages - 1 : stage - 1);
      }
      if (++stage == Tile::Stages) stage = 0, ++round;
    };
    int k = 0;
#pragma unroll 1
    for (; k < begin; ++k) add(k, std::false_type());
    wait_for_products<0>();
    hold(sums);
#pragma unroll 1
    for (; k < end; ++k) add(k, std::true_type());
    wait_for_products<0>();
    hold(sums);
    hold(bias);
#pragma unroll 1
    for (; k < depth; ++k) add(k, std::false_type());
    wait_for_products<0>();
    hold(sums);
    const int warp = static_cast<int>(threadIdx.x / 32 % 4);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int m = row + 64 * (group - 1) + 16 * warp + lane / 4 + 8 * r;
      if (m >= a.rows) continue;
      if (has_bias && lane % 4 == 0)
        a.partial[Index{column_tile} * a.rows + m] = begin < end ? bias[0][2 * r] : 0;
      float* const to = a.dweight + m * a.step;
#pragma unroll
      for (int n = 0; n < Tile::Columns / 8; ++n) {
        const int at = column + 8 * n + lane % 4 * 2;
        if (at >= a.columns) continue;
        float2 values{sums[n][2 * r], sums[n][2 * r + 1]};
        float2& target = *reinterpret_cast<float2*>(to + at);
        if (a.adds) values.x += target.x, values.y += target.y;
        target = values;
      }
    }
  }
  __syncwarp();
  meet_cluster();  // before a block ends whose barriers others arrive at
#endif
}

/// False where the map is not for these tiles, or the driver refuses.
template <class T>
bool describe(WeightProblem& to, const ssm::WeightGradient<T, CudaSpace>& a) {
  constexpr Index most = Index{1} << 24;
  const Index inner = a.dy.extent(0), rows = a.dy.extent(1), columns = a.x.extent(1);
  if (inner == 0 || inner >= most || rows == 0 || rows >= most || columns == 0 || columns >= most ||
      columns % 8 != 0 || !has_packs(a.dy) || !has_packs(a.x) || !has_packs(a.dweight))
    return false;
  to.dweight = a.dweight.data();
  to.step = a.dweight.stride(0);
  to.rows = static_cast<int>(rows), to.columns = static_cast<int>(columns);
  to.inner = static_cast<int>(inner);
  to.adds = a.accumulate;
  return describe_matrix(to.dy, a.dy.data(), inner, rows, a.dy.stride(0)) &&
         describe_matrix(to.x, a.x.data(), inner, columns, a.x.stride(0));
}

}  // namespace
}  // namespace device

template <class T>
bool weight_gradients(const ssm::WeightGradient<T, CudaSpace>& first,
                      const ssm::WeightGradient<T, CudaSpace>& second, float* partial,
                      Stream stream) {
  using namespace device;
  constexpr const char* operation = "weight_gradients";
  const auto kernel = weight_tile_kernel<T>;
  struct Name {};
  if (!has_shared_barriers<Name>(kernel, operation)) return false;
  WeightProblems problems{};
  const ssm::WeightGradient<T, CudaSpace>* const calls[] = {&first, &second};
  int blocks = 0;
  for (int i = 0; i < 2; ++i) {
    WeightProblem& problem = problems.maps[i];
    if (!describe(problem, *calls[i])) return false;
    blocks += WeightTile::Cluster * problem.clusters();
    if (calls[i]->dbias) problem.partial = partial;
    partial += problem.column_tiles() * problem.rows;
  }
  const int most = multiprocessors(operation);
  if (blocks > most || blocks < most / 8 * 7) return false;
  launch_early<Name>(kernel, dim3(static_cast<unsigned>(blocks)),
                     {WeightTile::threads, std::size_t{WeightTile::Stages} * WeightTile::stage,
                      WeightTile::Cluster},
                     stream, operation, problems);
  for (int i = 0; i < 2; ++i) {
    const WeightProblem& problem = problems.maps[i];
    if (problem.partial == nullptr) continue;
    const auto dbias = operand(calls[i]->dbias);
    join_slices(SlicedSums<float>{problem.partial, problem.column_tiles(), problem.rows}, 1, stream,
                operation, [=] SSM_DEVICE(int, Index n, float total) { dbias(n) += total; });
  }
  return true;
}
#define SSM_INSTANTIATE(T)                                                                         \
  template SSM_CUDA_API bool weight_gradients<T>(const ssm::WeightGradient<T, CudaSpace>&,         \
                                                 const ssm::WeightGradient<T, CudaSpace>&, float*, \
                                                 Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
