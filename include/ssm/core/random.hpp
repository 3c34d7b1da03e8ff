// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numbers>
#include <string_view>
#include <utility>

#include "ssm/core/scalar.hpp"
#include "ssm/core/tensor_view.hpp"
#include "ssm/core/word_vector.hpp"

namespace ssm {

/// Names a stream of random numbers. The same seed gives the same numbers on every machine and
/// thread count.
struct Seed {
  std::uint64_t value = 0;

  /// An independent stream for a part, by number or by name.
  constexpr Seed fork(std::uint64_t part) const {
    std::uint64_t z = value + 0x9e3779b97f4a7c15U * (part + 1);  // SplitMix64
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return Seed{z ^ (z >> 31)};
  }
  constexpr Seed fork(std::string_view name) const {
    std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    return fork(hash);
  }
};

/// Counter-based random numbers: number i of a stream costs the same whatever came before, so any
/// thread may draw it.
/// Source  Salmon et al. 2011, Philox4x32-10
class Random {
 public:
  constexpr explicit Random(Seed seed) : seed_(seed) {}

  /// 128 random bits for counter i.
  constexpr std::array<std::uint32_t, 4> bits(std::uint64_t i) const {
    std::array<std::uint32_t, 4> c{static_cast<std::uint32_t>(i),
                                   static_cast<std::uint32_t>(i >> 32), 0, 0};
    auto key0 = static_cast<std::uint32_t>(seed_.value);
    auto key1 = static_cast<std::uint32_t>(seed_.value >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t a = std::uint64_t{0xD2511F53U} * c[0];
      const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * c[2];
      c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key0, static_cast<std::uint32_t>(b),
           static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key1, static_cast<std::uint32_t>(a)};
      key0 += 0x9E3779B9U;
      key1 += 0xBB67AE85U;
    }
    return c;
  }

  /// Uniform in [0, 1), 53 bits.
  constexpr double uniform(std::uint64_t i) const { return to_unit(bits(i)[0], bits(i)[1]); }
  constexpr double uniform(std::uint64_t i, double low, double high) const {
    return low + (high - low) * uniform(i);
  }
  /// Uniform in 0 … n−1, by multiplication; the bias is below n / 2^64.
  constexpr std::uint64_t below(std::uint64_t i, std::uint64_t n) const {
    const auto b = bits(i);  // the high half of a 64 × 64-bit product, 32 bits at a time
    const std::uint64_t n0 = n & 0xffffffffU;
    const std::uint64_t n1 = n >> 32;
    const std::uint64_t middle = b[1] * n0 + ((b[0] * n0) >> 32);
    const std::uint64_t carried = b[0] * n1 + (middle & 0xffffffffU);
    return b[1] * n1 + (middle >> 32) + (carried >> 32);
  }
  /// Normal with mean 0 and variance 1 (Box–Muller).
  double normal(std::uint64_t i) const {
    const auto b = bits(i);
    return std::sqrt(squared_radius(b[0], b[1])) * cosine_of_turn(b[2], b[3]);
  }

  /// to[j] = uniform(first + j, low, high) for j < count, some at a time: several times as fast as
  /// one by one.
  template <class T>
  void fill_uniform(T* to, std::uint64_t first, Index count, double low, double high) const {
    for_each_block(first, count, [&](const Block& b, Index begin, int n) {
      for (int j = 0; j < n; ++j)
        to[begin + j] = scalar_cast<T>(low + (high - low) * to_unit(b[0][j], b[1][j]));
    });
  }
  /// to[j] = deviation · normal(first + j) for j < count, some at a time.
  template <class T>
  void fill_normal(T* to, std::uint64_t first, Index count, double deviation) const {
    for_each_block(first, count, [&](const Block& b, Index begin, int n) {
      double
          normals[lanes];  // loops of their own, because compilers make no vectors of square roots
      for (int j = 0; j < lanes; ++j) normals[j] = squared_radius(b[0][j], b[1][j]);
      for (int j = 0; j < lanes; ++j) normals[j] = std::sqrt(normals[j]);
      for (int j = 0; j < lanes; ++j) normals[j] *= cosine_of_turn(b[2][j], b[3][j]);
      for (int j = 0; j < n; ++j) to[begin + j] = scalar_cast<T>(deviation * normals[j]);
    });
  }

 private:
  static constexpr int lanes = 64;        // so many that compilers keep the loops and make vectors
  using Block = std::uint32_t[4][lanes];  // word w of the bits of counter first + j at [w][j]

  /// The bits of `count` counters, a block at a time: body(block, index of its first, how many of
  /// it).
  template <class Body>
  void for_each_block(std::uint64_t first, Index count, Body&& body) const {
    Block bits;
    for (Index begin = 0; begin < count; begin += lanes) {
      draw(first + static_cast<std::uint64_t>(begin), bits);
      body(bits, begin, static_cast<int>(std::min<Index>(lanes, count - begin)));
    }
  }
  /// `bits` of counters first + j to c[0 … 3][j], in vectors.
  [[gnu::noinline]] void draw(std::uint64_t first, Block& c) const {
    using detail::Words;
    constexpr int words = detail::words_in_vector;
    constexpr int vectors = 4;  // at once, so that products overlap
    using Narrow [[gnu::vector_size(4 * words)]] = std::uint32_t;
    for (int begin = 0; begin < lanes; begin += vectors * words) {
      Words w[4][vectors] = {};
      for (int v = 0; v < vectors; ++v) {
        for (int j = 0; j < words; ++j)
          w[0][v][j] = first + static_cast<std::uint64_t>(begin + v * words + j);
        w[1][v] = w[0][v] >> 32;
      }
      auto key0 = static_cast<std::uint32_t>(seed_.value);
      auto key1 = static_cast<std::uint32_t>(seed_.value >> 32);
      for (int round = 0; round < 10; ++round) {
        for (int v = 0; v < vectors; ++v) {
          Words a, b;
          detail::multiply_low_halves(0xD2511F53U, w[0][v], a);
          detail::multiply_low_halves(0xCD9E8D57U, w[2][v], b);
          w[0][v] = (b >> 32) ^ w[1][v] ^ key0;
          w[1][v] = b;
          w[2][v] = (a >> 32) ^ w[3][v] ^ key1;
          w[3][v] = a;
        }
        key0 += 0x9E3779B9U;
        key1 += 0xBB67AE85U;
      }
      for (int word = 0; word < 4; ++word)
        for (int v = 0; v < vectors; ++v) {
          const auto narrow = __builtin_convertvector(w[word][v] & 0xffffffffU, Narrow);
          std::memcpy(&c[word][begin + v * words], &narrow, sizeof(narrow));
        }
    }
  }

  // Box–Muller by plain arithmetic, of which compilers make vectors: the library's functions take
  // most of the time in which a large model gets its first values.

  /// −2 log(1 − uniform), good to a few units in the last place.
  static constexpr double squared_radius(std::uint32_t low, std::uint32_t high) {
    // 1 − uniform = m · 2^e with m between the square roots of 1/2 and 2.
    constexpr std::uint64_t root_of_half = 0x3fe6a09e667f3bcdU;
    constexpr std::uint64_t bias = 1023;
    const auto word = std::bit_cast<std::uint64_t>(1.0 - to_unit(low, high));
    const std::uint64_t biased = (word - root_of_half + (bias << 52)) >> 52;
    const auto m = std::bit_cast<double>(word - ((biased - bias) << 52));
    const double e = small_integer(biased) - static_cast<double>(bias);
    // log m = 2 artanh s
    const double s = (m - 1) / (m + 1);
    const double z = s * s;
    const double sum = odd_series(z, std::make_index_sequence<11>());
    return -2 * (e * std::numbers::ln2 + 2 * s * sum);
  }
  /// cos(2π · uniform), good to a few units in the last place of 1.
  static constexpr double cosine_of_turn(std::uint32_t low, std::uint32_t high) {
    // The angle is a number of quarters and at most an eighth of a turn more or less.
    constexpr std::uint64_t quarter = std::uint64_t{1} << 51;  // 2^53 are a turn
    const std::uint64_t shifted = (((std::uint64_t{high} << 32) | low) >> 11) + quarter / 2;
    const std::uint64_t quarters = shifted / quarter;
    const double rest = small_integer(shifted % quarter) - static_cast<double>(quarter / 2);
    const double x = rest * (2 * std::numbers::pi * 0x1p-53);
    const double z = x * x;
    const double even = taylor(z, -1, std::make_index_sequence<8>());
    const double odd = x * taylor(z, 1, std::make_index_sequence<8>());
    // An odd number of quarters takes the sine; the second and the third quarter are negative.
    const std::uint64_t takes_odd = 0 - quarters % 2;
    const std::uint64_t sign = (quarters + 1) / 2 % 2 << 63;
    const auto even_word = std::bit_cast<std::uint64_t>(even);
    const auto odd_word = std::bit_cast<std::uint64_t>(odd);
    return std::bit_cast<double>(((even_word & ~takes_odd) | (odd_word & takes_odd)) ^ sign);
  }
  /// 1 + z/3 + z²/5 + …, as many terms
  template <std::size_t... K>
  static constexpr double odd_series(double z, std::index_sequence<K...>) {
    double sum = 0;
    ((sum = sum * z + 1.0 / static_cast<double>(2 * (sizeof...(K) - K) - 1)), ...);
    return sum;
  }
  /// The series of the cosine, shift −1, or of the sine over x, shift 1, in z = x²:
  /// 1 − z/(k (k + shift)) (1 − …) for k = 2, 4, …
  template <std::size_t... K>
  static constexpr double taylor(double z, int shift, std::index_sequence<K...>) {
    double sum = 1;
    ((sum = 1 - sum * (z * (1.0 / even_product(2 * (sizeof...(K) - K), shift)))), ...);
    return sum;
  }
  static constexpr double even_product(std::size_t k, int shift) {
    return static_cast<double>(k) * (static_cast<double>(k) + shift);
  }
  /// A whole number below 2^52 as a double.
  static constexpr double small_integer(std::uint64_t n) {
    return std::bit_cast<double>(n | 0x4330000000000000U) - 0x1p52;
  }
  static constexpr double to_unit(std::uint32_t low, std::uint32_t high) {
    return (static_cast<double>(high) * 0x1p21 + static_cast<double>(low >> 11)) * 0x1p-53;
  }
  Seed seed_;
};

}  // namespace ssm
