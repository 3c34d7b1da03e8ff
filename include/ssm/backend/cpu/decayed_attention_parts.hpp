// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/op/decayed_attention.hpp"

namespace ssm::cpu {

/// A matrix in memory of which rows and columns are any number of elements apart, also backwards.
template <class T>
struct Strided {
  T* data = nullptr;
  Index row = 0;
  Index column = 0;
  T* at(Index i) const { return data + i * row; }
};

/// One head of one sequence:  S_n = γ·S_{n−1} + k_n ⊗ v_n,  y_n = q_n·S_n.
template <class T>
struct DecayedHead {
  Index length = 0;
  Index key_width = 0;
  Range values{0, 0};  // columns of v, S and y that this call computes
  double log_decay = 0;
  bool fades_first = true;  // false: the initial state meets the first row unfaded
  double final_factor = 1;
  Strided<const T> q{}, k{}, v{}, initial{};  // a null state is zero, or not wanted
  Strided<T> final{}, y{};
};

/// Into how many parts each of `units` equal pieces of work is cut, at most `pieces`, so that
/// threads get equal shares: one where the units share out evenly or are many.
inline Index even_parts(int threads, Index units, Index pieces) {
  if (units == 0 || units >= 4 * threads) return 1;
  Index parts = 1;
  while (units * parts % threads != 0) ++parts;
  return std::min(parts, std::max<Index>(1, pieces));
}

}  // namespace ssm::cpu
