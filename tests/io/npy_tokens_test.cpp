// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/npy_tokens.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

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
  CHECK(complaint(path) == path + ": has -3 at 1, a token is not negative");
  write_tokens<std::uint32_t>(path, {1, std::numeric_limits<std::uint32_t>::max()});
  CHECK(complaint(path) == path + ": holds 4294967295, beyond the integers asked for");
}

}  // namespace
}  // namespace ssm::test
