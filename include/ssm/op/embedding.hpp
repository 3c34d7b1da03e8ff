// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/scalar.hpp"  // BFloat16, Token

namespace ssm {

/// Looks up one row of a table per token.
///   y[m] = table[tokens[m]]
/// table          [V, D]
/// table_bf16     [V, D]    in place of table: kept in bf16, read as T
/// tokens         [M]       0 ≤ token < V
/// y              [M, D]    overwritten
/// Throws  ShapeError; ArgumentError  for a token outside the table, or for both tables
template <class T, class Space>
struct Embedding {
  View<const T, 2, Space> table{};
  View<const BFloat16, 2, Space> table_bf16{};
  View<const Token, 1, Space> tokens{};
  View<T, 2, Space> y{};
};

/// dtable[tokens[m]] += dy[m], added in the order of m.
template <class T, class Space>
struct EmbeddingBackward {
  View<const Token, 1, Space> tokens{};
  View<const T, 2, Space> dy{};
  View<T, 2, Space> dtable{};
};

/// Backends that have the primitive Embedding.
template <class B, class T = float>
concept HasEmbedding = requires(Context<B>& ctx, const Embedding<T, typename B::Space>& a,
                                const EmbeddingBackward<T, typename B::Space>& g) {
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
        throw ArgumentError(std::string(op) + ": token " + std::to_string(tokens(m)) +
                            " at position " + std::to_string(m) + " is outside the vocabulary of " +
                            std::to_string(vocabulary));
}
}  // namespace detail

/// Computes Embedding, whose docstring says the rest.
template <class B, class T>
  requires HasEmbedding<B, T>
void embedding(Context<B>& ctx, const Embedding<T, typename B::Space>& a) {
  if (a.table && a.table_bf16)
    throw ArgumentError("embedding: table and table_bf16 are both given");
  if (!a.table_bf16) require_extents("embedding", "table", a.table, {dyn, dyn});
  const auto shape = a.table_bf16 ? a.table_bf16.extents() : a.table.extents();
  require_extents("embedding", "tokens", a.tokens, {dyn});
  require_extents("embedding", "y", a.y, {a.tokens.extent(0), shape[1]});
  detail::require_tokens("embedding", a.tokens, shape[0]);
  B::embedding(ctx, a);
}

/// Computes EmbeddingBackward, whose docstring says the rest.
template <class B, class T>
  requires HasEmbedding<B, T>
void embedding_backward(Context<B>& ctx, const EmbeddingBackward<T, typename B::Space>& g) {
  const char* op = "embedding_backward";
  require_extents(op, "dtable", g.dtable, {dyn, dyn});
  require_extents(op, "tokens", g.tokens, {dyn});
  require_extents(op, "dy", g.dy, {g.tokens.extent(0), g.dtable.extent(1)});
  detail::require_tokens(op, g.tokens, g.dtable.extent(0));
  B::embedding_backward(ctx, g);
}

}  // namespace ssm
