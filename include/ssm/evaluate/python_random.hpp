// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "ssm/core/error.hpp"

namespace ssm {

/// The numbers of Python's random.Random(seed), so that examples are drawn as programs in Python
/// draw them.
///   PythonRandom random(1234);
///   const std::vector<std::size_t> drawn = random.sample(100, 3);  // random.sample(range(100), 3)
/// Source  Matsumoto and Nishimura 1998 (MT19937, seeded by an array); Python's library, `random`
class PythonRandom {
 public:
  explicit PythonRandom(std::uint64_t seed) {
    state_[0] = 19650218U;
    for (std::uint32_t i = 1; i < size; ++i)
      state_[i] = 1812433253U * (state_[i - 1] ^ (state_[i - 1] >> 30U)) + i;
    std::vector<std::uint32_t> key{static_cast<std::uint32_t>(seed)};
    if (seed >> 32U != 0) key.push_back(static_cast<std::uint32_t>(seed >> 32U));
    std::uint32_t i = 1, j = 0;
    const auto step = [&] {
      if (++i >= size) {
        state_[0] = state_[size - 1];
        i = 1;
      }
    };
    for (std::uint32_t k = 0; k < size; ++k) {
      state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30U)) * 1664525U)) + key[j] + j;
      step();
      if (++j >= key.size()) j = 0;
    }
    for (std::uint32_t k = 1; k < size; ++k) {
      state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30U)) * 1566083941U)) - i;
      step();
    }
    state_[0] = 0x80000000U;
  }

  /// random.randrange(n)
  std::size_t below(std::size_t n) {
    if (n < 1 || n > 0xffffffffU) throw ArgumentError("random: a number below " + text(n));
    const auto bits = static_cast<unsigned>(std::bit_width(n));
    std::size_t number = 0;
    do number = next() >> (32U - bits);
    while (number >= n);
    return number;
  }
  /// random.sample(range(n), count): different numbers below n.
  /// Throws  ArgumentError  where there are not so many
  std::vector<std::size_t> sample(std::size_t n, std::size_t count) {
    if (count > n) throw ArgumentError("random: " + text(count) + " of " + text(n) + " things");
    std::vector<std::size_t> drawn;
    double listed = 21;  // of so few, Python keeps a list
    if (count > 5)
      listed += std::pow(4.0, std::ceil(std::log(3.0 * static_cast<double>(count)) / std::log(4)));
    if (static_cast<double>(n) <= listed) {
      std::vector<std::size_t> pool;
      for (std::size_t i = 0; i < n; ++i) pool.push_back(i);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = below(n - i);
        drawn.push_back(pool[at]);
        pool[at] = pool[n - i - 1];
      }
      return drawn;
    }
    std::set<std::size_t> seen;
    while (drawn.size() < count) {
      const std::size_t number = below(n);
      if (seen.insert(number).second) drawn.push_back(number);
    }
    return drawn;
  }

 private:
  static constexpr std::uint32_t size = 624, middle = 397;

  static std::string text(std::size_t n) { return std::to_string(n); }
  void refill() {
    for (std::uint32_t i = 0; i < size; ++i) {
      const std::uint32_t joined =
          (state_[i] & 0x80000000U) | (state_[(i + 1) % size] & 0x7fffffffU);
      state_[i] =
          state_[(i + middle) % size] ^ (joined >> 1U) ^ ((joined & 1U) != 0 ? 0x9908b0dfU : 0U);
    }
    at_ = 0;
  }
  std::uint32_t next() {
    if (at_ == size) refill();
    std::uint32_t y = state_[at_++];
    y ^= y >> 11U;
    y ^= (y << 7U) & 0x9d2c5680U;
    y ^= (y << 15U) & 0xefc60000U;
    return y ^ (y >> 18U);
  }

  std::array<std::uint32_t, size> state_{};
  std::uint32_t at_ = size;
};

}  // namespace ssm
