// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/core/random.hpp"
#include "ssm/train/text_windows.hpp"

namespace ssm {

/// The numbers 0 … n−1 in a random order that takes no memory: a permutation of the smallest power
/// of four that is not below n, and from a number beyond n on to the next until one is below.
/// Cost    on average fewer than four applications of eight rounds of Philox a number
/// Source  Luby & Rackoff 1988 (Feistel rounds of a random function); Black & Rogaway 2002 (cycle
///         walking)
class RandomOrder {
 public:
  /// n at least 1.
  RandomOrder(std::uint64_t n, Seed seed) : n_(n), random_(seed) {
    while (half_bits_ < 32 && (std::uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
  }

  /// Number i of the order, i below n.
  std::uint64_t operator()(std::uint64_t i) const {
    do i = permuted(i);
    while (i >= n_);
    return i;
  }

 private:
  static constexpr std::uint64_t rounds = 8;

  std::uint64_t permuted(std::uint64_t i) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = i >> half_bits_;
    std::uint64_t right = i & mask;
    for (std::uint64_t round = 0; round < rounds; ++round) {
      const std::uint64_t mixed = random_.bits(right * rounds + round)[0] & mask;
      const std::uint64_t next = left ^ mixed;
      left = right;
      right = next;
    }
    return left << half_bits_ | right;
  }

  std::uint64_t n_;
  Random random_;
  unsigned half_bits_ = 1;
};

/// A text cut into windows one behind the other, which are read epoch by epoch: in every epoch each
/// window once, in an order of that epoch. What is behind the last whole window is not read.
///   const ShuffledWindows windows(text, 1024, 16, Seed{1});
/// The rows of an update are consecutive windows of the order; where an epoch ends within an
/// update, the next one begins there.
/// Throws  as TextWindows
class ShuffledWindows final : public TextWindows {
 public:
  ShuffledWindows(TokenView text, Index length, Index rows, Seed seed)
      : TextWindows(text, length, rows), windows_((text.size() - 1) / length), seed_(seed) {}

  /// Windows of an epoch.
  Index windows() const { return windows_; }
  bool is_continued() const override { return false; }
  Index begin_of(Index row, Index step) const override {
    const Index read = step * rows() + row;
    const RandomOrder order(static_cast<std::uint64_t>(windows_),
                            seed_.fork(static_cast<std::uint64_t>(read / windows_)));
    return static_cast<Index>(order(static_cast<std::uint64_t>(read % windows_))) * length();
  }

 private:
  Index windows_;
  Seed seed_;
};

}  // namespace ssm
