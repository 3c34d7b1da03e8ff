// SPDX-License-Identifier: Apache-2.0
#include "ssm/core/weight.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

struct Layer {
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Layer, T, Space> {
    Weight<T, Extents<dyn, 3>, Space> weight;
    Weight<T, Extents<dyn, 3>, Space> absent;
    DynamicTensor<T, 1, Space> bias;
  };
  static void for_each_parameter(auto&& visit, auto&... p) {
    visit(ParameterSpec{.name = "weight"}, p.weight...);
    visit(ParameterSpec{.name = "absent"}, p.absent...);
    visit(ParameterSpec{.name = "bias"}, p.bias...);
  }
};

Layer::Parameters<float> parameters() {
  Layer::Parameters<float> p;
  p.weight.reset({2});
  p.bias.reset({2});
  const float numbers[] = {1.F, -2.5F, 0x1.01p0F, 0x1.03p0F, 0x1.010002p0F, 1e30F};
  for (Index i = 0; i < 6; ++i) p.weight.data()[i] = numbers[i];
  return p;
}

TEST_CASE(
    "weights kept in bf16 are rounded to nearest, ties to even, and their full form is gone") {
  auto p = parameters();
  CHECK(weight_form(p) == WeightForm::full);
  keep_weights_in(p, WeightForm::bf16);
  CHECK(weight_form(p) == WeightForm::bf16);
  CHECK(p.weight.data() == nullptr);
  CHECK(p.weight.bf16.extents() == DynamicExtents<2>(2, 3));
  const float expected[] = {1.F, -2.5F, 1.F, 0x1.04p0F, 0x1.02p0F};
  for (Index i = 0; i < 5; ++i) CHECK(static_cast<float>(p.weight.bf16.data()[i]) == expected[i]);
  CHECK(p.weight.bf16(1, 2) == BFloat16(1e30F));
}

TEST_CASE(
    "keeping weights in bf16 leaves other parameters, and weights that are not there, alone") {
  auto p = parameters();
  keep_weights_in(p, WeightForm::bf16);
  CHECK(p.bias.size() == 2);
  CHECK_FALSE(p.absent);
  CHECK(p.weight);
}

TEST_CASE("keeping weights in bf16 twice changes nothing the second time") {
  auto p = parameters();
  keep_weights_in(p, WeightForm::bf16);
  const BFloat16* before = p.weight.bf16.data();
  keep_weights_in(p, WeightForm::bf16);
  CHECK(p.weight.bf16.data() == before);
}

TEST_CASE(
    "weights kept in f16 are rounded to nearest, and what only f16 makes infinite is refused") {
  auto p = parameters();
  p.weight(1, 2) = -65519;  // the last that rounds to 65504
  const std::size_t full = parameter_bytes(p);
  keep_weights_in(p, WeightForm::f16);
  CHECK(weight_form(p) == WeightForm::f16);
  CHECK(p.weight.data() == nullptr);
  CHECK(parameter_bytes(p) == full - 6 * sizeof(float) + 6 * sizeof(Float16));
  CHECK(parameter_count(p) == 8);
  CHECK(static_cast<float>(p.weight.f16(1, 0)) == 0x1.03p0F);
  CHECK(static_cast<float>(p.weight.f16(1, 2)) == -65504.F);
  const auto copy = p.weight.clone();
  CHECK(copy.f16(0, 1) == Float16(-2.5F));

  auto large = parameters();
  large.weight(1, 2) = 65520;
  CHECK_THROWS_WITH_AS(keep_weights_in(large, WeightForm::f16),
                       "weight: row 1 has a number beyond 65504, the largest that f16 can hold",
                       ArgumentError);
  CHECK(large.weight.form() == WeightForm::full);
  large.weight(1, 2) = std::numeric_limits<float>::infinity();
  keep_weights_in(large, WeightForm::f16);
  CHECK(std::isinf(static_cast<float>(large.weight.f16(1, 2))));
}

/// Rounds one row of three numbers.
struct RoundedRow {
  explicit RoundedRow(std::array<double, 3> numbers) {
    const View<const double, 2> row(numbers.data(), {1, 3});
    bad_row = round_rows_to_int8<double>(row, int8, scale);
  }
  DynamicTensor<std::int8_t, 2> int8{DynamicExtents<2>(1, 3)};
  DynamicTensor<float, 1> scale{DynamicExtents<1>(1)};
  std::optional<Index> bad_row;
};

TEST_CASE("int8 rounds a row to whole numbers times its largest by 127, ties to even") {
  const RoundedRow row({-254, 5, 3});  // the scale is 2: 2.5 and 1.5 are ties
  CHECK(row.bad_row == std::nullopt);
  CHECK(row.scale(0) == 2);
  CHECK(row.int8(0, 0) == -127);
  CHECK(row.int8(0, 1) == 2);
  CHECK(row.int8(0, 2) == 2);
}

TEST_CASE("a row of zeros, or of numbers too small for a scale, is zeros in int8") {
  for (const double number : {0.0, -0.0, 1e-37, 1e-300}) {
    const RoundedRow row({number, 0, -number});
    CHECK(row.bad_row == std::nullopt);
    CHECK(row.scale(0) == 0);
    for (Index k = 0; k < 3; ++k) CHECK(row.int8(0, k) == 0);
  }
}

TEST_CASE("int8 is at most half a scale away from every number of any size") {
  for (const double size : {1.0, 3e-36, 1e-3, 7.7, 1e38}) {
    CAPTURE(size);
    auto numbers = random_tensor<double>("numbers", 40, 33);
    for (Index i = 0; i < numbers.size(); ++i) numbers.data()[i] *= size;
    DynamicTensor<std::int8_t, 2> int8(numbers.extents());
    DynamicTensor<float, 1> scale({40});
    REQUIRE(round_rows_to_int8<double>(numbers, int8, scale) == std::nullopt);
    double worst = 0;
    for (Index n = 0; n < 40; ++n)
      for (Index k = 0; k < 33; ++k)
        worst = std::max(worst, std::abs(numbers(n, k) - double{scale(n)} * int8(n, k)) / scale(n));
    CHECK(worst <= 0.5 + 127 * 0x1p-24);  // the scale itself is rounded to a float
    CHECK(worst > 0.4);
  }
}

TEST_CASE("numbers that int8 cannot hold are refused by name, and the weight stays as it was") {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double number : {infinity, -infinity, std::nan(""), 1e300})
    CHECK(RoundedRow({0, number, 1}).bad_row == 0);
  auto p = parameters();
  p.weight(1, 1) = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(keep_weights_in(p, WeightForm::int8),
                       "weight: row 1 has a number that is not finite, which int8 cannot hold",
                       ArgumentError);
  CHECK(p.weight.form() == WeightForm::full);
  CHECK(p.weight(0, 1) == -2.5F);
}

TEST_CASE("weights kept in int8 take a quarter and a scale for each row") {
  auto p = parameters();
  CHECK(parameter_bytes(p) == 8 * sizeof(float));
  keep_weights_in(p, WeightForm::int8);
  CHECK(weight_form(p) == WeightForm::int8);
  CHECK(p.weight.data() == nullptr);
  CHECK(p.weight);
  CHECK_FALSE(p.absent);
  CHECK(p.weight.int8.extents() == DynamicExtents<2>(2, 3));
  CHECK(parameter_bytes(p) == 6 + 2 * sizeof(float) + 2 * sizeof(float));
  CHECK(parameter_count(p) == 8);
  const auto copy = p.weight.clone();
  CHECK(copy.int8(0, 1) == -127);
  CHECK(copy.scale(0) == 2.5F / 127);
  CHECK_THROWS_WITH_AS(keep_weights_in(p, WeightForm::full),
                       "weight: weights that are kept in int8 have no more digits, open the model "
                       "again in full precision",
                       ArgumentError);
}

TEST_CASE("rows of a weight are those of the form that it is kept in") {
  for (const WeightForm form :
       {WeightForm::full, WeightForm::bf16, WeightForm::f16, WeightForm::int8}) {
    auto p = parameters();
    p.weight(1, 2) = 1e4F;
    p.weight.keep_in(form);
    const WeightView<float, HostSpace> all = p.weight;
    const auto second = all.rows(1, 2);
    CHECK(static_cast<bool>(second.full) == (form == WeightForm::full));
    CHECK(static_cast<bool>(second.bf16) == (form == WeightForm::bf16));
    CHECK(static_cast<bool>(second.f16) == (form == WeightForm::f16));
    CHECK(static_cast<bool>(second.int8) == (form == WeightForm::int8));
    if (form == WeightForm::full) CHECK(second.full(0, 0) == p.weight(1, 0));
    if (form == WeightForm::bf16) CHECK(second.bf16(0, 0) == p.weight.bf16(1, 0));
    if (form == WeightForm::f16) CHECK(second.f16(0, 0) == p.weight.f16(1, 0));
    if (form != WeightForm::int8) continue;
    CHECK(second.int8(0, 2) == 127);
    CHECK(second.scale(0) == p.weight.scale(1));
  }
}

TEST_CASE("parameters are counted and weights copied in either form") {
  auto p = parameters();
  CHECK(parameter_count(p) == 8);
  CHECK(p.weight.clone()(1, 0) == 0x1.03p0F);
  keep_weights_in(p, WeightForm::bf16);
  CHECK(parameter_count(p) == 8);
  const auto copy = p.weight.clone();
  CHECK(copy.data() == nullptr);
  CHECK(copy.bf16(1, 0) == p.weight.bf16(1, 0));
}

}  // namespace
}  // namespace ssm::test
