// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/transpose.hpp"  // Interleave

namespace ssm::cpu {

/// Σ of the lanes of as many registers as there are lanes: lane i of the result is the sum over
/// rows[i]. Neighboring lanes are added while two registers become one, three operations each.
/// Overwrites the rows.
template <class T, class Arch>
Batch<T, Arch> lane_sums(Batch<T, Arch>* rows) {
  using Shuffle = Interleave<T, Arch>;
  for (Index count = lane_count<T, Arch>; count > 1; count /= 2)
    for (Index i = 0; i < count / 2; ++i) {
      const auto a = rows[2 * i];
      const auto b = rows[2 * i + 1];
      rows[i] = Shuffle::even(a, b) + Shuffle::odd(a, b);
    }
  return rows[0];
}

}  // namespace ssm::cpu
