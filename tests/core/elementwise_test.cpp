// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <span>
#include <ssm/core/elementwise.hpp>
#include <string>
#include <type_traits>
#include <vector>

using ssm::dyn;
using ssm::DynamicTensor;
using ssm::Extents;
using ssm::Index;
using ssm::View;

namespace {

struct Elsewhere : ssm::HostSpace {
  static constexpr bool host_readable = false;
};
static_assert(ssm::HostTensor<View<float, 2>> && ssm::HostTensor<const DynamicTensor<float, 2>&>);
static_assert(ssm::HostTensor<std::span<double>> && ssm::HostTensor<Eigen::MatrixXf>);
static_assert(ssm::HostTensor<std::vector<float>>);
static_assert(!ssm::HostTensor<View<float, 2, Elsewhere>> && !ssm::HostTensor<std::string>);

/// Elements 0, 1, 2, … in row-major order.
template <class T>
DynamicTensor<T, 3> counted(Index a, Index b, Index c) {
  DynamicTensor<T, 3> tensor({a, b, c});
  int next = 0;
  for (Index i = 0; i < tensor.size(); ++i) tensor.data()[i] = ssm::scalar_cast<T>(next++);
  return tensor;
}

constexpr Index lengths[] = {1, 2, 63, 64, 65, 1000};

}  // namespace

TEST_CASE(
    "map computes every element from the same elements of its inputs, for all lengths and "
    "layouts") {
  for (const Index batch : {1, 3}) {
    for (const Index length : lengths) {
      const auto x = counted<float>(batch, length, 4);
      const auto y = counted<double>(batch, 4, length);  // stored channel-major
      DynamicTensor<double, 3> z({4, batch, length});
      ssm::fill(z, std::numeric_limits<double>::quiet_NaN());
      const auto out = z.transpose(0, 1).transpose(1, 2);  // [B, L, 4]
      ssm::map([](float a, double b) { return a - 2 * b; }, out, x, y.transpose(1, 2));
      bool equal = true;
      for (Index b = 0; b < batch; ++b)
        for (Index t = 0; t < length; ++t)
          for (Index d = 0; d < 4; ++d) equal = equal && z(d, b, t) == x(b, t, d) - 2 * y(b, d, t);
      CHECK(equal);
    }
  }
}

TEST_CASE("map may write into one of its inputs") {
  auto x = counted<float>(2, 3, 4);
  ssm::map([](float a, float b) { return a + b; }, x, x, x);
  for (Index i = 0; i < x.size(); ++i) CHECK(x.data()[i] == 2.0F * static_cast<float>(i));
  const auto swapped = x.transpose(0, 2);
  ssm::map([](float a) { return a + 1; }, swapped, swapped);
  for (Index i = 0; i < x.size(); ++i) CHECK(x.data()[i] == 2.0F * static_cast<float>(i) + 1);
}

TEST_CASE("map writes nothing outside a slice") {
  auto x = counted<float>(3, 5, 4);
  ssm::map([] { return -1.0F; }, x.slice(1, 1, 3));
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 5; ++j)
      for (Index k = 0; k < 4; ++k)
        CHECK(x(i, j, k) == (j == 1 || j == 2 ? -1.0F : static_cast<float>((i * 5 + j) * 4 + k)));
}

TEST_CASE("half-precision elements are computed in float and stored rounded") {
  const auto x = counted<ssm::BFloat16>(1, 2, 3);
  DynamicTensor<ssm::Float16, 3> y({1, 2, 3});
  ssm::map(
      [](auto a) {
        static_assert(std::is_same_v<decltype(a), float>);
        return a / 2;
      },
      y, x);
  CHECK(static_cast<float>(y(0, 1, 2)) == 2.5F);
}

TEST_CASE("an input with a stride of zero is broadcast") {
  auto x = counted<float>(2, 3, 4);
  const float bias[] = {10, 20, 30, 40};
  const View<const float, 3> repeated(bias, {2, 3, 4}, {0, 0, 1});
  ssm::map([](float a, float b) { return a + b; }, x, x, repeated);
  CHECK(x(0, 0, 0) == 10);
  CHECK(x(1, 2, 3) == 63);
}

TEST_CASE("axes that share a stride, as in a sliding window, are not taken for one axis") {
  const float signal[] = {0, 1, 2, 3, 4, 5};
  const View<const float, 2> windows(signal, {4, 3}, {1, 1});
  std::vector<float> seen;
  ssm::for_each_element([&](float value) { seen.push_back(value); }, windows);
  CHECK(seen == std::vector<float>{0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5});
}

TEST_CASE("tensors without axes and without elements are legal") {
  DynamicTensor<float, 0> scalar{Extents<>()};
  ssm::fill(scalar, 2);
  CHECK(scalar() == 2);
  DynamicTensor<float, 3> none({3, 0, 4});
  int calls = 0;
  ssm::for_each_element([&](float&) { ++calls; }, none);
  ssm::for_each_element([&](float&) { ++calls; }, none.transpose(0, 2));
  CHECK(calls == 0);
  ssm::for_each_element([&](float&) { ++calls; }, View<float, 1>());
  CHECK(calls == 0);
}

TEST_CASE("for_each_element visits in row-major order whatever the strides") {
  auto x = counted<int>(2, 3, 4);
  std::vector<int> seen;
  ssm::for_each_element([&](int value) { seen.push_back(value); }, x.transpose(1, 2));
  std::vector<int> expected;
  for (Index i = 0; i < 2; ++i)
    for (Index k = 0; k < 4; ++k)
      for (Index j = 0; j < 3; ++j) expected.push_back(x(i, j, k));
  CHECK(seen == expected);
}

TEST_CASE("for_each_element walks several tensors in lockstep and may change them") {
  auto x = counted<float>(2, 3, 4);
  DynamicTensor<float, 3> y({2, 4, 3});
  ssm::for_each_element([](const float& a, float& b) { b = a; }, x, y.transpose(1, 2));
  CHECK(y(1, 3, 2) == x(1, 2, 3));
  CHECK(y(0, 2, 1) == x(0, 1, 2));
}

TEST_CASE("copy converts between scalars and layouts, and there and back is the same") {
  const auto x = counted<double>(3, 65, 2);
  DynamicTensor<ssm::Float16, 3> half({65, 2, 3});
  const auto half_as_x = half.transpose(0, 2).transpose(1, 2);  // [3, 65, 2]
  ssm::copy(x, half_as_x);
  DynamicTensor<double, 3> back({3, 65, 2});
  ssm::copy(half_as_x, back);
  for (Index i = 0; i < x.size(); ++i) CHECK(back.data()[i] == x.data()[i]);
  CHECK(static_cast<float>(half(64, 1, 2)) == x(2, 64, 1));
}

TEST_CASE("copy keeps the bits of halves, also of NaN") {
  DynamicTensor<ssm::BFloat16, 1> from(3);
  from(1) = ssm::BFloat16::from_bits(0x7f81);
  DynamicTensor<ssm::BFloat16, 1> to(3);
  ssm::copy(from, to);
  CHECK(to(1).bits() == 0x7f81);
}

TEST_CASE("copy works between a span, an Eigen matrix and a tensor") {
  const std::vector<float> memory{1, 2, 3, 4, 5, 6};
  const std::span<const float> numbers(memory);
  Eigen::MatrixXd matrix(2, 3);
  ssm::copy(ssm::view_of(numbers).reshape(2, 3), matrix);
  CHECK(matrix(1, 0) == 4);
  DynamicTensor<float, 1> tensor(6);
  ssm::copy(numbers, tensor);
  CHECK(tensor(5) == 6);
}

TEST_CASE("fill converts its value once") {
  DynamicTensor<ssm::BFloat16, 1> x(65);
  ssm::fill(x, 0.1);
  for (Index i = 0; i < 65; ++i) CHECK(x(i) == ssm::BFloat16(0.1F));
}

TEST_CASE("zeros_like has the scalar and the extents, static ones included") {
  const ssm::Tensor<float, Extents<dyn, 3>> x({2});
  const auto zeros = ssm::zeros_like(x.view());
  static_assert(std::is_same_v<decltype(zeros), const ssm::Tensor<float, Extents<dyn, 3>>>);
  CHECK(zeros.extents() == x.extents());
  CHECK(zeros(1, 2) == 0);
}

TEST_CASE("a clone of a view is contiguous and its own") {
  auto x = counted<float>(2, 3, 4);
  const auto copy = ssm::clone(x.transpose(0, 2));
  CHECK(copy.extent(0) == 4);
  x(1, 2, 3) = -1;
  CHECK(copy(3, 2, 1) == 23);
}

TEST_CASE("extents that differ and missing operands are refused by name") {
  DynamicTensor<float, 2> x({2, 3});
  DynamicTensor<float, 2> y({3, 2});
  CHECK_THROWS_WITH_AS(ssm::copy(y, x), "copy: operand 1 must be [2, 3], got [3, 2]",
                       ssm::ShapeError);
  const auto add = [](float a, float b) { return a + b; };
  CHECK_THROWS_WITH_AS(ssm::map(add, x, x, y), "map: operand 2 must be [2, 3], got [3, 2]",
                       ssm::ShapeError);
  ssm::Tensor<float, Extents<3>> null;
  CHECK_THROWS_WITH_AS(ssm::fill(null, 1), "fill: operand 0 is missing", ssm::ShapeError);
}
