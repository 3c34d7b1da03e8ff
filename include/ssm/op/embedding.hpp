// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/scalar.hpp"  // BFloat16, Token
#include "ssm/op/unwritten.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct EmbeddingBackward;

/// Looks up one row of a table per token.
///   y[m] = table[tokens[m]]
/// table          [V, D]
/// table_bf16     [V, D]    in place of table: kept in bf16, read as T
/// table_f16      [V, D]    likewise, kept in f16
/// table_int8     [V, D]    in place of table, with table_scale: row v is
///                          table_scale[v]·table_int8[v]
/// table_scale    [V]       of table_int8
/// tokens         [M]       0 ≤ token < V
/// y              [M, D]    overwritten
/// Throws  ShapeError; ArgumentError  for a token outside the table, or for tables
///                                     in more than one form
template <class T, class Space>
struct Embedding {
  View<const T, 2, Space> table{};
  View<const BFloat16, 2, Space> table_bf16{};
  View<const Float16, 2, Space> table_f16{};
  View<const std::int8_t, 2, Space> table_int8{};
  View<const float, 1, Space> table_scale{};
  View<const Token, 1, Space> tokens{};
  View<T, 2, Space> y{};

  static constexpr const char* name = "embedding";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = EmbeddingBackward<T, Space>;
    visit(parameter("table", "VD").optional().with_gradient(), &Embedding::table,
          &Gradient::dtable);
    visit(parameter("table_bf16", "VD").optional(), &Embedding::table_bf16, nullptr);
    visit(parameter("table_f16", "VD").optional(), &Embedding::table_f16, nullptr);
    visit(parameter("table_int8", "VD").optional(), &Embedding::table_int8, nullptr);
    visit(parameter("table_scale", "V").optional(), &Embedding::table_scale, nullptr);
    visit(input("tokens", "M"), &Embedding::tokens, nullptr);
    visit(output("y", "MD"), &Embedding::y, &Gradient::dy);
    visit(again("tokens", "M"), &Embedding::tokens, &Gradient::tokens);
  }
  void fix_extents(ExtentsByLetter& n) const {
    const int forms =
        int{bool{table}} + int{bool{table_bf16}} + int{bool{table_f16}} + int{bool{table_int8}};
    if (forms > 1) throw ArgumentError("embedding: the table is given in more than one form");
    if (forms == 0) n.refuse("table", "is missing");
    if (bool{table_int8} != bool{table_scale})
      n.refuse(table_int8 ? "table_scale" : "table_int8", "is missing");
  }
};

/// dtable[tokens[m]] += dy[m], added in an order that depends on the tokens alone.
template <class T, class Space>
struct EmbeddingBackward {
  View<const Token, 1, Space> tokens{};
  View<const T, 2, Space> dy{};
  View<Wide<T>, 2, Space> dtable{};
};

/// Backends that have the primitive Embedding.
template <class B, class T = float>
concept HasEmbedding = requires(Context<B>& ctx, const Embedding<Wide<T>, typename B::Space>& a,
                                const EmbeddingBackward<Wide<T>, typename B::Space>& g) {
  B::embedding(ctx, a);
  B::embedding_backward(ctx, g);
};

namespace detail {
/// Tokens in device memory are checked by the backend.
template <class Space>
void require_tokens(const char* op, const View<const Token, 1, Space>& tokens, Index vocabulary) {
  if constexpr (Space::host_readable)
    for (Index m = 0; m < tokens.extent(0); ++m)
      if (tokens(m) < 0 || tokens(m) >= vocabulary)
        throw ArgumentError(message({op, ": token ", tokens(m), " at position ", m,
                                     " is outside the vocabulary of ", vocabulary}));
}
}  // namespace detail

/// Computes Embedding, whose docstring says the rest.
template <class B, class T>
  requires HasEmbedding<B, T>
void embedding(Context<B>& ctx, const Embedding<T, typename B::Space>& a) {
  const ExtentsByLetter extents = require_operands(a);
  detail::require_tokens("embedding", a.tokens, extents['V']);
  B::embedding(ctx, a);
}

/// Computes EmbeddingBackward, whose docstring says the rest.
template <class B, class T>
  requires HasEmbedding<B, T>
void embedding_backward(Context<B>& ctx, const EmbeddingBackward<T, typename B::Space>& g) {
  const ExtentsByLetter extents = require_gradients<Embedding<T, typename B::Space>>(g);
  detail::require_tokens("embedding_backward", g.tokens, extents['V']);
  detail::overwrites(ctx, g.dtable, false);
  if constexpr (requires { B::embedding_backward(ctx, g); })
    B::embedding_backward(ctx, g);
  else
    detail::run_wide_gradient<Embedding>(ctx, g,
                                         [&](const auto& wide) { embedding_backward(ctx, wide); });
}

}  // namespace ssm
