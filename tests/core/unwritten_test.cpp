// SPDX-License-Identifier: Apache-2.0
#include "ssm/core/unwritten.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <utility>
#include <vector>

namespace ssm::test {
namespace {

using Part = UnwrittenTensors::Part;

/// Two tensors one behind the other, and a third one apart.
struct Three {
  Three() {
    tensors.add(memory, 16);
    tensors.add(memory + 16, 8);
    tensors.add(memory + 40, 8);
    tensors.add(memory + 60, 0);
  }
  Part part(std::size_t begin, std::size_t end) { return {memory + begin, end - begin}; }
  /// Where those begin that are settled.
  std::vector<std::ptrdiff_t> settle(const Part& with) {
    std::vector<std::ptrdiff_t> begins;
    tensors.settle(with, [&](const Part& part) {
      begins.push_back(static_cast<std::byte*>(part.data) - memory);
    });
    return begins;
  }

  std::byte memory[64];
  UnwrittenTensors tensors;
};

TEST_CASE("one tensor, or neighbors, are taken whole and once") {
  Three three;
  CHECK(three.tensors.take(three.part(0, 24)));
  CHECK_FALSE(three.tensors.take(three.part(0, 24)));
  CHECK_FALSE(three.tensors.take(three.part(0, 16)));
  CHECK(three.tensors.take(three.part(40, 48)));
  CHECK(three.tensors.empty());
}

TEST_CASE("a part of a tensor, and more than tensors, are not taken") {
  Three three;
  using Range = std::pair<std::size_t, std::size_t>;
  for (const Range& range :
       {Range{0, 8}, {0, 20}, {8, 24}, {16, 48}, {24, 40}, {0, 48}, {60, 60}}) {
    CAPTURE(range.first);
    CHECK_FALSE(three.tensors.take(three.part(range.first, range.second)));
  }
  CHECK(three.tensors.take(three.part(16, 24)));
}

TEST_CASE("what shares memory is settled") {
  Three three;
  CHECK(three.settle(three.part(24, 40)).empty());
  CHECK(three.settle(three.part(15, 17)) == std::vector<std::ptrdiff_t>{0, 16});
  CHECK(three.settle(three.part(0, 64)) == std::vector<std::ptrdiff_t>{40});
  CHECK(three.tensors.empty());
}

}  // namespace
}  // namespace ssm::test
