// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/embedding.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("every token gets its row, and rows gather the gradients of all their tokens") {
  Context<Reference> ctx;
  auto table = random_tensor("table", 4, 3);
  const auto tokens = tensor_of<Token>({2, 0, 2, 2, 3});
  const auto dy = random_tensor("dy", 5, 3);
  auto y = nan_tensor(5, 3);
  auto dtable = zero_tensor(4, 3);
  embedding(ctx, Embedding<double, HostSpace>{.table = table, .tokens = tokens, .y = y});
  for (Index m = 0; m < 5; ++m) CHECK(difference(y.select(0, m), table.select(0, tokens(m))) == 0);
  embedding_backward(
      ctx, EmbeddingBackward<double, HostSpace>{.tokens = tokens, .dy = dy, .dtable = dtable});
  const auto loss = [&] {
    embedding(ctx, Embedding<double, HostSpace>{.table = table, .tokens = tokens, .y = y});
    return inner_product(dy, y);
  };
  CHECK(gradient_error(loss, table, dtable) < tolerance<double>.gradient);
  for (Index d = 0; d < 3; ++d) {
    CHECK(dtable(1, d) == 0);
    CHECK(dtable(2, d) == dy(0, d) + dy(2, d) + dy(3, d));
  }
}

TEST_CASE("a token outside the table is named and nothing is written") {
  Context<Reference> ctx;
  const auto table = zero_tensor(4, 3);
  auto y = nan_tensor(2, 3);
  for (const Token wrong : {Token{4}, Token{-1}}) {
    const auto tokens = tensor_of<Token>({0, static_cast<double>(wrong)});
    CHECK_THROWS_AS(
        embedding(ctx, Embedding<double, HostSpace>{.table = table, .tokens = tokens, .y = y}),
        ArgumentError);
    CHECK(std::isnan(y(0, 0)));
  }
}

TEST_CASE("no tokens are no work") {
  Context<Reference> ctx;
  const auto table = zero_tensor(4, 3);
  const auto tokens = tensor_of<Token>({});
  auto y = nan_tensor(0, 3);
  CHECK_NOTHROW(
      embedding(ctx, Embedding<double, HostSpace>{.table = table, .tokens = tokens, .y = y}));
}

}  // namespace
}  // namespace ssm::test
