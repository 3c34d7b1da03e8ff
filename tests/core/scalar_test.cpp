// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ssm/core/scalar.hpp>
#include <type_traits>

using ssm::BFloat16;
using ssm::Float16;

static_assert(sizeof(BFloat16) == 2 && sizeof(Float16) == 2);
static_assert(std::is_trivially_copyable_v<BFloat16> && std::is_trivially_copyable_v<Float16>);
static_assert(!std::is_convertible_v<float, Float16> && !std::is_convertible_v<Float16, float>);
static_assert(ssm::Real<double> && !ssm::Real<int> && !ssm::Real<Float16>);
static_assert(std::is_same_v<ssm::Wide<BFloat16>, float>);
static_assert(std::is_same_v<ssm::Wide<double>, double>);
static_assert(static_cast<float>(Float16(1.5F)) == 1.5F);  // constant expressions

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// The value of a half-precision pattern, from the definition of the format.
double value_of_pattern(std::uint32_t bits, int fraction_bits, int exponent_bits) {
  const std::uint32_t fraction = bits & ((1U << fraction_bits) - 1U);
  const std::uint32_t exponent = (bits >> fraction_bits) & ((1U << exponent_bits) - 1U);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  if (exponent == (1U << exponent_bits) - 1U)
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * infinity;
  const double mantissa = exponent == 0 ? fraction : fraction + std::ldexp(1.0, fraction_bits);
  const int power = (exponent == 0 ? 1 : static_cast<int>(exponent)) - bias - fraction_bits;
  return sign * std::ldexp(mantissa, power);
}

template <class Half>
int wrong_patterns(int fraction_bits, int exponent_bits) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto value = static_cast<float>(Half::from_bits(static_cast<std::uint16_t>(bits)));
    const double expected = value_of_pattern(bits, fraction_bits, exponent_bits);
    if (std::isnan(expected))
      wrong += std::isnan(value) && std::isnan(static_cast<float>(Half(value))) ? 0 : 1;
    else
      wrong += value == expected && Half(value).bits() == bits ? 0 : 1;
  }
  return wrong;
}

/// Between neighboring finite patterns: just below the middle rounds down, just above up, the
/// middle to even.
template <class Half>
int wrong_roundings(std::uint16_t largest) {
  int wrong = 0;
  for (std::uint16_t bits = 0; bits < largest; ++bits) {
    const auto low = static_cast<float>(Half::from_bits(bits));
    const auto high = static_cast<float>(Half::from_bits(static_cast<std::uint16_t>(bits + 1)));
    const float middle = low + (high - low) / 2;  // exact: a half has far fewer bits
    const std::uint16_t even = static_cast<std::uint16_t>(bits + (bits & 1U));
    wrong += Half(middle).bits() == even ? 0 : 1;
    wrong += Half(std::nextafter(middle, low)).bits() == bits ? 0 : 1;
    wrong += Half(std::nextafter(middle, high)).bits() == bits + 1 ? 0 : 1;
    wrong += Half(-middle).bits() == (even | 0x8000U) ? 0 : 1;
  }
  return wrong;
}

TEST_CASE("a number that an integer cannot hold becomes the nearest one, and a NaN zero") {
  CHECK(ssm::scalar_cast<std::int8_t>(302.2) == 127);
  CHECK(ssm::scalar_cast<std::int8_t>(-1e30F) == -128);
  CHECK(ssm::scalar_cast<std::int8_t>(-128.9) == -128);
  CHECK(ssm::scalar_cast<std::uint16_t>(-0.5) == 0);
  CHECK(ssm::scalar_cast<std::int64_t>(1e19) == std::numeric_limits<std::int64_t>::max());
  CHECK(ssm::scalar_cast<std::int32_t>(std::numeric_limits<double>::quiet_NaN()) == 0);
  CHECK(ssm::scalar_cast<std::int32_t>(ssm::BFloat16(-2.75F)) == -2);
}

}  // namespace

TEST_CASE(
    "every bf16 and f16 pattern has the value its format defines and survives the way to float and "
    "back") {
  CHECK(wrong_patterns<BFloat16>(7, 8) == 0);
  CHECK(wrong_patterns<Float16>(10, 5) == 0);
}

TEST_CASE("halves round to nearest, ties to even, over the whole range with subnormals") {
  CHECK(wrong_roundings<BFloat16>(0x7f7f) == 0);
  CHECK(wrong_roundings<Float16>(0x7bff) == 0);
}

TEST_CASE("f16 overflows to infinity from 65520 on, and underflows to zero up to 2^-25") {
  CHECK(Float16(65519.996F).bits() == 0x7bff);
  CHECK(Float16(65520.0F).bits() == 0x7c00);
  CHECK(Float16(-1e30F).bits() == 0xfc00);
  CHECK(Float16(0x1p-25F).bits() == 0);
  CHECK(Float16(-0x1p-25F).bits() == 0x8000);
  CHECK(Float16(std::nextafter(0x1p-25F, 1.0F)).bits() == 1);
}

TEST_CASE("bf16 overflows to infinity above the middle of its last step") {
  CHECK(BFloat16(std::numeric_limits<float>::max()).bits() == 0x7f80);
  CHECK(BFloat16(-infinity).bits() == 0xff80);
}

TEST_CASE("NaN stays NaN with any payload, and signed zeros keep their sign") {
  for (const std::uint32_t word : {0x7f800001U, 0x7fffffffU, 0xff800001U, 0x7fc00000U}) {
    const auto nan = std::bit_cast<float>(word);
    CHECK(std::isnan(static_cast<float>(BFloat16(nan))));
    CHECK(std::isnan(static_cast<float>(Float16(nan))));
  }
  CHECK(BFloat16(-0.0F).bits() == 0x8000);
  CHECK(std::signbit(static_cast<float>(Float16::from_bits(0x8000))));
}

TEST_CASE("halves compare as numbers") {
  CHECK(Float16::from_bits(0x8000) == Float16());
  CHECK_FALSE(BFloat16::from_bits(0x7fc0) == BFloat16::from_bits(0x7fc0));
  CHECK_FALSE(Float16(1.0F) == Float16(2.0F));
}

TEST_CASE("scalars convert between any two types") {
  CHECK(ssm::scalar_cast<BFloat16>(1.0).bits() == 0x3f80);
  CHECK(ssm::scalar_cast<Float16>(BFloat16(2.0F)).bits() == 0x4000);
  CHECK(ssm::scalar_cast<double>(Float16(0.5F)) == 0.5);
  CHECK(ssm::scalar_cast<std::int32_t>(Float16(-3.0F)) == -3);
  CHECK(ssm::scalar_cast<float>(std::int64_t{7}) == 7.0F);
  const auto nan = Float16::from_bits(0x7e55);
  CHECK(ssm::scalar_cast<Float16>(nan).bits() == 0x7e55);
}

TEST_CASE("narrower scalars have wider tolerances") {
  CHECK(ssm::tolerance<double>.value < ssm::tolerance<float>.value);
  CHECK(ssm::tolerance<float>.value < ssm::tolerance<Float16>.value);
  CHECK(ssm::tolerance<Float16>.value < ssm::tolerance<BFloat16>.value);
}

TEST_CASE("scalars have names") {
  CHECK(ssm::scalar_name<float>() == "float");
  CHECK(ssm::scalar_name<BFloat16>() == "bf16");
  CHECK(ssm::scalar_name<std::int64_t>() == "int64");
}
