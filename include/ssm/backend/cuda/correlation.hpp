// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/core/error.hpp"  // Index

namespace ssm::cuda {

/// The gradient of a filter's taps, a sum over all positions for each lag and channel: in chunks of
/// positions, so that there are enough threads. Depends on the sizes alone, and with it the order
/// of additions.
struct Correlation {
  Index positions;  // of the whole batch
  Index channels;
  Index lags;

  Index chunk_length() const {
    constexpr Index threads = Index{1} << 18;
    constexpr Index shortest = 64;
    const Index outputs = std::max<Index>(channels * lags, 1);
    const Index wanted = std::max<Index>(threads / outputs, 1);
    return std::max((positions + wanted - 1) / wanted, shortest);
  }
  Index chunks() const { return (positions + chunk_length() - 1) / chunk_length(); }
  Index workspace() const { return chunks() * channels * lags; }  // scalars
};

}  // namespace ssm::cuda
