// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/parallel.cuh"

namespace ssm::cuda::device {

/// What the keys of a part say about a query: the largest score, Σ exp(score − largest), and the
/// values in that sum.
template <class T>
struct AttentionParts {
  Index count = 0;
  Index width = 0;
  T* memory = nullptr;  // [B·L·H, count, 2 + K]

  SSM_HOST_DEVICE T* at(Index query, Index part) const {
    return memory + (query * count + part) * (2 + width);
  }
};

}  // namespace ssm::cuda::device
