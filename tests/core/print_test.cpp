// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <ssm/core/print.hpp>
#include <sstream>
#include <string>

using ssm::DynamicTensor;
using ssm::Extents;
using ssm::Index;

namespace {

template <class A>
std::string printed(const A& array, int precision = 6) {
  std::ostringstream out;
  out.precision(precision);
  out << array;
  return out.str();
}

template <int Rank, class... N>
DynamicTensor<std::int32_t, Rank> counted(N... extents) {
  DynamicTensor<std::int32_t, Rank> tensor({extents...});
  for (Index i = 0; i < tensor.size(); ++i) tensor.data()[i] = static_cast<std::int32_t>(i);
  return tensor;
}

}  // namespace

TEST_CASE("tensors print as nested brackets") {
  CHECK(printed(counted<1>(Index{3})) == "[0, 1, 2]");
  CHECK(printed(counted<2>(2, 3)) == "[[0, 1, 2],\n [3, 4, 5]]");
  CHECK(printed(counted<3>(2, 2, 1)) == "[[[0],\n  [1]],\n\n [[2],\n  [3]]]");
}

TEST_CASE("columns are aligned") {
  DynamicTensor<float, 2> x({2, 2});
  x(0, 0) = 1;
  x(0, 1) = 2.5F;
  x(1, 0) = 3;
  x(1, 1) = -4;
  CHECK(printed(x) == "[[  1, 2.5],\n [  3,  -4]]");
}

TEST_CASE("a view prints its own elements in its own order") {
  const auto x = counted<2>(2, 3);
  CHECK(printed(x.transpose(0, 1).slice(0, 0, 2)) == "[[0, 3],\n [1, 4]]");
}

TEST_CASE("the stream's precision counts") {
  DynamicTensor<double, 1> x(1);
  x(0) = 1.0 / 3;
  CHECK(printed(x, 3) == "[0.333]");
  CHECK(printed(x, 17) == "[0.33333333333333331]");
}

TEST_CASE("halves, NaN and infinities print as numbers do") {
  DynamicTensor<ssm::Float16, 1> x(3);
  x(0) = ssm::Float16(1.5F);
  x(1) = ssm::Float16(std::numeric_limits<float>::infinity());
  x(2) = ssm::Float16(std::numeric_limits<float>::quiet_NaN());
  CHECK(printed(x) == "[1.5, inf, nan]");
}

TEST_CASE("up to a thousand elements print whole, more without the middle of each axis") {
  CHECK(printed(counted<1>(Index{1000})).find("...") == std::string::npos);
  CHECK(printed(counted<1>(Index{1001})) == "[   0,    1,    2, ...,  998,  999, 1000]");
  const std::string text = printed(counted<2>(1000, 2));
  CHECK(text.substr(0, 44) == "[[   0,    1],\n [   2,    3],\n [   4,    5],");
  CHECK(text.substr(44) == "\n ...,\n [1994, 1995],\n [1996, 1997],\n [1998, 1999]]");
}

TEST_CASE(
    "a tensor without axes prints its element, without elements its extents, without memory null") {
  DynamicTensor<float, 0> scalar{Extents<>()};
  scalar() = 4;
  CHECK(printed(scalar) == "4");
  CHECK(printed(counted<2>(0, 3)) == "[] of [0, 3]");
  CHECK(printed(ssm::Tensor<float, Extents<3>>()) == "null");
}
