// SPDX-License-Identifier: Apache-2.0
#pragma once

// Sums over the rows of matrices, for every column: gradients of biases and of weights of norms.

#include "kernel/packs.cuh"
#include "ssm/backend/cuda/column_slices.hpp"

namespace ssm::cuda::device {

/// Sums of a slice of rows. Summands: summands(row, first column, count, S (&values)[Sums][N])
/// gives those of one run, zero beyond `count`. Summands that also write have a type Ahead, into
/// which ask(row, first column, ahead) reads what they need of several rows before any is written;
/// then it is summands(row, first column, ahead, values). All their runs are of N.
/// S   the scalar of sums of a few rows
template <int Sums, int N, class S, class Partial, class Summands>
struct SliceOfRows {
  static constexpr int lanes = 32;  // runs of a block
  static constexpr int groups = 8;  // of rows, which take turns
  static constexpr bool asks = requires { typename Summands::Ahead; };
  static constexpr int together = (asks ? 2 : 4) / Sums;  // rows on their way at a time
  static constexpr int resident = asks ? 4 : 3;           // blocks of a multiprocessor

  Index rows;
  RowRuns<N> runs;
  ColumnSlices slices;
  Partial* partial;
  Summands summands;

  SSM_HOST_DEVICE Partial& sum(int which, Index slice, Index column) const {
    return partial[(which * slices.count + slice) * runs.width + column];
  }
  SSM_HOST_DEVICE Index end(Index slice) const {
    const Index after = (slice + 1) * slices.length;
    return after < rows ? after : rows;
  }
  /// Adds the run of `Rows` rows, from row m on in steps of `step`.
  template <int Rows, class Count>
  SSM_DEVICE void add_rows(Index m, Index step, Index column, Count count,
                           S (&totals)[Sums][N]) const {
    S values[Rows][Sums][N];
    if constexpr (asks) {
      typename Summands::Ahead ahead[Rows];
      SSM_UNROLL
      for (int t = 0; t < Rows; ++t) summands.ask(m + t * step, column, ahead[t]);
      SSM_UNROLL
      for (int t = 0; t < Rows; ++t) summands(m + t * step, column, ahead[t], values[t]);
    } else {
      SSM_UNROLL
      for (int t = 0; t < Rows; ++t) summands(m + t * step, column, count, values[t]);
    }
    SSM_UNROLL
    for (int t = 0; t < Rows; ++t) SSM_UNROLL
    for (int s = 0; s < Sums; ++s) SSM_UNROLL
    for (int i = 0; i < N; ++i) totals[s][i] += values[t][s][i];
  }
};

#ifdef __CUDACC__

/// A block adds a slice: a warp takes every eighth row, in order; then the sums of the warps are
/// added in order.
template <class Slice, int Sums, int N, class S, class Partial>
__global__ void __launch_bounds__(256, Slice::resident) sum_slice_kernel(Slice a) {
  let_successor_begin();
  wait_for_predecessors();
  constexpr int groups = Slice::groups, together = Slice::together;
  const int lane = static_cast<int>(threadIdx.x % Slice::lanes);
  const int group = static_cast<int>(threadIdx.x / Slice::lanes);
  const Index first_run = Index{blockIdx.x} * Slice::lanes;
  const Index run = first_run + lane;
  const Index slice = gridDim.y - 1 - blockIdx.y;  // the rows written last are still in the cache
  const Index end = a.end(slice);
  S totals[Sums][N] = {};
  if (run < a.runs.count()) {
    const Index column = a.runs.first(run);
    const auto add = [&](auto count) {
      Index m = slice * a.slices.length + group;
#pragma unroll 1
      for (; m + (together - 1) * groups < end; m += together * groups)
        a.template add_rows<together>(m, groups, column, count, totals);
#pragma unroll 1
      for (; m < end; m += groups) a.template add_rows<1>(m, groups, column, count, totals);
    };
    if constexpr (Slice::asks)
      add(std::integral_constant<Index, N>());
    else
      with_full_run<N>(a.runs.size(run), add);
  }
  __shared__ Partial shared[groups][N * Slice::lanes];
  SSM_UNROLL
  for (int s = 0; s < Sums; ++s) {
    SSM_UNROLL
    for (int i = 0; i < N; ++i)
      shared[group][i * Slice::lanes + lane] = static_cast<Partial>(totals[s][i]);
    __syncthreads();
    // A warp adds the i-th numbers of all runs.
    if (group < N && run < a.runs.count() && group < a.runs.size(run)) {
      Partial total = 0;
      SSM_UNROLL
      for (int g = 0; g < groups; ++g) total += shared[g][threadIdx.x];
      a.sum(s, slice, a.runs.first(run) + group) = total;
    }
    __syncthreads();
  }
}

/// Sums of slices, [sums, count, width].
template <class Partial>
struct SlicedSums {
  const Partial* partial;
  Index count, width;
};
/// A block adds the slices of 32 columns, every Groups-th in order, and then these sums in order.
template <int Groups, class Partial, class Finish>
__global__ void __launch_bounds__(32 * Groups)
    join_slices_kernel(SlicedSums<Partial> a, Finish finish) {
  let_successor_begin();
  wait_for_predecessors();
  constexpr int together = 9;  // loads on their way at a time
  const int lane = static_cast<int>(threadIdx.x % 32), group = static_cast<int>(threadIdx.x / 32);
  const Index column = Index{blockIdx.x} * 32 + lane;
  const int which = static_cast<int>(blockIdx.y);
  Partial own = 0;
  if (column < a.width)
    for (Index slice = group; slice < a.count; slice += together * Groups) {
      Partial values[together];
      SSM_UNROLL
      for (int i = 0; i < together; ++i) {
        const Index at = slice + i * Groups;
        values[i] = at < a.count ? a.partial[(which * a.count + at) * a.width + column] : 0;
      }
      SSM_UNROLL
      for (int i = 0; i < together; ++i) own += values[i];
    }
  __shared__ Partial shared[Groups][32];
  shared[group][lane] = own;
  __syncthreads();
  if (group > 0 || column >= a.width) return;
  Partial total = 0;
  SSM_UNROLL
  for (int g = 0; g < Groups; ++g) total += shared[g][lane];
  finish(which, column, total);
}
/// finish(which, column, the sum of the slices) for every column of `sums` sums.
template <class Partial, class Finish>
void join_slices(const SlicedSums<Partial>& slices, int sums, Stream stream, const char* operation,
                 Finish finish) {
  const auto launch = [&](auto groups) {
    struct Name {};
    launch_early<Name>(
        join_slices_kernel<groups(), Partial, Finish>,
        dim3(static_cast<unsigned>((slices.width + 31) / 32), static_cast<unsigned>(sums)),
        32 * groups(), stream, operation, slices, finish);
  };
  if (slices.count > 256)
    launch(std::integral_constant<int, 32>());
  else
    launch(std::integral_constant<int, 8>());
}

#endif

/// finish(which, column, Σ_{m < rows} of the summands) for every column of a row and every one of
/// `Sums` sums, in an order that depends on `rows` alone.
/// partial   [Sums, column_slices(rows).count, width]   scratch
template <int Sums, class S, class Partial, int N, class Summands, class Finish>
void column_sums(Index rows, const RowRuns<N>& runs, Partial* partial, Stream stream,
                 const char* operation, Summands summands, Finish finish) {
  using Slice = SliceOfRows<Sums, N, S, Partial, Summands>;
  const Slice slice{rows, runs, column_slices(rows), partial, summands};
  if (runs.width == 0) return;
#ifdef __CUDACC__
  if (rows > 0)
    launch_early<Slice>(sum_slice_kernel<Slice, Sums, N, S, Partial>,
                        dim3(static_cast<unsigned>((runs.count() + 31) / 32),
                             static_cast<unsigned>(slice.slices.count)),
                        256, stream, operation, slice);
  join_slices(SlicedSums<Partial>{partial, slice.slices.count, runs.width}, Sums, stream, operation,
              finish);
#else
  (void)stream, (void)operation;
  for (Index run = 0; run < runs.count(); ++run) {
    const Index column = runs.first(run), count = runs.size(run);
    Partial totals[Sums][N] = {};
    for (Index part = 0; part < slice.slices.count; ++part) {
      S sums[Sums][N] = {};
      for (Index m = part * slice.slices.length; m < slice.end(part); ++m)
        slice.template add_rows<1>(m, 1, column, count, sums);
      for (int s = 0; s < Sums; ++s)
        for (int i = 0; i < N; ++i) totals[s][i] += static_cast<Partial>(sums[s][i]);
    }
    for (int s = 0; s < Sums; ++s)
      for (Index i = 0; i < count; ++i) finish(s, column + i, totals[s][i]);
  }
#endif
}

}  // namespace ssm::cuda::device
