// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <ssm/backend/cuda/diagonal_scan.hpp>
#include <ssm/backend/cuda/hopper.hpp>

namespace ssm::cuda::device {

// Calls that turned_scan.cu computes: bf16 sequences without gates, as 16-byte runs, where the
// device's code has products of warpgroups.

bool walks_turned(const DiagonalScan<BFloat16>& call, const char* operation);
bool walks_turned(const DiagonalScanBackward<BFloat16>& call, const char* operation);
template <class Call>
bool walks_turned(const Call&, const char*) {
  return false;
}

/// Outputs, states before the last chunk and checkpoints.
void walk_turned_forward(const DiagonalScan<BFloat16>& call, Stream stream, const char* operation);
template <class T>
struct BackwardLaunch;
void walk_turned_backward(const BackwardLaunch<BFloat16>& launch, Stream stream,
                          const char* operation);

/// How blocks share the gradient's pairs of sequences, those of all channels one behind the other.
/// Of the shape alone.
struct TurnedPlan {
  int pairs;   // of a channel
  int blocks;  // at most one for each multiprocessor
  int parts;   // that a channel has at most, a block each
  long long all;

  explicit TurnedPlan(const DiagonalScanShape& shape)
      : pairs((shape.sequences() + 1) / 2), all(static_cast<long long>(shape.channels) * pairs) {
    blocks = static_cast<int>(std::min<long long>(hopper_multiprocessors, all));
    const long long least = all / blocks;
    parts = static_cast<int>(std::min<long long>(blocks, (pairs - 1 + least - 1) / least + 1));
  }
  /// Number of a block among those that have parts of the channel.
  __host__ __device__ int part(int channel, int block) const {
    const long long first = static_cast<long long>(channel) * pairs;
    return block - static_cast<int>(((first + 1) * blocks - 1) / all);
  }
};

}  // namespace ssm::cuda::device
