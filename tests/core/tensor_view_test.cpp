// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <Eigen/Core>
#include <array>
#include <numeric>
#include <span>
#include <ssm/core/tensor_view.hpp>
#include <type_traits>
#include <vector>

using ssm::dyn;
using ssm::Extents;
using ssm::Index;
using ssm::TensorView;
using ssm::View;

namespace {
struct Elsewhere : ssm::HostSpace {
  static constexpr bool host_readable = false;
};
template <class V>
concept Indexable = requires(const V& view) {
  view(0, 0);
};
}  // namespace

static_assert(Indexable<View<float, 2>>);
static_assert(!Indexable<View<float, 2, Elsewhere>>);
static_assert(!Indexable<View<float, 3>>);
static_assert(std::is_convertible_v<View<float, 2>, View<const float, 2>>);
static_assert(!std::is_convertible_v<View<const float, 2>, View<float, 2>>);
static_assert(!std::is_convertible_v<View<float, 2>, View<double, 2>>);
static_assert(!std::is_convertible_v<View<float, 2>, View<float, 3>>);
static_assert(!std::is_convertible_v<View<float, 2>, View<float, 2, Elsewhere>>);
static_assert(
    !std::is_convertible_v<TensorView<float, Extents<dyn, 3>>, TensorView<float, Extents<dyn, 4>>>);
static_assert(std::is_trivially_copyable_v<View<float, 2>>);

namespace {
struct Counted {
  std::vector<int> memory = std::vector<int>(24);
  View<int, 3> view{memory.data(), {2, 3, 4}};
  Counted() { std::iota(memory.begin(), memory.end(), 0); }
};
}  // namespace

TEST_CASE("a view is row-major by default") {
  const Counted counted;
  CHECK(counted.view(0, 0, 1) == 1);
  CHECK(counted.view(0, 1, 0) == 4);
  CHECK(counted.view(1, 2, 3) == 23);
  CHECK(counted.view.is_contiguous());
}

TEST_CASE("a slice keeps the strides and moves the start") {
  const Counted counted;
  const auto part = counted.view.slice(1, 1, 3);
  CHECK(part.extents().to_array() == std::array<Index, 3>{2, 2, 4});
  CHECK(part(1, 0, 2) == counted.view(1, 1, 2));
  CHECK_FALSE(part.is_contiguous());
  CHECK(counted.view.slice(0, 1, 2).is_contiguous());
  CHECK(counted.view.slice(1, 3, 3).size() == 0);
}

TEST_CASE("slices and selections outside the axis throw") {
  const Counted counted;
  CHECK_THROWS_WITH_AS(counted.view.slice(1, 2, 4),
                       "slice: range [2, 4) is outside axis 1 of [2, 3, 4]", ssm::ShapeError);
  CHECK_THROWS_AS(counted.view.slice(1, -1, 2), ssm::ShapeError);
  CHECK_THROWS_AS(counted.view.slice(1, 2, 1), ssm::ShapeError);
  CHECK_THROWS_AS(counted.view.slice(3, 0, 0), ssm::ShapeError);
  CHECK_THROWS_AS(counted.view.select(0, 2), ssm::ShapeError);
  CHECK_THROWS_AS(counted.view.select(-1, 0), ssm::ShapeError);
  CHECK_THROWS_AS(counted.view.transpose(0, 3), ssm::ShapeError);
}

TEST_CASE("a selection drops its axis") {
  const Counted counted;
  const auto row = counted.view.select(1, 2);
  CHECK(row.extents().to_array() == std::array<Index, 2>{2, 4});
  CHECK(row(1, 3) == counted.view(1, 2, 3));
  CHECK(counted.view.select(0, 1).select(0, 2).select(0, 3)() == 23);
}

TEST_CASE("a transposed view exchanges indices, and twice is the same view") {
  const Counted counted;
  const auto swapped = counted.view.transpose(0, 2);
  for (Index i = 0; i < 2; ++i)
    for (Index j = 0; j < 3; ++j)
      for (Index k = 0; k < 4; ++k) CHECK(swapped(k, j, i) == counted.view(i, j, k));
  CHECK(swapped.transpose(2, 0).is_contiguous());
  CHECK_FALSE(swapped.is_contiguous());
}

TEST_CASE("reshape keeps row-major order and refuses gaps and other sizes") {
  const Counted counted;
  CHECK(counted.view.reshape(6, 4)(5, 3) == 23);
  CHECK(counted.view.reshape(Extents<24>())(17) == 17);
  CHECK(counted.view.flatten().extent(0) == 24);
  CHECK_THROWS_AS(counted.view.reshape(5, 5), ssm::ShapeError);
  CHECK_THROWS_AS(counted.view.transpose(0, 1).flatten(), ssm::ShapeError);
}

TEST_CASE("an empty view is contiguous whatever its strides") {
  const Counted counted;
  const auto nothing = counted.view.slice(1, 1, 1);
  CHECK(nothing.is_contiguous());
  CHECK(nothing.flatten().size() == 0);
}

TEST_CASE("axes of one element do not break contiguity") {
  std::array<float, 4> memory{};
  const View<float, 3> view(memory.data(), {1, 4, 1}, {77, 1, 99});
  CHECK(view.is_contiguous());
}

TEST_CASE("a stride of zero repeats one element") {
  float value = 3;
  const View<float, 2> view(&value, {2, 5}, {0, 0});
  CHECK(view(1, 4) == 3);
}

TEST_CASE("conversion to static extents is checked at run time, and a null view stays null") {
  const Counted counted;
  const TensorView<const int, Extents<dyn, 3, dyn>> fits = counted.view;
  CHECK(fits(1, 2, 3) == 23);
  CHECK_THROWS_AS((TensorView<int, Extents<dyn, 4, dyn>>(counted.view)), ssm::ShapeError);
  const TensorView<int, Extents<7, 7, 7>> null = View<int, 3>();
  CHECK_FALSE(static_cast<bool>(null));
}

TEST_CASE("required extents are checked, where dyn accepts any") {
  const Counted counted;
  CHECK_NOTHROW(ssm::require_extents("op", "x", counted.view, {2, dyn, 4}));
  CHECK_THROWS_WITH_AS(ssm::require_extents("op", "x", counted.view, {2, dyn, 5}),
                       "op: x must be [2, *, 5], got [2, 3, 4]", ssm::ShapeError);
  CHECK_THROWS_WITH_AS(ssm::require_extents("op", "x", View<int, 3>(), {dyn, dyn, dyn}),
                       "op: x is missing", ssm::ShapeError);
  CHECK_NOTHROW(ssm::require_extents_if_given("op", "x", View<int, 3>(), {2, 3, 5}));
  CHECK_THROWS_AS(ssm::require_extents_if_given("op", "x", counted.view, {2, 3, 5}),
                  ssm::ShapeError);
}

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
