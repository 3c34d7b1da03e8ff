// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/core/error.hpp"  // Index

namespace ssm::cuda {

/// How a long sum is cut, so that its order depends on the number of summands alone: `count` slices
/// of `length`, each the sum of a warp, added by one warp. At least `shortest` summands a slice,
/// whole packs of four, at most 2048 slices.
struct SumSlices {
  Index length;
  Index count;
};
constexpr SumSlices sum_slices(Index summands, Index shortest = 1024) {
  const Index length = std::max(shortest, (summands + 8191) / 8192 * 4);
  return {length, (summands + length - 1) / length};
}

}  // namespace ssm::cuda
