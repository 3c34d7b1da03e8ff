// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/embedding.hpp"

namespace ssm::reference {

/// Embedding, one token at a time.
struct Embedding {
  template <class Ctx, class T>
  static void embedding(Ctx&, const ssm::Embedding<T, typename Ctx::Space>& a) {
    const auto table = [&](Token token, Index d) -> T {
      if (a.table_int8)
        return scalar_cast<T>(Wide<T>{a.table_scale(token)} * Wide<T>(a.table_int8(token, d)));
      if (a.table_f16) return scalar_cast<T>(a.table_f16(token, d));
      return a.table_bf16 ? scalar_cast<T>(a.table_bf16(token, d)) : a.table(token, d);
    };
    for (Index m = 0; m < a.tokens.extent(0); ++m)
      for (Index d = 0; d < a.y.extent(1); ++d) a.y(m, d) = table(a.tokens(m), d);
  }

  template <class Ctx, Real T>
  static void embedding_backward(Ctx&, const ssm::EmbeddingBackward<T, typename Ctx::Space>& g) {
    for (Index m = 0; m < g.tokens.extent(0); ++m)
      for (Index d = 0; d < g.dtable.extent(1); ++d) g.dtable(g.tokens(m), d) += g.dy(m, d);
  }
};

}  // namespace ssm::reference
