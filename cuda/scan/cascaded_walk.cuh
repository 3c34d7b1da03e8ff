// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/cascaded_scan.cuh"

namespace ssm::cuda::device {

/// The gradients of a source, as kernels index them.
template <class T>
struct CascadedSourceGradient {
  Operand<T, 3> u, dt, B;
  Operand<Wide<T>, 2> A;
  Operand<Wide<T>, 3> initial_state;
};

/// The walk of a cascaded scan: a block takes 32 channels of a chunk from its first position to its
/// last, four lanes to a channel. In float, bf16 and f16, of calls that walks_in_cascade.
template <class T, int M>
struct CascadedWalk {
  CascadedOperands<T, M> a;
  Wide<T>* entries;  // [places, m + 1, N, D]   of outputs also what leaves the chunks
  float* kept;       // states of every eighth position, or null: outputs are wanted
  Operand<T, 3> y{};
  Index groups;  // of 32 channels
};
template <class T, int M>
void walk_cascaded_scan(const CascadedWalk<T, M>& walk, Stream stream, const char* operation);

/// The walk back: gradients of sequences, and of the rest what is summed over places and groups.
template <class T, int M>
struct CascadedWalkBack {
  CascadedOperands<T, M> a;
  const float* kept;  // as the walk left them
  Wide<T>* adjoints;  // [places, m + 1, N, D]   of what leaves a chunk, then of what enters it
  Wide<T>* dA;        // [places, m + 1, N, D]
  Wide<T>* shared;    // [m + 1, groups, B, L, N]   gradients of B, and of C
  Operand<const T, 3> dy;
  Operand<T, 3> ddt, dgate;
  CascadedSourceGradient<T> gradients[M];
  Index groups;
  Index positions;  // B·L
};
template <class T, int M>
void walk_cascaded_scan_back(const CascadedWalkBack<T, M>& walk, Stream stream,
                             const char* operation);

}  // namespace ssm::cuda::device
