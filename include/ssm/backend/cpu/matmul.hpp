// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/matmul_few_rows.hpp"
#include "ssm/backend/cpu/matmul_panels.hpp"
#include "ssm/backend/cpu/parallel.hpp"

namespace ssm::cpu {

/// ssm::matmul: packed panels and a register-blocked kernel, with the epilogue applied while a tile
/// is in the cache. A slice of the depth at a time is packed by all threads, then the tiles of c
/// are shared out.
/// Source  Goto & van de Geijn 2008; Van Zee & van de Geijn 2015 (BLIS)
template <class Arch>
struct Matmul {
  template <class Ctx, Real T>
  static void matmul(Ctx& ctx, const ssm::Matmul<T, typename Ctx::Space>& a) {
    const Threads threads = ctx.resources().threads();
    if (a.a_sum) add_row_sums(threads, a.a, a.a_sum);
    if (MatmulFewRows<T, Arch>::applies(a)) return MatmulFewRows<T, Arch>::run(threads, a);
    const Index rows = a.c.extent(0);
    const Index columns = a.c.extent(1);
    constexpr Index block = 3072;  // rows or columns whose slices are packed at once
    for (Index n = 0; n < columns; n += block)
      for (Index m = 0; m < rows; m += block)
        MatmulPanels<T, Arch>::run(
            threads, ctx.workspace(),
            part(a, m, std::min(rows, m + block), n, std::min(columns, n + block)));
  }

 private:
  template <class T>
  static ssm::Matmul<T, HostSpace> part(ssm::Matmul<T, HostSpace> a, Index m, Index m_end, Index n,
                                        Index n_end) {
    a.a = a.a.slice(0, m, m_end);
    if (a.b) a.b = a.b.slice(1, n, n_end);
    if (a.b_bf16) a.b_bf16 = a.b_bf16.slice(1, n, n_end);
    if (a.b_f16) a.b_f16 = a.b_f16.slice(1, n, n_end);
    if (a.b_int8) a.b_int8 = a.b_int8.slice(1, n, n_end);
    if (a.b_scale) a.b_scale = a.b_scale.slice(0, n, n_end);
    if (a.bias) a.bias = a.bias.slice(0, n, n_end);
    if (a.residual) a.residual = a.residual.slice(0, m, m_end).slice(1, n, n_end);
    a.c = a.c.slice(0, m, m_end).slice(1, n, n_end);
    if (a.z) a.z = a.z.slice(0, m, m_end).slice(1, n, n_end);
    return a;
  }

  /// sums[m] += Σ_k a[m,k], a register of rows at a time where the rows are contiguous in memory.
  template <class T>
  static void add_row_sums(const Threads& threads, const View<const T, 2, HostSpace>& a,
                           const View<T, 1, HostSpace>& sums) {
    constexpr Index lanes = lane_count<T, Arch>;
    const Index depth = a.extent(1);
    const bool along_rows = a.stride(0) == 1;
    const Index step = along_rows ? lanes : 1;
    const Rows<const T, Arch> columns(along_rows ? a.transpose(0, 1) : a);
    const Rows<T, Arch> out(sums);
    const Index grain = std::max<Index>(1, 16384 / std::max<Index>(1, depth));
    parallel(threads, (a.extent(0) + step - 1) / step, grain, [&](Range range, int) {
      for (Index i = range.begin; i < range.end; ++i) {
        Batch<T, Arch> sum(T{0});
        if (along_rows) {
          const Index count = std::min(lanes, a.extent(0) - i * lanes);
          for (Index k = 0; k < depth; ++k) sum += columns.load(k, i * lanes, count);
          out.store(0, i * lanes, count, out.load(0, i * lanes, count) + sum);
        } else {
          for (Index k = 0; k < depth; k += lanes)
            sum += columns.load(i, k, std::min(lanes, depth - k));
          sums(i) += sum_of_lanes(sum);
        }
      }
    });
  }
};

}  // namespace ssm::cpu
