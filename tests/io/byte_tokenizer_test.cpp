// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/byte_tokenizer.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace ssm::test {
namespace {

TEST_CASE("every byte is its own token") {
  const ByteTokenizer tokenizer;
  CHECK(tokenizer.vocabulary() == 256);
  CHECK(tokenizer.encode("To \xc3\xa9") == std::vector<Token>{'T', 'o', ' ', 0xc3, 0xa9});
  CHECK(tokenizer.encode("").empty());
}

TEST_CASE("all bytes come back as they were") {
  const ByteTokenizer tokenizer;
  std::string text, again;
  for (int byte = 0; byte < 256; ++byte) text += static_cast<char>(byte);
  for (const Token token : tokenizer.encode(text)) again += tokenizer.bytes(token);
  CHECK(again == text);
}

TEST_CASE("a token that is no byte is refused") {
  CHECK_THROWS_AS(ByteTokenizer::bytes(256), ArgumentError);
  CHECK_THROWS_AS(ByteTokenizer::bytes(-1), ArgumentError);
}

}  // namespace
}  // namespace ssm::test
