// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/core/error.hpp"  // Index

namespace ssm::cuda {

/// How sums over the rows of a matrix are cut, so that their order depends on the number of rows
/// alone: `count` slices of `length` rows, each the sum of a block, added by one block. At least 64
/// rows a slice, at most 512 slices.
struct ColumnSlices {
  Index length;
  Index count;
};
constexpr ColumnSlices column_slices(Index rows) {
  const Index length = std::max<Index>(64, (rows + 511) / 512);
  return {length, (rows + length - 1) / length};
}

}  // namespace ssm::cuda
