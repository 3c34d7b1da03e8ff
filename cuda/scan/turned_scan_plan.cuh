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

/// Blocks that share a channel; of the shape alone.
inline int turned_groups(const DiagonalScanShape& shape) {
  constexpr int resident = 132;  // blocks of a Hopper card
  return std::clamp(4 * resident / shape.channels, 1, std::min((shape.sequences() + 1) / 2, 65535));
}

}  // namespace ssm::cuda::device
