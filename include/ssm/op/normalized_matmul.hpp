// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include "ssm/op/matmul.hpp"
#include "ssm/op/normalization.hpp"

namespace ssm {

/// Backends whose products may normalize what they read.
template <class B, class T>
concept HasNormalizedMatmul = requires(Context<B>& ctx,
                                       const Normalization<T, typename B::Space>& norm,
                                       std::span<const Matmul<T, typename B::Space>> products) {
  B::normalized_matmul(ctx, norm, products);
};

/// Computes a normalization and the products that read what it writes: norm.y is the a of each of
/// them. At once where the backend has normalized_matmul and it takes them; then norm.y is left as
/// it is.
/// norm   null: the products alone
template <class B, class T>
  requires HasMatmul<B, T>
void normalized_matmul(Context<B>& ctx, const Normalization<T, typename B::Space>* norm,
                       std::span<const Matmul<T, typename B::Space>> products) {
  if (norm != nullptr) {
    if constexpr (HasNormalizedMatmul<B, T>) {
      require_operands(*norm);
      for (const auto& a : products) require_operands(a);
      if (B::normalized_matmul(ctx, *norm, products)) return;
    }
    if constexpr (HasNormalization<B, T>)
      normalization(ctx, *norm);
    else
      throw ArgumentError("normalized_matmul: the backend has no normalization");
  }
  matmul<B, T>(ctx, products);
}
/// Without a norm.
template <class B, class T>
  requires HasMatmul<B, T>
void normalized_matmul(Context<B>& ctx, std::nullptr_t,
                       std::span<const Matmul<T, typename B::Space>> products) {
  if (products.size() == 1) return matmul(ctx, products.front());
  matmul<B, T>(ctx, products);
}

/// Backends that may make a product and the one that reads what it writes together.
template <class B, class T>
concept HasMatmulPair = requires(Context<B>& ctx, const Normalization<T, typename B::Space>* norm,
                                 const Matmul<T, typename B::Space>& product) {
  B::matmul_pair(ctx, norm, product, product);
};

/// Computes a product, of a normalized row where there is a norm, and the one that reads what it
/// writes: second.a is first.c. At once where the backend has matmul_pair and it takes them; then
/// norm.y and first.c are left as they are.
/// norm   as of normalized_matmul
template <class B, class T, class Norm>
  requires HasMatmul<B, T>
void matmul_pair(Context<B>& ctx, Norm norm, const Matmul<T, typename B::Space>& first,
                 const Matmul<T, typename B::Space>& second) {
  if constexpr (HasMatmulPair<B, T>) {
    const Normalization<T, typename B::Space>* const before = norm;
    if (before != nullptr) require_operands(*before);
    require_operands(first);
    require_operands(second);
    if (B::matmul_pair(ctx, before, first, second)) return;
  }
  normalized_matmul<B, T>(ctx, norm, std::span(&first, 1));
  matmul(ctx, second);
}

}  // namespace ssm
