// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/embedding.hpp"

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

/// Tokens that repeat within and across slices; some never occur.
DynamicTensor<Token, 1> some_tokens(Index count, Index vocabulary) {
  DynamicTensor<Token, 1> tokens({count});
  for (Index m = 0; m < count; ++m) tokens(m) = static_cast<Token>(m * m % vocabulary);
  return tokens;
}

using DeviceEmbedding = DeviceContext<cuda::primitive::Embedding>;

}  // namespace

TEST_CASE_TEMPLATE("rows of the table, kept in T or in bf16, are the reference's", T, float, double,
                   BFloat16, Float16) {
  for (const Index count : {0, 1, 3, 1000})
    for (const Index width : {1, 33, 192})
      for (const Layout layout : all_layouts)
        for (const bool bf16 : {false, true}) {
          CAPTURE(count);
          CAPTURE(width);
          const auto table = random_tensor<T>("table", 10, width);
          const auto placed = place_copy(layout, table);
          const auto placed_bf16 = place<BFloat16>(layout, 10, width);
          for_each_index(table, [&](auto... i) {
            placed_bf16.view(i...) = scalar_cast<BFloat16>(table(i...));
          });
          const auto tokens = some_tokens(count, 10);
          const auto run = [&](auto& ctx, Layout where) {
            auto y = place<T>(where, count, width);
            Embedding<T, HostSpace> call{.tokens = tokens, .y = y};
            if (bf16)
              call.table_bf16 = placed_bf16;
            else
              call.table = placed;
            embedding(ctx, call);
            return y;
          };
          Context<Reference> reference;
          DeviceEmbedding device;
          CHECK(difference(run(device, layout).view, run(reference, Layout::rows).view) == 0);
        }
}

TEST_CASE_TEMPLATE("gradients of a token's row are added in the order of positions", T, float,
                   double, BFloat16, Float16) {
  for (const Index vocabulary : {1, 10, 64, 300})
    for (const Index count : {0, 1, 256, 257, 3000, 20000})
      for (const Layout layout : all_layouts) {
        const Index width = count > 3000 ? 3 : 33;
        CAPTURE(vocabulary);
        CAPTURE(count);
        const auto start = random_tensor<Wide<T>>("table", vocabulary, width);
        const auto dy = random_tensor<T>("dy", count, width);
        const auto tokens = some_tokens(count, vocabulary);
        const auto run = [&](auto& ctx, Layout where) {
          auto dtable = place_copy(where, start);
          const auto placed_dy = place_copy(where, dy);
          embedding_backward(ctx, EmbeddingBackward<T, HostSpace>{
                                      .tokens = tokens, .dy = placed_dy, .dtable = dtable});
          return dtable;
        };
        Context<Reference> reference;
        DeviceEmbedding device;
        CHECK(difference(run(device, layout).view, run(reference, Layout::rows).view) == 0);
      }
}

TEST_CASE("tokens outside the table, where nobody could look, give NaN and no gradient") {
  const auto table = random_tensor<float>("table", 4, 3);
  const auto dy = random_tensor<float>("dy", 5, 3);
  auto tokens = some_tokens(5, 4);
  tokens(1) = -1;
  tokens(4) = 4;
  auto y = zero_tensor<float>(5, 3);
  auto dtable = zero_tensor<float>(4, 3);
  DeviceEmbedding ctx;
  OnDevice<cuda::primitive::Embedding>::embedding(
      ctx, Embedding<float, HostSpace>{.table = table, .tokens = tokens, .y = y});
  OnDevice<cuda::primitive::Embedding>::embedding_backward(
      ctx, EmbeddingBackward<float, HostSpace>{.tokens = tokens, .dy = dy, .dtable = dtable});
  for (Index d = 0; d < 3; ++d) {
    for (const Index m : {1, 4}) CHECK(std::isnan(y(m, d)));
    for (const Index m : {0, 2, 3}) CHECK(y(m, d) == table(tokens(m), d));
    CHECK(dtable(0, d) == dy(0, d) + dy(2, d));
    CHECK(dtable(1, d) == dy(3, d));
    for (const Index v : {2, 3}) CHECK(dtable(v, d) == 0);
  }
}
