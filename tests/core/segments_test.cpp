// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <ssm/core/segments.hpp>
#include <vector>

using ssm::Index;
using ssm::Segments;
using ssm::Sequence;

namespace {
constexpr std::array<Index, 5> packed{0, 3, 3, 64, 65};

std::vector<Sequence> sequences(Index batch, Index length, Segments segments) {
  std::vector<Sequence> all;
  ssm::for_each_sequence(batch, length, segments, [&](const Sequence& s) { all.push_back(s); });
  return all;
}
}  // namespace

TEST_CASE("without segments every row of the batch is one sequence") {
  const auto all = sequences(3, 64, {});
  REQUIRE(all.size() == 3);
  for (Index row = 0; row < 3; ++row) {
    const Sequence& s = all[static_cast<std::size_t>(row)];
    CHECK(s.row == row);
    CHECK(s.batch == row);
    CHECK(s.begin == 0);
    CHECK(s.end == 64);
  }
  CHECK(ssm::sequence_count(3, {}) == 3);
}

TEST_CASE("packed sequences follow one another in the only row, and may be empty") {
  const auto all = sequences(1, 65, packed);
  REQUIRE(all.size() == 4);
  Index position = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    CHECK(all[i].row == static_cast<Index>(i));
    CHECK(all[i].batch == 0);
    CHECK(all[i].begin == position);
    position = all[i].end;
  }
  CHECK(position == 65);
  CHECK(all[1].begin == all[1].end);
}

TEST_CASE("a batch of none has no sequences") { CHECK(sequences(0, 64, {}).empty()); }

TEST_CASE("offsets that rise from zero to the length are accepted") {
  CHECK_NOTHROW(ssm::require_segments("op", packed, 1, 65));
  CHECK_NOTHROW(ssm::require_segments("op", {}, 3, 65));
  CHECK_NOTHROW(ssm::require_segments("op", std::array<Index, 2>{0, 0}, 1, 0));
}

TEST_CASE("other offsets, and packed batches of more than one, are refused with a sentence") {
  const auto refused = [](std::vector<Index> offsets, Index batch, Index length) {
    CHECK_THROWS_AS(ssm::require_segments("op", offsets, batch, length), ssm::ShapeError);
  };
  refused({0, 3, 65}, 2, 65);
  refused({0, 3, 64}, 1, 65);
  refused({1, 65}, 1, 65);
  refused({0, 4, 3, 65}, 1, 65);
  refused({0, 66, 65}, 1, 65);
  refused({0, -1, 65}, 1, 65);
  refused({0}, 1, 0);
  CHECK_THROWS_WITH_AS(ssm::require_segments("op", std::array<Index, 2>{0, 4}, 1, 5),
                       "op: segments must rise from 0 to the length 5, but offset 1 of 2 is 4",
                       ssm::ShapeError);
}

TEST_CASE("the message names the first offset that is wrong") {
  CHECK_THROWS_WITH_AS(ssm::require_segments("op", std::array<Index, 3>{0, -1, 5}, 1, 5),
                       "op: segments must rise from 0 to the length 5, but offset 1 of 3 is -1",
                       ssm::ShapeError);
  CHECK_THROWS_WITH_AS(ssm::require_segments("op", std::array<Index, 3>{0, 66, 65}, 1, 65),
                       "op: segments must rise from 0 to the length 65, but offset 1 of 3 is 66",
                       ssm::ShapeError);
}
