// SPDX-License-Identifier: Apache-2.0
#include "ssm/long_range/pathfinder.hpp"

#include <doctest/doctest.h>

#include <vector>

namespace ssm {
namespace {

/// How many groups of bright pixels there are, neighbors in eight directions, and the size of the
/// two largest ones' bounding boxes' areas: discs are the only shapes of five pixels and more that
/// are bright throughout.
struct Groups {
  Index count = 0;
  std::vector<Index> sizes;
};
Groups groups_of(std::span<const std::uint8_t> image, Index side, std::uint8_t threshold) {
  Groups result;
  std::vector<bool> is_seen(image.size());
  for (Index start = 0; start < side * side; ++start) {
    if (is_seen[static_cast<std::size_t>(start)] ||
        image[static_cast<std::size_t>(start)] < threshold)
      continue;
    std::vector<Index> open{start};
    is_seen[static_cast<std::size_t>(start)] = true;
    Index size = 0;
    while (!open.empty()) {
      const Index at = open.back();
      open.pop_back();
      ++size;
      for (Index dy = -1; dy <= 1; ++dy)
        for (Index dx = -1; dx <= 1; ++dx) {
          const Index y = at / side + dy, x = at % side + dx;
          if (y < 0 || x < 0 || y >= side || x >= side) continue;
          const auto next = static_cast<std::size_t>(y * side + x);
          if (is_seen[next] || image[next] < threshold) continue;
          is_seen[next] = true;
          open.push_back(y * side + x);
        }
    }
    ++result.count;
    result.sizes.push_back(size);
  }
  return result;
}

TEST_CASE("large images have separate dashes: two curves', the others', and two discs") {
  const Pathfinder task = Pathfinder::path_x();
  const LabeledSequences data = task.sequences(Seed{1}, 12);
  for (Index i = 0; i < data.count(); ++i) {
    REQUIRE(data[i].size() == 128 * 128);
    CHECK(data.labels[static_cast<std::size_t>(i)] == i % 2);
    const Groups groups = groups_of(data[i], 128, 128);
    // A disc covers the end of the curve that carries it, and may touch a dash.
    CHECK(groups.count >= 2 * task.dashes - 2);
    CHECK(groups.count <= 2 * task.dashes + task.distractors * task.distractor_dashes);
    Index discs = 0;
    for (const Index size : groups.sizes) discs += size > 50 ? 1 : 0;
    CHECK(discs == 2);
  }
}

TEST_CASE("the same seed gives the same images, and every image is another one") {
  const Pathfinder task;
  const ClassificationData data = task.data(Seed{1}, 20, 10);
  CHECK(data.training.count() == 20);
  CHECK(data.test.count() == 10);
  CHECK(task.data(Seed{1}, 20, 10).test.values == data.test.values);
  for (Index i = 1; i < 20; ++i)
    CHECK_FALSE(
        std::equal(data.training[i].begin(), data.training[i].end(), data.training[i - 1].begin()));
}

TEST_CASE("images do not depend on how many threads draw them") {
  const Pathfinder task;
  const LabeledSequences one = task.sequences(Seed{3}, 200, 1),
                         three = task.sequences(Seed{3}, 200, 3);
  CHECK(one.values == three.values);
  CHECK(one.labels == three.labels);
  CHECK_THROWS_AS((Pathfinder{.side = 8}.sequences(Seed{1}, 200, 3)), ArgumentError);
}

TEST_CASE("curves that cannot lie in the image are refused") {
  CHECK_THROWS_WITH_AS((Pathfinder{.side = 8}.sequences(Seed{1}, 1)),
                       "Pathfinder: such curves find no room in the image", ArgumentError);
}

}  // namespace
}  // namespace ssm
