// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include "ssm/core/scalar.hpp"
#include "ssm/core/tensor_view.hpp"

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
    return to_normal(b[0], b[1], b[2], b[3]);
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
      for (int j = 0; j < n; ++j)
        to[begin + j] = scalar_cast<T>(deviation * to_normal(b[0][j], b[1][j], b[2][j], b[3][j]));
    });
  }

 private:
  static constexpr int lanes = 16;
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
  [[gnu::noinline]] void draw(std::uint64_t first, Block& c) const {
    for (int j = 0; j < lanes; ++j) {
      const std::uint64_t i = first + static_cast<std::uint64_t>(j);
      c[0][j] = static_cast<std::uint32_t>(i);
      c[1][j] = static_cast<std::uint32_t>(i >> 32);
      c[2][j] = c[3][j] = 0;
    }
    auto key0 = static_cast<std::uint32_t>(seed_.value);
    auto key1 = static_cast<std::uint32_t>(seed_.value >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int j = 0; j < lanes; ++j) {
        const std::uint64_t a = std::uint64_t{0xD2511F53U} * c[0][j];
        const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * c[2][j];
        c[0][j] = static_cast<std::uint32_t>(b >> 32) ^ c[1][j] ^ key0;
        c[1][j] = static_cast<std::uint32_t>(b);
        c[2][j] = static_cast<std::uint32_t>(a >> 32) ^ c[3][j] ^ key1;
        c[3][j] = static_cast<std::uint32_t>(a);
      }
      key0 += 0x9E3779B9U;
      key1 += 0xBB67AE85U;
    }
  }

  static double to_normal(std::uint32_t b0, std::uint32_t b1, std::uint32_t b2, std::uint32_t b3) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - to_unit(b0, b1)));
    return radius * std::cos(2.0 * std::numbers::pi * to_unit(b2, b3));
  }
  static constexpr double to_unit(std::uint32_t low, std::uint32_t high) {
    const std::uint64_t word = (std::uint64_t{high} << 32) | low;
    return static_cast<double>(word >> 11) * 0x1p-53;
  }
  Seed seed_;
};

}  // namespace ssm
