// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/selective_scan.cuh"

namespace ssm::cuda::device {

/// What a walk along chunks is for.
enum class WalkFor {
  outputs,  // y, and the final states of sequences that are not cut
  ends,     // what every chunk does to a zero state, and the sum of its steps
  kept,     // the states that enter every walk_keep positions
  adjoints  // from the last position to the first: what every chunk makes of a zero adjoint
};

/// The walk of a selective scan: a block takes 32 channels of a chunk from its first position to
/// its last, four lanes to a channel. In float, bf16 and f16, of at most kWalkStates states.
template <class T>
struct SelectiveWalk {
  SelectiveOperands<T> a;
  Wide<T>* entries = nullptr;  // [places, N, D]   or adjoints
  Wide<T>* steps = nullptr;    // [places, D]
  Wide<T>* kept = nullptr;     // selective_kept_states numbers
  Operand<Wide<T>, 3> final_state{};
  Operand<T, 3> dt_used{}, y{};
  Operand<const T, 3> dy{};
};
template <class T>
void walk_selective_scan(const SelectiveWalk<T>& walk, WalkFor purpose, Stream stream,
                         const char* operation);

/// What every chunk does to a zero state, and the sum of its steps.
template <class T>
void scan_selective_chunks(const ssm::SelectiveScan<T, CudaSpace>& call,
                           const SelectiveOperands<T>& a, Wide<T>* entries, Wide<T>* steps,
                           Stream stream, const char* operation) {
  if constexpr (!std::is_same_v<T, double>)
    if (walks(call))
      return walk_selective_scan(SelectiveWalk<T>{.a = a, .entries = entries, .steps = steps},
                                 WalkFor::ends, stream, operation);
  for_each_index(a.chunking.places * a.channels, stream, operation,
                 SelectivePass<T>{a, entries, steps, true, {}, {}, {}});
}

/// The walk back, from the last position to the first: gradients of sequences, and of the rest what
/// is summed over places and groups of channels.
template <class T>
struct SelectiveWalkBack {
  using W = Wide<T>;

  SelectiveOperands<T> a;
  Operand<const T, 3> dy, ddt_used;
  Operand<const W, 3> dfinal_state;
  Operand<T, 3> du, ddt, dgate;
  const W* kept;    // as the walk left them
  W* adjoints;      // [places, N, D]   where sequences are cut of what leaves a chunk; then of what
                    //                  enters it
  W* dA;            // [places, N, D]
  W* dskip;         // [places, D]
  W* dbias;         // [places, D]
  W* shared;        // [2, groups, B, L, N]   gradients of B and of C
  Index groups;     // of 32 channels
  Index positions;  // B·L
  bool shares;      // gradients of B and C are wanted
  bool accumulate;
};
template <class T>
void walk_selective_scan_back(const SelectiveWalkBack<T>& walk, Stream stream,
                              const char* operation);

}  // namespace ssm::cuda::device
