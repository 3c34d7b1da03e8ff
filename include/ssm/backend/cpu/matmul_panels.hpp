// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/matmul_epilogue.hpp"
#include "ssm/backend/cpu/panel_product.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm::cpu {

/// Matmul of operands with any strides: panels of a (`height` rows) and of b (`width` columns) are
/// copied so that the kernel reads both in order; the columns of c lie in lanes, the rows of a are
/// broadcast.
template <class T, class Arch>
class MatmulPanels {
 public:
  static void run(const Threads& threads, Workspace<HostSpace>& workspace,
                  const ssm::Matmul<T, HostSpace>& a) {
    const Index rows = a.c.extent(0), columns = a.c.extent(1), depth = a.a.extent(1);
    const Index row_panels = (rows + height - 1) / height;
    const Index column_panels = (columns + width - 1) / width;
    const Index slice = std::min(depth, max_depth);
    auto frame = workspace.frame();
    const auto left = frame.template tensor<T>(row_panels, slice, height);
    const auto right = frame.template tensor<T>(column_panels, slice, width);
    // A plain sum grows in c itself. Before an activation the slices' sums wait in c, or apart from
    // what c holds.
    const bool plain = a.activation == ActivationKind::none && !a.z;
    const auto partial = plain || depth <= max_depth ? View<T, 2>()
                         : a.accumulate              ? frame.template tensor<T>(rows, columns)
                                                     : a.c;
    const Index work = rows * columns * slice;
    const Threads used = threads.at_most(work < 65536 ? 1 : threads);
    for (Index k = 0; k == 0 || k < depth; k += max_depth) {
      const Index here = std::min(max_depth, depth - k);
      parallel(used, row_panels + column_panels, 1, [&](Range range, int) {
        for (Index i = range.begin; i < range.end; ++i)
          if (i < row_panels)
            pack<height>(a.a.transpose(0, 1), k, here, i * height, &left(i, 0, 0));
          else
            pack_columns(a, k, here, (i - row_panels) * width, &right(i - row_panels, 0, 0));
      });
      const Pass pass{.first = k == 0, .last = k + here >= depth, .depth = here};
      auto step = a;
      if (plain && !pass.first) step.accumulate = true;
      if (plain && !pass.last) {
        step.bias = {};
        step.residual = {};
      }
      const bool split_columns = column_panels >= row_panels || column_panels >= 8 * used;
      parallel(used, split_columns ? column_panels : row_panels, 1, [&](Range range, int) {
        const Range all_rows{0, row_panels}, all_columns{0, column_panels};
        multiply(step, left, right, partial, pass, split_columns ? all_rows : range,
                 split_columns ? range : all_columns);
      });
    }
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr int registers_wide = 2;
  static constexpr int height =
      sizeof(Register) == 64 ? 12 : 6;  // 32 registers with AVX-512, else 16
  static constexpr Index width = registers_wide * lanes;
  static constexpr Index max_depth = 256;  // a panel of b and one of a share the first-level cache

  struct Pass {
    bool first;
    bool last;
    Index depth;
  };

  /// The panel of b from column `first` on, whatever form it is kept in.
  static void pack_columns(const ssm::Matmul<T, HostSpace>& a, Index begin, Index depth,
                           Index first, T* to) {
    if (a.b) return pack<width>(a.b, begin, depth, first, to);
    T columns[width * max_depth];
    const Index count = std::min(width, a.c.extent(1) - first);
    if (a.b_bf16)
      unpack(a.b_bf16, begin, depth, first, count, columns);
    else if (a.b_f16)
      unpack(a.b_f16, begin, depth, first, count, columns);
    else
      unpack(a.b_int8, begin, depth, first, count, columns);
    for (Index i = 0; a.b_int8 && i < count; ++i)
      for (Index k = 0; k < depth; ++k)
        columns[i * max_depth + k] *= static_cast<T>(a.b_scale(first + i));
    const View<const T, 2> view(columns, {depth, count}, {1, max_depth});
    pack<width>(view, 0, depth, 0, to);
  }

  /// to[i·max_depth + k] = view(begin + k, first + i), in the scalar of the call.
  template <class Source>
  static void unpack(const View<const Source, 2>& view, Index begin, Index depth, Index first,
                     Index count, T* to) {
    for (Index i = 0; i < count; ++i)
      for (Index k = 0; k < depth; ++k)
        to[i * max_depth + k] = scalar_cast<T>(view(begin + k, first + i));
  }

  /// to[k][i] = view(begin + k, first + i) for k < depth and i < Size; columns that the view lacks
  /// become zero.
  template <Index Size>
  static void pack(const View<const T, 2>& view, Index begin, Index depth, Index first, T* to) {
    const Index depth_stride = view.stride(0), stride = view.stride(1);
    const T* from = view.data() + begin * depth_stride + first * stride;
    const Index count = std::min(Size, view.extent(1) - first);
    if (count < Size) std::fill_n(to, depth * Size, T{0});
    if (stride == 1 && count == Size) {
      for (Index k = 0; k < depth; ++k)
        for (Index i = 0; i < Size; ++i) to[k * Size + i] = from[k * depth_stride + i];
      return;
    }
    constexpr Index tile =
        16;  // positions of the depth whose cache lines are used up before going on
    for (Index k = 0; k < depth; k += tile) {
      const Index end = std::min(depth, k + tile);
      for (Index i = 0; i < count; ++i)
        for (Index j = k; j < end; ++j) to[j * Size + i] = from[i * stride + j * depth_stride];
    }
  }

  /// The tiles of c in a range of row panels and of column panels; blocks of row panels stay in the
  /// second-level cache.
  static void multiply(const ssm::Matmul<T, HostSpace>& a, const View<T, 3>& left,
                       const View<T, 3>& right, const View<T, 2>& partial, Pass pass,
                       Range row_panels, Range column_panels) {
    constexpr Index block = 24;
    alignas(64) T tile[height * width];
    for (Index first = row_panels.begin; first < row_panels.end; first += block)
      for (Index j = column_panels.begin; j < column_panels.end; ++j)
        for (Index i = first; i < std::min(row_panels.end, first + block); ++i) {
          multiply_panels(&left(i, 0, 0), &right(j, 0, 0), pass.depth, tile);
          finish_tile(a, partial, pass, i * height, j * width, tile);
        }
  }

  static void multiply_panels(const T* left, const T* right, Index depth, T* tile) {
    constexpr int registers = height * registers_wide;
    Register sums[registers];
    expanded<registers>([&](auto... i) { ((sums[i] = Register(T{0})), ...); });
    add_panel_product<int{height}, registers_wide, T, Arch>(
        left, std::integral_constant<Index, 1>{}, std::integral_constant<Index, height>{}, right,
        std::integral_constant<Index, width>{}, depth, sums);
    expanded<registers>([&](auto... i) { (sums[i].store_aligned(tile + i * lanes), ...); });
  }

  static void finish_tile(const ssm::Matmul<T, HostSpace>& a, const View<T, 2>& partial, Pass pass,
                          Index m, Index n, T* tile) {
    const MatmulEpilogue<T, Arch> epilogue(a);
    const Index rows = std::min<Index>(height, a.a.extent(0) - m);
    const Index columns = std::min(width, a.c.extent(1) - n);
    for (Index i = 0; i < rows; ++i) {
      T* sums = tile + i * width;
      if (partial && !pass.first)
        for (Index j = 0; j < columns; ++j) sums[j] += partial(m + i, n + j);
      if (!partial || pass.last)
        epilogue.finish(m + i, n, columns, sums);
      else
        for (Index j = 0; j < columns; ++j) partial(m + i, n + j) = sums[j];
    }
  }
};

}  // namespace ssm::cpu
