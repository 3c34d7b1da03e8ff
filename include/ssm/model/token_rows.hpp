// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "ssm/core/weight.hpp"
#include "ssm/layer/layer.hpp"  // as_rows
#include "ssm/op/embedding.hpp"

namespace ssm::detail {

/// y[b, t] = table[tokens[b, t]], whatever form the table is kept in.
/// tokens   [B, L]      rows may be slices of longer ones
/// y        [B, L, D]
/// table    [V, D]
template <class T, class B>
void look_up(Context<B>& ctx, const WeightView<T, typename B::Space>& table,
             const View<const Token, 2, typename B::Space>& tokens,
             const View<T, 3, typename B::Space>& y) {
  using Space = typename B::Space;
  const auto some = [&](const View<const Token, 1, Space>& of, const View<T, 2, Space>& to) {
    embedding(ctx, Embedding<T, Space>{.table = table.full,
                                       .table_bf16 = table.bf16,
                                       .table_f16 = table.f16,
                                       .table_int8 = table.int8,
                                       .table_scale = table.scale,
                                       .tokens = of,
                                       .y = to});
  };
  if (tokens.is_contiguous() && y.is_contiguous()) return some(tokens.flatten(), as_rows(y));
  for (Index b = 0; b < tokens.extent(0); ++b) some(tokens.select(0, b), y.select(0, b));
}

/// Rows of tokens, which may be slices of longer ones, one behind the other.
template <class B>
void copy_tokens(Context<B>& ctx, const View<const Token, 2, typename B::Space>& from, Token* to) {
  const Index length = from.extent(1);
  for (Index b = 0; b < from.extent(0); ++b)
    ctx.copy(to + b * length, from.select(0, b).data(),
             static_cast<std::size_t>(length) * sizeof(Token));
}

}  // namespace ssm::detail
