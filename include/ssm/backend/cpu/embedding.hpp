// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/backend/reference/embedding.hpp"
#include "ssm/op/embedding.hpp"

namespace ssm::cpu {

/// ssm::embedding, rows in parallel; its gradient splits the columns, so that every row of the
/// table is summed in order.
template <class Arch>
struct Embedding {
  template <class Ctx, class T>
  static void embedding(Ctx& ctx, const ssm::Embedding<T, typename Ctx::Space>& a) {
    if constexpr (HalfStorage<T>)
      reference::Embedding::embedding(ctx, a);
    else if (a.table_int8)
      scale_rows<T>(ctx.resources().threads(), a);
    else if (a.table_bf16)
      copy_rows<T>(ctx.resources().threads(), a.table_bf16, a);
    else if (a.table_f16)
      copy_rows<T>(ctx.resources().threads(), a.table_f16, a);
    else
      copy_rows<T>(ctx.resources().threads(), a.table, a);
  }

  template <class Ctx, Real T>
  static void embedding_backward(Ctx& ctx,
                                 const ssm::EmbeddingBackward<T, typename Ctx::Space>& g) {
    constexpr Index lanes = lane_count<T, Arch>;
    const Rows<const T, Arch> dy(g.dy);
    const Rows<T, Arch> dtable(g.dtable);
    const Index width = g.dy.extent(1);
    const Index grain = std::max<Index>(1, 4096 / std::max<Index>(1, g.dy.extent(0)));
    parallel(ctx.resources().threads(), (width + lanes - 1) / lanes, grain, [&](Range range, int) {
      for (Index m = 0; m < g.dy.extent(0); ++m)
        for (Index piece = range.begin; piece < range.end; ++piece) {
          const Index d = piece * lanes;
          const Index count = std::min(lanes, width - d);
          const Index row = g.tokens(m);
          dtable.store(row, d, count, dtable.load(row, d, count) + dy.load(m, d, count));
        }
    });
  }

 private:
  template <class T, class Table>
  static void copy_rows(const Threads& threads, const Table& table,
                        const ssm::Embedding<T, HostSpace>& a) {
    const Rows<T, Arch> y(a.y);
    parallel_pieces(threads, a.y.extent(0), a.y.extent(1), lane_count<T, Arch>,
                    [&](Index m, Index d, Index count) {
                      const auto* row = table.data() + a.tokens(m) * table.stride(0);
                      y.store(m, d, count,
                              gather<T, Arch>(row + d * table.stride(1), table.stride(1), count));
                    });
  }
  template <class T>
  static void scale_rows(const Threads& threads, const ssm::Embedding<T, HostSpace>& a) {
    const Rows<T, Arch> y(a.y);
    const auto& table = a.table_int8;
    parallel_pieces(
        threads, a.y.extent(0), a.y.extent(1), lane_count<T, Arch>,
        [&](Index m, Index d, Index count) {
          const std::int8_t* row = table.data() + a.tokens(m) * table.stride(0);
          const Batch<T, Arch> scale(static_cast<T>(a.table_scale(a.tokens(m))));
          y.store(m, d, count,
                  scale * gather<T, Arch>(row + d * table.stride(1), table.stride(1), count));
        });
  }
};

}  // namespace ssm::cpu
