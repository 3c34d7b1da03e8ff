// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <Eigen/Core>
#include <array>
#include <numeric>
#include <span>
#include <ssm/core/tensor.hpp>
#include <ssm/core/view_of.hpp>
#include <type_traits>
#include <utility>
#include <vector>

using ssm::Index;
using ssm::View;

namespace {
template <class M>
concept Viewable = requires(M&& m) {
  ssm::view_of(std::forward<M>(m));
};
using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Rows>;
}  // namespace

// What is gone before its view gives none; a map may go, its memory stays.
static_assert(Viewable<std::vector<float>&> && !Viewable<std::vector<float>>);
static_assert(Viewable<Rows&> && !Viewable<Rows>);
static_assert(Viewable<Map&> && Viewable<Map>);
static_assert(!Viewable<std::vector<bool>&>);
// What is const stays const.
static_assert(std::is_same_v<decltype(ssm::view_of(std::declval<const std::vector<int>&>())),
                             View<const int, 1>>);
static_assert(
    std::is_same_v<decltype(ssm::view_of(std::declval<const Rows&>())), View<const float, 2>>);
static_assert(std::is_same_v<decltype(ssm::view_of(std::declval<Eigen::Map<const Rows>>())),
                             View<const float, 2>>);
static_assert(std::is_same_v<decltype(ssm::view_of(std::declval<Map>())), View<float, 2>>);
static_assert(std::is_same_v<decltype(ssm::view_of(std::declval<const double*>(), {1, 2})),
                             View<const double, 2>>);

TEST_CASE("a view of a span shares its memory") {
  std::vector<float> memory{1, 2, 3};
  const auto view = ssm::view_of(std::span(memory));
  view(1) = 20;
  CHECK(memory[1] == 20);
  CHECK(view.data() == memory.data());
  const auto read_only = ssm::view_of(std::span<const float>(memory));
  static_assert(std::is_same_v<decltype(read_only)::Element, const float>);
  CHECK(read_only(1) == 20);
}

TEST_CASE("a view of an Eigen matrix shares its memory, column-major or row-major") {
  Eigen::MatrixXf columns(2, 3);
  columns << 1, 2, 3, 4, 5, 6;
  Eigen::Matrix<double, 2, 3, Eigen::RowMajor> rows;
  rows << 1, 2, 3, 4, 5, 6;
  const auto a = ssm::view_of(columns);
  const auto b = ssm::view_of(rows);
  for (Index i = 0; i < 2; ++i)
    for (Index j = 0; j < 3; ++j) {
      CHECK(a(i, j) == columns(i, j));
      CHECK(b(i, j) == rows(i, j));
    }
  a(1, 2) = 60;
  CHECK(columns(1, 2) == 60);
}

TEST_CASE("an Eigen map with strides and a view of it agree") {
  std::vector<float> memory(20);
  std::iota(memory.begin(), memory.end(), 0.0F);
  using Strided = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  Eigen::Map<Eigen::MatrixXf, 0, Strided> map(memory.data(), 2, 3, Strided(7, 2));
  const auto view = ssm::view_of(map);
  CHECK(view.data() == memory.data());
  for (Index i = 0; i < 2; ++i)
    for (Index j = 0; j < 3; ++j) CHECK(view(i, j) == map(i, j));
}

TEST_CASE("an Eigen map over a view's memory sees what is written through the view") {
  std::vector<float> memory(6);
  const View<float, 2> view(memory.data(), {2, 3});
  const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> map(
      view.data(), view.extent(0), view.extent(1));
  view(1, 0) = 5;
  CHECK(map(1, 0) == 5);
}

TEST_CASE("a view of a vector shares its memory") {
  std::vector<double> memory{1, 2, 3};
  const auto view = ssm::view_of(memory);
  view(2) = 30;
  CHECK(memory[2] == 30);
  CHECK(ssm::view_of(std::as_const(memory)).extent(0) == 3);
}

TEST_CASE(
    "a view of a pointer takes its rank from the extents, row-major unless strides say otherwise") {
  std::vector<int> memory(24);
  std::iota(memory.begin(), memory.end(), 0);
  const int batch = 2;
  const auto rows = ssm::view_of(memory.data(), {batch, 3, 4});
  static_assert(std::is_same_v<decltype(rows), const View<int, 3>>);
  CHECK(rows(1, 2, 3) == 23);
  const auto columns = ssm::view_of(memory.data(), {batch, 3, 4}, {12, 1, 3});
  CHECK(columns(1, 2, 3) == 12 + 2 + 9);
  CHECK(ssm::view_of(memory.data(), {24})(23) == 23);
  CHECK_THROWS_AS(ssm::view_of(memory.data(), {2, -1}), ssm::ShapeError);
}

TEST_CASE("a view of a pointer takes sizes and strides that another library keeps") {
  std::vector<int> memory(24);
  std::iota(memory.begin(), memory.end(), 0);
  const std::vector<Index> sizes{2, 3, 4};
  const std::vector<Index> strides{12, 1, 3};
  CHECK(ssm::view_of<3>(memory.data(), sizes)(1, 2, 3) == 23);
  CHECK(ssm::view_of<3>(memory.data(), sizes, strides)(1, 2, 3) == 23);
  CHECK(ssm::view_of<3>(memory.data(), sizes, strides)(0, 1, 1) == 4);
  CHECK_THROWS_WITH_AS(ssm::view_of<2>(memory.data(), sizes),
                       "view_of: memory must have 2 extents and as many strides, got [2, 3, 4] and "
                       "[]",
                       ssm::ShapeError);
  CHECK_THROWS_AS(ssm::view_of<3>(memory.data(), sizes, std::span(strides).first(2)),
                  ssm::ShapeError);
}

TEST_CASE("a view of a temporary Eigen map or block outlives it") {
  Rows matrix(4, 3);
  for (Index i = 0; i < 12; ++i) matrix.data()[i] = static_cast<float>(i);
  const auto middle = ssm::view_of(matrix.middleRows(1, 2));
  CHECK(middle.extents().to_array() == std::array<Index, 2>{2, 3});
  CHECK(middle(1, 2) == 8);
  const auto turned = ssm::view_of(matrix.transpose());
  CHECK(turned(2, 1) == matrix(1, 2));
  ssm::view_of(Map(matrix.data(), 3, 4))(2, 3) = 100;
  CHECK(matrix(3, 2) == 100);
}
