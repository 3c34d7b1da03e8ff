// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/simd.hpp"

namespace ssm::cpu {

/// The states of some neighboring channels of one sequence, between memory, [S, D, N] or [S, D, P,
/// 1|2], and scratch with a channel in each lane, [N][lanes] or [P][2][lanes].
template <class T, class Arch>
struct ChannelStates {
  static constexpr Index lanes = lane_count<T, Arch>;

  /// Fills `size` scalars; zero where there is no view and in the lanes beyond `count`.
  template <class V>
  [[gnu::noinline]] static void read(const V& states, Index sequence, Index channel, Index count,
                                     T* to, Index size) {
    std::fill_n(to, size, T{0});
    if (!states) return;
    for (Index lane = 0; lane < count; ++lane)
      for_each(states, sequence, channel + lane,
               [&](Index i, const T& element) { to[i * lanes + lane] = element; });
  }
  template <class V>
  [[gnu::noinline]] static void write(const V& states, Index sequence, Index channel, Index count,
                                      const T* from) {
    for (Index lane = 0; lane < count; ++lane)
      for_each(states, sequence, channel + lane,
               [&](Index i, T& element) { element = from[i * lanes + lane]; });
  }

 private:
  template <class V, class F>
  static void for_each(const V& states, Index sequence, Index channel, F&& body) {
    if constexpr (V::rank() == 3)
      for (Index n = 0; n < states.extent(2); ++n) body(n, states(sequence, channel, n));
    else
      for (Index p = 0; p < states.extent(2); ++p)
        for (Index part = 0; part < states.extent(3); ++part)
          body(2 * p + part, states(sequence, channel, p, part));
  }
};

}  // namespace ssm::cpu
