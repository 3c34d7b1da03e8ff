// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "device/launch.cuh"
#include "scan/diagonal_scan_layout.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda::device {

/// How the work is cut. Depends on the shape alone, not on the card: the same call gives the same
/// bits everywhere.
struct Plan {
  int warps_per_sequence;
  int groups;  // blocks that share a channel
};

inline constexpr int kForwardWarps = hopper_multiprocessors * 16;  // resident at once
inline constexpr int kBackwardWarps = hopper_multiprocessors * 8;

inline void require_sizes(const DiagonalScanShape& shape, const char* operation) {
  require(shape.batch >= 1 && shape.channels >= 1 && shape.length >= 1, operation,
          "sizes must be positive");
  require(shape.length <= (1 << 30), operation, "sequences are at most 2^30 positions long");
  require(shape.modes >= 1 && shape.modes <= kModes, operation,
          "between 1 and 32 modes (64 state numbers)");
  require(shape.segments == nullptr || (shape.batch == 1 && shape.segment_count >= 1), operation,
          "packed sequences need batch 1 and at least one segment");
  require(shape.sequences() <= 65535 * kWarps, operation, "too many sequences");
}

/// Warps share a sequence where sequences are packed or too few to fill the card one warp each.
/// `warps`: of a block.
inline Plan make_plan(const DiagonalScanShape& shape, int tile, int warps, int resident_warps,
                      int waves) {
  Plan plan{kWarps, 1};
  const int tiles = (shape.length + tile - 1) / tile;
  if (shape.segments == nullptr) {
    const long long items = static_cast<long long>(shape.batch) * shape.channels;
    if (tiles == 1 || items >= 2ll * resident_warps) {
      plan.warps_per_sequence = 1;
    } else if (tiles == 2) {
      plan.warps_per_sequence = 2;
    }
  }
  const int side = warps / plan.warps_per_sequence;
  const int steps = (shape.sequences() + side - 1) / side;
  plan.groups =
      std::clamp(waves * resident_warps / warps / shape.channels, 1, std::min(steps, 65535));
  return plan;
}

}  // namespace ssm::cuda::device
