// SPDX-License-Identifier: Apache-2.0
#include "ssm/long_range/png.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

#include "support/temporary_folder.hpp"

namespace ssm {
namespace {

// Written by zlib 1.2.13, every filter in turn.
// 40 × 25, gray ((x² + 7y) / 11) mod 6 · 40, a block with codes of its own.
constexpr std::string_view own_codes =
    "89504e470d0a1a0a0000000d494844520000002800000019080000000066b333b9000000ea4944415478da6593"
    "c191c3200c4595c42550844ad08112f6a01272700939a80417e10325b8081f2881222862bf04ec64660113d008"
    "d0d35788d058ad54361fea9d8a0fa65a6cb452e90137ef2acafab6b7e97119fa55af76556ae8e1204f0ebf9824"
    "2c633f0c7f4be157e2e41b49399f9a2f6dda72ff64fa28623af6943a1c847963f2fbc6f7b56cd8e193ea56bc42"
    "e4a12256b6425a2868c8b81a5331f5330e0bda878de8d871f4d0c3d0cb511ca5a14d18e60143f417f658ca3feb"
    "cb52c4cae927e79fcc60d17bef7defed30a29ebcb9f78650fd97239cb160b1400209ada765c55a28942157c642"
    "197365863420621513000000ea494441544efb581701e58de12c76950b0328b5d1c0167e869ba76a9e98d3302c"
    "2b1e7ee514319c39e51b2cec2cf7072c86dbfab93b8b536c430f19c94465443aa6fa4011aa321e8922aaa45319"
    "7296a14c35d5a98c429942511cac1c2c4ee3550696328519f9794e3f4c4b88f1e8b4f2b24219b820e27c4219d6"
    "0b483d43195c0681520f61e0b0c9cce350652ca5b094e635d656f9c812c6712a3b8db34019a02c69a20c1f3c63"
    "78b32b1375e65576950669ea82112fb3f093efa723a5df56ec5f3027047b734e17bf3368baf65b1bedd47a3ace"
    "1d429e70d878162a8ee9fc438ae1960622b0b495b55f9806061e9faa24a20000000049454e44ae426082";
// 4 × 6, gray (xy + 3x + 5y) mod 251, the fixed codes.
constexpr std::string_view fixed_codes =
    "89504e470d0a1a0a0000000d4948445200000004000000060800000000c15260a9000000124944415478016360"
    "6066e3646465616161626563e760fe8ae2d80000001249444154e66263676701b2d8192415350d010953011338"
    "da95600000000049454e44ae426082";
// The same, not compressed.
constexpr std::string_view stored =
    "89504e470d0a1a0a0000000d4948445200000004000000060800000000c15260a900000014494441547801011e"
    "00e1ff00000306090105040404020506c501e88c00000015494441540708030a06070704050607070019212931"
    "09530113a9e84de20000000049454e44ae426082";
// 3 × 6, red 10x, green 20y, blue 30x + y.
constexpr std::string_view colored =
    "89504e470d0a1a0a0000000d49484452000000030000000608020000008987b35b000000194944415478da6360"
    "6060e062901361b06164106104b2808809c882206658412e820000001a49444154060d26562e01206201093040"
    "500a2b578ab2488a23004704035997afc2430000000049454e44ae426082";

std::vector<std::uint8_t> bytes_of_hex(std::string_view hex) {
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(
        static_cast<std::uint8_t>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  return bytes;
}

TEST_CASE("images are read whatever way they were compressed") {
  const GrayImage large = detail::decode_png(bytes_of_hex(own_codes));
  REQUIRE(large.width == 40);
  REQUIRE(large.height == 25);
  for (Index y = 0; y < 25; ++y)
    for (Index x = 0; x < 40; ++x)
      REQUIRE(Index{large.values[static_cast<std::size_t>(40 * y + x)]} ==
              (x * x + 7 * y) / 11 % 6 * 40);
  for (const std::string_view hex : {fixed_codes, stored}) {
    const GrayImage image = detail::decode_png(bytes_of_hex(hex));
    REQUIRE(image.values.size() == 24);
    for (Index y = 0; y < 6; ++y)
      for (Index x = 0; x < 4; ++x)
        CHECK(Index{image.values[static_cast<std::size_t>(4 * y + x)]} ==
              (x * y + 3 * x + 5 * y) % 251);
  }
  const GrayImage gray = detail::decode_png(bytes_of_hex(colored));
  REQUIRE(gray.values.size() == 18);
  for (Index y = 0; y < 6; ++y)
    for (Index x = 0; x < 3; ++x)
      CHECK(Index{gray.values[static_cast<std::size_t>(3 * y + x)]} ==
            (299 * 10 * x + 587 * 20 * y + 114 * (30 * x + y) + 500) / 1000);
}

TEST_CASE("an image that is cut off or damaged is refused and nothing else happens") {
  constexpr std::size_t closing_chunk = 12;  // bytes; without it the image is still whole
  for (const std::string_view hex : {own_codes, fixed_codes, stored, colored}) {
    const auto bytes = bytes_of_hex(hex);
    for (std::size_t size = 0; size < bytes.size() - closing_chunk; ++size)
      CHECK_THROWS_AS(detail::decode_png(std::span(bytes).first(size)), ArgumentError);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      for (const unsigned flipped : {1U, 64U, 255U}) {
        auto damaged = bytes;
        damaged[i] = static_cast<std::uint8_t>(damaged[i] ^ flipped);
        try {
          const GrayImage image = detail::decode_png(damaged);
          CHECK(static_cast<Index>(image.values.size()) == image.width * image.height);
        } catch (const ArgumentError&) {
        }
      }
  }
}

TEST_CASE("a file that is no image is refused by its name") {
  const TemporaryFolder folder;
  write_text(folder / "a.png", "GIF89a, and more than the eight bytes of a signature");
  CHECK_THROWS_WITH_AS(read_png(folder / "a.png"),
                       doctest::Contains((folder / "a.png").string().c_str()), CheckpointError);
}

}  // namespace
}  // namespace ssm
