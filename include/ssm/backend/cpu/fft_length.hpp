// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/error.hpp"  // Index

namespace ssm::cpu {

/// The smallest 4·2ᵃ·3ᵇ·5ᶜ that is at least n: lengths that every FFT here is quick at.
constexpr Index fft_length(Index n) {
  for (Index length = n <= 4 ? 4 : (n + 3) / 4 * 4;; length += 4) {
    Index rest = length;
    for (const Index factor : {2, 3, 5})
      while (rest % factor == 0) rest /= factor;
    if (rest == 1) return length;
  }
}

}  // namespace ssm::cpu
