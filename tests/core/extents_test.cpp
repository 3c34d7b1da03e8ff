// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <ssm/core/extents.hpp>
#include <type_traits>

using ssm::dyn;
using ssm::Extents;

static_assert(Extents<dyn, 3, dyn>::rank() == 3);
static_assert(Extents<dyn, 3, dyn>::rank_dynamic() == 2);
static_assert(Extents<dyn, 3>::static_extent(1) == 3);
static_assert(std::is_same_v<ssm::DynamicExtents<2>, Extents<dyn, dyn>>);
static_assert(std::is_same_v<ssm::DynamicExtents<0>, Extents<>>);
static_assert(std::is_convertible_v<Extents<2, 3>, Extents<dyn, 3>>);
static_assert(!std::is_convertible_v<Extents<2, 3>, Extents<2, 4>>);
static_assert(!std::is_convertible_v<Extents<2, 3>, Extents<2>>);
static_assert(sizeof(Extents<dyn, 7, 8>) == sizeof(ssm::Index));

TEST_CASE("extents take every axis or only the dynamic ones") {
  const Extents<dyn, 3, dyn> all(2, 3, 4);
  const Extents<dyn, 3, dyn> some(2, 4);
  CHECK(all == some);
  CHECK(all[0] == 2);
  CHECK(all[1] == 3);
  CHECK(all[2] == 4);
  CHECK(all.to_array() == std::array<ssm::Index, 3>{2, 3, 4});
}

TEST_CASE("the size is the product of the axes, and one without axes") {
  CHECK(Extents<>().size() == 1);
  CHECK(Extents<5>().size() == 5);
  CHECK(Extents<dyn, 3, dyn>(2, 4).size() == 24);
  CHECK(Extents<dyn, 3>(0).size() == 0);
}

TEST_CASE("a number that contradicts a static axis throws, and so does a negative one") {
  using Fixed = Extents<dyn, 3>;
  CHECK_THROWS_WITH_AS(Fixed(2, 4), "extents: axis 1 must be 3, got 4", ssm::ShapeError);
  CHECK_THROWS_AS(Fixed(-2), ssm::ShapeError);
  CHECK_THROWS_WITH_AS(Extents<dyn>(-1), "extents: axis 0 must be a size, got -1", ssm::ShapeError);
}

TEST_CASE("conversion to a static axis checks the run-time number") {
  const Extents<dyn, dyn> run_time(2, 3);
  CHECK(Extents<2, dyn>(run_time)[1] == 3);
  CHECK_THROWS_AS((Extents<dyn, 4>(run_time)), ssm::ShapeError);
}

TEST_CASE("extents compare by their numbers, whichever are static") {
  CHECK(Extents<2, dyn>(3) == Extents<dyn, 3>(2));
  CHECK_FALSE(Extents<2, dyn>(3) == Extents<dyn, dyn>(2, 4));
  CHECK_FALSE(Extents<2>() == Extents<2, 1>());
}

TEST_CASE("extents work in constant expressions") {
  constexpr Extents<dyn, 4> extents(3);
  static_assert(extents[0] == 3 && extents[1] == 4 && extents.size() == 12);
  CHECK(extents.size() == 12);
}

TEST_CASE("a configuration field comes from the type or from run time, not from both in conflict") {
  CHECK(ssm::resolve_extent(8, dyn, "channels") == 8);
  CHECK(ssm::resolve_extent(dyn, 8, "channels") == 8);
  CHECK(ssm::resolve_extent(8, 8, "channels") == 8);
  CHECK_THROWS_WITH_AS(ssm::resolve_extent(8, 9, "channels"),
                       "channels is 8 in the type but 9 at run time", ssm::ArgumentError);
  CHECK_THROWS_WITH_AS(ssm::resolve_extent(dyn, dyn, "channels"),
                       "channels must be a positive number, got none", ssm::ArgumentError);
  CHECK_THROWS_AS(ssm::resolve_extent(dyn, 0, "channels"), ssm::ArgumentError);
}

TEST_CASE("shapes in messages show unknown axes as a star") {
  const std::array<ssm::Index, 3> shape{2, dyn, 0};
  CHECK(ssm::shape_text(shape) == "[2, *, 0]");
  CHECK(ssm::shape_text({}) == "[]");
}
