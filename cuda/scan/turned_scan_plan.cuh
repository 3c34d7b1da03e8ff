// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <ssm/backend/cuda/diagonal_scan.hpp>

namespace ssm::cuda::device {

// Calls that turned_scan.cu computes: bf16 sequences without gates, as 16-byte runs, where the
// device's code has products of warpgroups.

bool walks_turned(const DiagonalScan<BFloat16>& call, const char* operation);
bool walks_turned(const DiagonalScanBackward<BFloat16>& call, const char* operation);
template <class Call>
bool walks_turned(const Call&, const char*) {
  return false;
}

/// Outputs, states before the last chunk and checkpoints. `matrices`: what build_matrices leaves of
/// none of them.
void walk_turned_forward(const DiagonalScan<BFloat16>& call, const char* matrices, Stream stream,
                         const char* operation);
template <class T>
struct BackwardLaunch;
void walk_turned_backward(const BackwardLaunch<BFloat16>& launch, Stream stream,
                          const char* operation);

/// The fewest blocks that share a channel such that nine tenths of the card are busy, `resident`
/// blocks at once: each makes the channel's matrices. Of the shape alone.
inline int groups_to_fill(int channels, int resident, int most) {
  most = std::clamp(4 * resident / channels, 1, std::min(most, 65535));
  for (int groups = 1; groups < most; ++groups) {
    const int blocks = channels * groups, waves = (blocks + resident - 1) / resident;
    if (10 * blocks >= 9 * waves * resident) return groups;
  }
  return most;
}
inline int turned_groups(const DiagonalScanShape& shape) {
  return groups_to_fill(shape.channels, 132, (shape.sequences() + 1) / 2);
}

}  // namespace ssm::cuda::device
