// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "ssm/backend/cpu/simd.hpp"

namespace ssm::cpu {

/// Exchanges rows and lanes of a square of registers. xsimd's zip functions mean different things
/// on different registers; the compilers' own shuffle does not.
template <class T, class Arch>
class Transposition {
 public:
  static constexpr int size = static_cast<int>(Batch<T, Arch>::size);

  static void run(Batch<T, Arch>* rows) {
    Vector from[size], to[size];
    std::memcpy(from, rows, sizeof(from));
    for (int step = 1; step < size;
         step *= 2) {  // a perfect shuffle moves one bit of the row into the lane
      unrolled<size / 2>([&](auto i) {
        to[2 * i] =
            shuffled<0>(from[i], from[i + size / 2], std::make_integer_sequence<int, size>{});
        to[2 * i + 1] = shuffled<size / 2>(from[i], from[i + size / 2],
                                           std::make_integer_sequence<int, size>{});
      });
      std::memcpy(from, to, sizeof(from));
    }
    std::memcpy(static_cast<void*>(rows), from, sizeof(from));
  }

 private:
  typedef T Vector __attribute__((vector_size(size * sizeof(T))));

  template <int First, int... I>
  static Vector shuffled(Vector a, Vector b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (First + I / 2 + I % 2 * size)...);
  }
};

/// Between two registers and their elements in turn: (a₀ b₀ a₁ b₁ …).
template <class T, class Arch>
class Interleave {
 public:
  using Register = Batch<T, Arch>;
  static Register low(const Register& a, const Register& b) {
    return shuffled(a, b, [](int i) { return i / 2 + i % 2 * size; });
  }
  static Register high(const Register& a, const Register& b) {
    return shuffled(a, b, [](int i) { return size / 2 + i / 2 + i % 2 * size; });
  }
  static Register even(const Register& a, const Register& b) {
    return shuffled(a, b, [](int i) { return 2 * i; });
  }
  static Register odd(const Register& a, const Register& b) {
    return shuffled(a, b, [](int i) { return 2 * i + 1; });
  }

 private:
  static constexpr int size = static_cast<int>(Register::size);
  typedef T Vector __attribute__((vector_size(size * sizeof(T))));

  template <class Order>
  static Register shuffled(const Register& a, const Register& b, Order) {
    return [&]<int... I>(std::integer_sequence<int, I...>) {
      Vector left, right;
      std::memcpy(&left, &a, sizeof(left));
      std::memcpy(&right, &b, sizeof(right));
      const Vector mixed = __builtin_shufflevector(left, right, Order{}(I)...);
      Register result;
      std::memcpy(static_cast<void*>(&result), &mixed, sizeof(mixed));
      return result;
    }
    (std::make_integer_sequence<int, size>{});
  }
};

/// to[column · lanes + row] = from[row · stride + column] for `count` ≤ lanes rows and `length`
/// columns; other lanes zero.
template <class T, class Arch>
void rows_to_lanes(const T* from, Index stride, Index count, Index length, T* to) {
  using Register = Batch<T, Arch>;
  constexpr Index lanes = lane_count<T, Arch>;
  for (Index column = 0; column < length; column += lanes) {
    const Index width = std::min(lanes, length - column);
    Register tile[lanes];
    for (Index row = 0; row < lanes; ++row)
      tile[row] =
          row < count ? gather<T, Arch>(from + row * stride + column, 1, width) : Register(T{0});
    Transposition<T, Arch>::run(tile);
    for (Index i = 0; i < width; ++i) tile[i].store_aligned(to + (column + i) * lanes);
  }
}

/// The other way round: visit(row, column, width, register) for every piece of at most `lanes`
/// columns of each row.
template <class T, class Arch, class F>
void lanes_to_rows(const T* from, Index count, Index length, F&& visit) {
  using Register = Batch<T, Arch>;
  constexpr Index lanes = lane_count<T, Arch>;
  for (Index column = 0; column < length; column += lanes) {
    const Index width = std::min(lanes, length - column);
    Register tile[lanes];
    for (Index i = 0; i < lanes; ++i)
      tile[i] = i < width ? Register::load_aligned(from + (column + i) * lanes) : Register(T{0});
    Transposition<T, Arch>::run(tile);
    for (Index row = 0; row < count; ++row) visit(row, column, width, tile[row]);
  }
}

}  // namespace ssm::cpu
