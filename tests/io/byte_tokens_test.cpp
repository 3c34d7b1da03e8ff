// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/byte_tokens.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "ssm/io/byte_tokenizer.hpp"
#include "ssm/train/text_streams.hpp"
#include "support/temporary_folder.hpp"
#include "support/watched_heap.hpp"

namespace ssm::test {
namespace {

TEST_CASE("the tokens of a file are those of its text, wherever they are read") {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 10'000; ++i) text += static_cast<char>(i * 31);
  write_text(folder / "text", text);
  const ByteTokens tokens(folder / "text");
  const auto expected = ByteTokenizer::encode(text);
  REQUIRE(tokens.size() == 10'000);
  for (const Index begin : {0, 1, 4095, 4096, 9'000})
    for (const std::size_t count : {0U, 1U, 999U}) {
      std::vector<Token> part(count);
      tokens.read(begin, part);
      CHECK(std::equal(part.begin(), part.end(), expected.begin() + begin));
    }
  std::vector<Token> part(2);
  for (const Index begin : {Index{-1}, Index{9'999}, std::numeric_limits<Index>::max()})
    CHECK_THROWS_AS(tokens.read(begin, part), ArgumentError);
}

TEST_CASE("windows of a file are those of the same text in memory") {
  const TemporaryFolder folder;
  write_text(folder / "text", "a text of some length, read by several streams");
  const ByteTokens file(folder / "text");
  const auto memory = ByteTokenizer::encode(file_text(folder / "text"));
  const TextStreams from_file(file, 7, 3, Seed{2}), from_memory(memory, 7, 3, Seed{2});
  for (Index step = 0; step < 30; ++step)
    for (Index stream = 0; stream < 3; ++stream)
      CHECK(from_file.window(stream, step) == from_memory.window(stream, step));
}

TEST_CASE("a text larger than what an int counts costs little memory") {
  const TemporaryFolder folder;
  constexpr std::uintmax_t size = 10'000'000'000;
  write_text(folder / "text", "");
  std::filesystem::resize_file(folder / "text", size);  // without blocks on the disk
  largest_allocation = 0;
  const ByteTokens tokens(folder / "text");
  CHECK(tokens.size() == 10'000'000'000);
  const TextStreams streams(tokens, 256, 4, Seed{1});
  for (const Index step : {Index{0}, Index{1'000'000'000}, std::numeric_limits<Index>::max()})
    CHECK(streams.window(3, step) == std::vector<Token>(257, 0));
  CHECK(largest_allocation < std::size_t{1} << 16);
}

}  // namespace
}  // namespace ssm::test
