// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <numeric>
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

TEST_CASE("a refused reshape says whether the view is column-major or has gaps, and what to do") {
  const Counted counted;
  const auto matrix = counted.view.select(0, 0);  // [3, 4]
  CHECK_THROWS_WITH_AS(matrix.transpose(0, 1).reshape(1, 4, 3),
                       "reshape: view of [4, 3] is column-major; .transpose(0, 1) of it is "
                       "row-major, and ssm::clone copies it",
                       ssm::ShapeError);
  CHECK_THROWS_WITH_AS(counted.view.transpose(0, 2).flatten(),
                       "reshape: view of [4, 3, 2] is column-major; .transpose changes its order, "
                       "and ssm::clone copies it",
                       ssm::ShapeError);
  CHECK_THROWS_WITH_AS(matrix.slice(1, 0, 3).flatten(),
                       "reshape: view of [3, 3] has gaps or another order than row-major; "
                       "ssm::clone copies it",
                       ssm::ShapeError);
  CHECK_THROWS_WITH_AS(matrix.reshape(5, 5),
                       "reshape: view of [3, 4] has another number of elements than [5, 5]",
                       ssm::ShapeError);
}

TEST_CASE("an axis of one element may be put anywhere, whatever the strides") {
  const Counted counted;
  const auto columns = counted.view.select(0, 1).transpose(0, 1);  // [4, 3], not contiguous
  const auto batch = columns.unsqueeze(0);
  CHECK(batch.extents().to_array() == std::array<Index, 3>{1, 4, 3});
  CHECK(batch(0, 3, 1) == columns(3, 1));
  CHECK(columns.unsqueeze(1)(2, 0, 2) == columns(2, 2));
  CHECK(columns.unsqueeze(2)(2, 2, 0) == columns(2, 2));
  for (int axis = 0; axis <= 3; ++axis) CHECK(counted.view.unsqueeze(axis).is_contiguous());
  CHECK(counted.view.select(0, 0).select(0, 0).select(0, 3).unsqueeze(0)(0) == 3);
  CHECK_THROWS_WITH_AS(columns.unsqueeze(3), "unsqueeze: axis 3 does not exist in [4, 3]",
                       ssm::ShapeError);
  CHECK_THROWS_AS(columns.unsqueeze(-1), ssm::ShapeError);
}

TEST_CASE("a reversed axis counts from its end, and twice is the same view") {
  const Counted counted;
  const auto reversed = counted.view.reverse(1);
  for (Index i = 0; i < 2; ++i)
    for (Index j = 0; j < 3; ++j)
      for (Index k = 0; k < 4; ++k) CHECK(reversed(i, j, k) == counted.view(i, 2 - j, k));
  CHECK_FALSE(reversed.is_contiguous());
  CHECK(reversed.reverse(1).data() == counted.view.data());
  CHECK(reversed.reverse(1).is_contiguous());
  CHECK(reversed.slice(1, 0, 1)(1, 0, 3) == 23);
  CHECK(counted.view.slice(1, 1, 1).reverse(1).size() == 0);
  CHECK_FALSE(static_cast<bool>(View<int, 3>().reverse(0)));
  CHECK_THROWS_AS(counted.view.reverse(3), ssm::ShapeError);
}
