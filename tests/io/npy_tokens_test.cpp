// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/npy_tokens.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "ssm/io/bare_tokens.hpp"
#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

template <class T>
void write_tokens(const std::filesystem::path& path, const std::vector<T>& values) {
  write_npy(path, View<const T, 1>(values.data(), {static_cast<Index>(values.size())}));
}

std::string complaint(const std::filesystem::path& path) {
  try {
    const NpyTokens tokens(path);
    std::vector<Token> all(static_cast<std::size_t>(tokens.size()));
    tokens.read(0, all);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE_TEMPLATE("tokens of every width are read", T, std::uint8_t, std::uint16_t, std::int16_t,
                   std::uint32_t, std::int32_t, std::uint64_t, std::int64_t) {
  const TemporaryFolder folder;
  write_tokens<T>(folder / "ids.npy", {5, 0, 127, 9});
  const NpyTokens tokens(folder / "ids.npy");
  REQUIRE(tokens.size() == 4);
  std::vector<Token> part(3);
  tokens.read(1, part);
  CHECK(part == std::vector<Token>{0, 127, 9});
  CHECK_THROWS_AS(tokens.read(2, part), ArgumentError);
}

TEST_CASE("a single row is a text, other shapes and fractions are none") {
  const TemporaryFolder folder;
  const std::string path = (folder / "ids.npy").string();
  write_npy(path, DynamicTensor<std::int32_t, 2>({1, 3}));
  CHECK(NpyTokens(path).size() == 3);
  write_npy(path, DynamicTensor<std::int32_t, 2>({2, 3}));
  CHECK(complaint(path) == path + ": is [2, 3], a text is [N]");
  write_npy(path, DynamicTensor<float, 1>({3}));
  CHECK(complaint(path).starts_with(path + ": is of type <f4, asked for integers: "));
}

TEST_CASE("a number that is no token is named") {
  const TemporaryFolder folder;
  const std::string path = (folder / "ids.npy").string();
  write_tokens<std::int64_t>(path, {1, -3});
  CHECK(complaint(path) == path + ": has -3 at 1, a token is from 0 to 2147483647");
  write_tokens<std::uint32_t>(path, {1, std::numeric_limits<std::uint32_t>::max()});
  CHECK(complaint(path) == path + ": has 4294967295 at 1, a token is from 0 to 2147483647");
  write_tokens<std::uint64_t>(path, {1, std::numeric_limits<std::uint64_t>::max()});
  CHECK(complaint(path) == path + ": holds 18446744073709551615, beyond the integers asked for");
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_CASE("tokens that are written part by part come back, in the narrower type where all fit") {
  const TemporaryFolder folder;
  const auto path = folder / "ids.npy";
  for (const Index vocabulary : {300, 65536, 65537, 1 << 30}) {
    const bool is_narrow = vocabulary <= 65536;
    for (const std::size_t count : {0UL, 1UL, 65535UL, 65536UL, 200000UL}) {
      std::vector<Token> tokens(count);
      for (std::size_t i = 0; i < count; ++i)
        tokens[i] =
            static_cast<Token>((static_cast<Index>(i) * 7919 + vocabulary - 1) % vocabulary);
      NpyTokenWriter writer(path, vocabulary);
      const std::span<const Token> all(tokens);
      writer.write(all.first(count / 3));
      writer.write(all.subspan(count / 3));
      CHECK(writer.size() == static_cast<Index>(count));
      writer.finish();
      const NpyTokens file(path);
      CHECK(file.file().header().dtype == (is_narrow ? "<u2" : "<u4"));
      REQUIRE(file.size() == static_cast<Index>(count));
      std::vector<Token> read(count);
      file.read(0, read);
      CHECK(read == tokens);
      CHECK(std::filesystem::file_size(path) == 128 + count * (is_narrow ? 2 : 4));
    }
  }
}

TEST_CASE("a file of tokens is there as a whole or not at all") {
  const TemporaryFolder folder;
  const auto path = folder / "ids.npy";
  write_tokens<std::uint16_t>(path, {1, 2, 3});
  const std::string before = bytes_of(path);
  {
    NpyTokenWriter writer(path, 10);
    writer.write(std::vector<Token>(200000, 9));
    CHECK_THROWS_AS(writer.write(std::vector<Token>{10}), ArgumentError);
    CHECK_THROWS_AS(writer.write(std::vector<Token>{-1}), ArgumentError);
  }
  CHECK(bytes_of(path) == before);
  CHECK(folder.file_count() == 1);
}

TEST_CASE("files of tokens that were cut or lie about their size are refused") {
  const TemporaryFolder folder;
  const auto path = folder / "ids.npy";
  NpyTokenWriter writer(path, 1000);
  writer.write(std::vector<Token>{1, 2, 3, 999});
  writer.finish();
  const std::string whole = bytes_of(path);
  const auto is_refused = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
    return complaint(path).starts_with(path.string() + ": ");
  };
  for (std::size_t size = 0; size < whole.size(); ++size) CHECK(is_refused(whole.substr(0, size)));
  CHECK(is_refused(whole + "x"));
  for (const char* shape :
       {"(5, )", "(-1,)", "(3, )", "(1, )", "(4,2)", "(9999999999999999999,)"}) {
    std::string other = whole;
    const std::size_t at = other.find("(4, )");
    REQUIRE(at != other.npos);
    other.replace(at, 5, shape);
    CHECK(is_refused(other));
  }
  CHECK(!is_refused(whole));
}

TEST_CASE("a bare file of numbers is tokens of the width that its reader says") {
  const TemporaryFolder folder;
  const auto path = folder / "train.bin";
  std::string bytes;
  for (int i = 0; i < 10000; ++i)
    for (const int byte : {i & 255, i >> 8}) bytes += static_cast<char>(byte);
  std::ofstream(path, std::ios::binary) << bytes;
  const BareTokens narrow(path, 2), wide(path, 4);
  REQUIRE(narrow.size() == 10000);
  REQUIRE(wide.size() == 5000);
  std::vector<Token> part(6000);
  narrow.read(3999, part);
  for (std::size_t i = 0; i < part.size(); ++i) CHECK(part[i] == static_cast<Token>(3999 + i));
  std::vector<Token> one(1);
  wide.read(2, one);
  CHECK(one[0] == (5 << 16 | 4));
  CHECK_THROWS_AS(narrow.read(4001, part), ArgumentError);
  CHECK_THROWS_AS(BareTokens(path, 3), ArgumentError);

  std::ofstream(path, std::ios::binary) << bytes.substr(0, 19999);
  CHECK_THROWS_AS(BareTokens(path, 2), CheckpointError);
  std::ofstream(path, std::ios::binary) << std::string("\0\0\0\0\0\0\0\x80", 8);
  const BareTokens large(path, 4);
  large.read(0, one);
  CHECK(one[0] == 0);
  CHECK_THROWS_WITH_AS(
      large.read(1, one),
      (path.string() + ": has 2147483648 at position 1, which is no token").c_str(),
      CheckpointError);
}

}  // namespace
}  // namespace ssm::test
