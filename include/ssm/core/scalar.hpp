// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string_view>

#include "ssm/one_set_of_flags.hpp"

namespace ssm {

/// The top half of an IEEE float: 8 bits of exponent, 7 of fraction. Storage only; arithmetic
/// happens in float. Rounds to nearest, ties to even; a NaN stays a NaN.
class BFloat16 {
 public:
  constexpr BFloat16() = default;
  constexpr explicit BFloat16(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (word & 0x7fffffffU) > 0x7f800000U;
    const std::uint32_t rounded = word + 0x7fffU + ((word >> 16) & 1U);
    bits_ = static_cast<std::uint16_t>(is_nan ? (word >> 16) | 0x40U : rounded >> 16);
  }
  constexpr explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits_) << 16);
  }
  static constexpr BFloat16 from_bits(std::uint16_t bits) {
    BFloat16 value;
    value.bits_ = bits;
    return value;
  }
  constexpr std::uint16_t bits() const { return bits_; }
  friend constexpr bool operator==(BFloat16 a, BFloat16 b) {
    return static_cast<float>(a) == static_cast<float>(b);
  }

 private:
  std::uint16_t bits_ = 0;
};

/// IEEE binary16: 5 bits of exponent, 10 of fraction. Storage only; arithmetic happens in float.
/// Rounds to nearest, ties to even; overflows to infinity; keeps subnormals.
class Float16 {
 public:
  constexpr Float16() = default;
  constexpr explicit Float16(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((word >> 16) & 0x8000U);
    const std::uint32_t magnitude = word & 0x7fffffffU;
    std::uint32_t half = 0;
    if (magnitude > 0x7f800000U) {
      half = 0x7e00U;  // NaN
    } else if (magnitude >= 0x47800000U) {
      half = 0x7c00U;  // 2^16 and more
    } else if (magnitude >= 0x38800000U) {
      half = round_shift(magnitude - 0x38000000U, 13);
    } else if (magnitude >= 0x33000000U) {  // subnormal: 2^-25 and more
      const std::uint32_t fraction = (magnitude & 0x7fffffU) | 0x800000U;
      half = round_shift(fraction, 126 - static_cast<int>(magnitude >> 23));
    }
    bits_ = static_cast<std::uint16_t>(sign | half);
  }
  constexpr explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits_ & 0x8000U) << 16;
    const std::uint32_t exponent = (bits_ >> 10) & 0x1fU;
    const std::uint32_t fraction = bits_ & 0x3ffU;
    if (exponent == 0) {  // zero and subnormals: fraction · 2^-24
      const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
      return sign != 0 ? -magnitude : magnitude;
    }
    const std::uint32_t wide = exponent == 31 ? 0x7f800000U : (exponent + 112U) << 23;
    return std::bit_cast<float>(sign | wide | (fraction << 13));
  }
  static constexpr Float16 from_bits(std::uint16_t bits) {
    Float16 value;
    value.bits_ = bits;
    return value;
  }
  constexpr std::uint16_t bits() const { return bits_; }
  friend constexpr bool operator==(Float16 a, Float16 b) {
    return static_cast<float>(a) == static_cast<float>(b);
  }

 private:
  static constexpr std::uint32_t round_shift(std::uint32_t value, int shift) {
    const std::uint32_t half = 1U << (shift - 1);
    const std::uint32_t odd = (value >> shift) & 1U;
    return (value + half - 1U + odd) >> shift;
  }
  std::uint16_t bits_ = 0;
};

/// What layers compute with.
template <class T>
concept Real = std::same_as<T, float> || std::same_as<T, double>;

/// What tensors may hold in files and memory.
template <class T>
concept HalfStorage = std::same_as<T, BFloat16> || std::same_as<T, Float16>;

namespace detail {
template <class T>
struct WideOf {
  using Type = T;
};
template <HalfStorage T>
struct WideOf<T> {
  using Type = float;
};
template <class T>
struct WideOf<const T> {
  using Type = const typename WideOf<T>::Type;
};
}  // namespace detail

/// What goes with sequences and weight matrices in T: the type of all other parameters, of states,
/// gradients of parameters, statistics, and of arithmetic. float for the half types, else T itself.
template <class T>
using Wide = typename detail::WideOf<T>::Type;

/// Converts between any two scalars; half types go through float. Fractions are cut off; what an
/// integer cannot hold becomes its largest or smallest value, and a NaN zero.
template <class To, class From>
constexpr To scalar_cast(From value) {
  if constexpr (std::same_as<To, From>)
    return value;
  else if constexpr (HalfStorage<From>)
    return scalar_cast<To>(static_cast<float>(value));
  else if constexpr (HalfStorage<To>)
    return To(static_cast<float>(value));
  else if constexpr (std::floating_point<From> && std::integral<To>) {
    constexpr To low = std::numeric_limits<To>::min();
    constexpr To high = std::numeric_limits<To>::max();
    if (value >= static_cast<From>(high)) return high;
    if (value >= static_cast<From>(low)) return static_cast<To>(value);
    return value == value ? low : To{0};
  } else {
    return static_cast<To>(value);
  }
}

/// How far a correct result may be from the exact one: |x − y| ≤ tolerance · max(1, max|y|).
/// Gradients are compared against the largest element of their tensor. Of the half types: two units
/// in the last place.
struct Tolerance {
  double value;
  double gradient;
};
template <class T>
inline constexpr Tolerance tolerance{};
template <>
inline constexpr Tolerance tolerance<double>{.value = 1e-10, .gradient = 1e-9};
template <>
inline constexpr Tolerance tolerance<float>{.value = 2e-4, .gradient = 2e-3};
template <>
inline constexpr Tolerance tolerance<Float16>{.value = 2e-3, .gradient = 2e-2};
template <>
inline constexpr Tolerance tolerance<BFloat16>{.value = 2e-2, .gradient = 5e-2};

/// The name of a scalar in messages and names of tests: "float", "bf16".
template <class T>
constexpr std::string_view scalar_name() {
  if constexpr (std::same_as<T, float>) return "float";
  if constexpr (std::same_as<T, double>) return "double";
  if constexpr (std::same_as<T, BFloat16>) return "bf16";
  if constexpr (std::same_as<T, Float16>) return "f16";
  if constexpr (std::integral<T>)
    return sizeof(T) == 1 ? "int8" : sizeof(T) == 4 ? "int32" : "int64";
}

/// An element of a vocabulary.
using Token = std::int32_t;

}  // namespace ssm
