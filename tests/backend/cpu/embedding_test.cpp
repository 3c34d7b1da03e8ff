// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/embedding.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

TEST_CASE_TEMPLATE("embedding and its gradient equal the reference, with tokens that repeat", T,
                   float, double) {
  constexpr Index vocabulary = 10;
  for (const Index count : {0, 1, 3, 1000})
    for (const Index width : {1, 16, 33, 192})
      for (const Layout layout : all_layouts) {
        CAPTURE(count);
        CAPTURE(width);
        const auto table = random_tensor<T>("table", vocabulary, width);
        const auto dy = random_tensor<T>("dy", count, width);
        DynamicTensor<Token, 1> tokens({count});
        for (Index m = 0; m < count; ++m) tokens(m) = static_cast<Token>(m * m % vocabulary);
        Context<Reference> reference;
        auto expected = nan_tensor<T>(count, width);
        auto expected_table = table.clone();
        embedding(reference,
                  Embedding<T, HostSpace>{.table = table, .tokens = tokens, .y = expected});
        embedding_backward(reference, EmbeddingBackward<T, HostSpace>{
                                          .tokens = tokens, .dy = dy, .dtable = expected_table});
        on_each_thread_count([&](auto& ctx) {
          const auto y = place<T>(layout, count, width);
          const auto dtable = place_copy(layout, table);
          const auto placed_table = place_copy(layout, table);
          const auto placed_dy = place_copy(layout, dy);
          embedding(ctx, Embedding<T, HostSpace>{.table = placed_table, .tokens = tokens, .y = y});
          embedding_backward(ctx, EmbeddingBackward<T, HostSpace>{
                                      .tokens = tokens, .dy = placed_dy, .dtable = dtable});
          CHECK(difference(y.view, expected) == 0);
          CHECK(difference(dtable.view, expected_table) < tolerance<T>.gradient);
        });
      }
}

TEST_CASE_TEMPLATE("a table kept in int8 gives its rows times their scales", T, float, double) {
  constexpr Index vocabulary = 10;
  for (const Index width : {1, 16, 33})
    for (const Layout layout : all_layouts) {
      CAPTURE(width);
      const auto int8 = place<std::int8_t>(layout, vocabulary, width);
      DynamicTensor<float, 1> scale({vocabulary});
      for (Index v = 0; v < vocabulary; ++v) {
        scale(v) = 0.1F * static_cast<float>(v);
        for (Index d = 0; d < width; ++d)
          int8.view(v, d) = static_cast<std::int8_t>((v * 91 + d * 53) % 255 - 127);
      }
      DynamicTensor<Token, 1> tokens({7});
      for (Index m = 0; m < 7; ++m) tokens(m) = static_cast<Token>(m * m % vocabulary);
      const auto check = [&](auto& ctx) {
        const auto y = place<T>(layout, 7, width);
        Embedding<T, HostSpace> call{
            .table_int8 = int8, .table_scale = scale, .tokens = tokens, .y = y};
        embedding(ctx, call);
        Index wrong = 0;
        for (Index m = 0; m < 7; ++m)
          for (Index d = 0; d < width; ++d)
            wrong += y.view(m, d) != T{scale(tokens(m))} * T(int8.view(tokens(m), d));
        CHECK(wrong == 0);
        call.table_scale = {};
        CHECK_THROWS_WITH_AS(embedding(ctx, call), "embedding: table_scale is missing", ShapeError);
        call.table_scale = scale;
        call.table = View<const T, 2>(y.view);
        CHECK_THROWS_WITH_AS(embedding(ctx, call),
                             "embedding: the table is given in more than one form", ArgumentError);
      };
      Context<Reference> reference;
      check(reference);
      on_each_thread_count(check);
    }
}

TEST_CASE_TEMPLATE("a table kept in bf16 or f16 gives the values of its rows", T, float, double) {
  constexpr Index vocabulary = 10;
  for (const Index count : {0, 1, 3, 1000})
    for (const Index width : {1, 16, 33, 192})
      for (const Layout layout : all_layouts) {
        CAPTURE(count);
        CAPTURE(width);
        const auto table = random_tensor<T>("table", vocabulary, width);
        const auto bf16 = place<BFloat16>(layout, vocabulary, width);
        const auto f16 = place<Float16>(layout, vocabulary, width);
        for_each_index(table, [&](auto... i) {
          bf16.view(i...) = scalar_cast<BFloat16>(table(i...));
          f16.view(i...) = scalar_cast<Float16>(table(i...));
        });
        DynamicTensor<Token, 1> tokens({count});
        for (Index m = 0; m < count; ++m) tokens(m) = static_cast<Token>(m * m % vocabulary);
        const auto check = [&](auto& ctx) {
          const auto y = place<T>(layout, count, width), z = place<T>(layout, count, width);
          embedding(ctx, Embedding<T, HostSpace>{.table_bf16 = bf16, .tokens = tokens, .y = y});
          embedding(ctx, Embedding<T, HostSpace>{.table_f16 = f16, .tokens = tokens, .y = z});
          Index wrong = 0;
          for (Index m = 0; m < count; ++m)
            for (Index d = 0; d < width; ++d) {
              wrong += y.view(m, d) != scalar_cast<T>(bf16.view(tokens(m), d));
              wrong += z.view(m, d) != scalar_cast<T>(f16.view(tokens(m), d));
            }
          CHECK(wrong == 0);
        };
        Context<Reference> reference;
        check(reference);
        on_each_thread_count(check);
      }
}
