// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/launch.hpp"

namespace ssm::cuda {

/// Whether a block of the current device has the shared memory that the tensor-core kernels need, 222 KB: from Hopper on.
SSM_CUDA_API bool has_tensor_core_kernels();

/// Which kernel a float sequence goes to where both the tensor-core kernel and the general one can take it: the argument
/// of cuda::primitive::BasicDiagonalScan, BasicShiftConvolution and BasicCausalConvolution.
///
/// The tensor-core kernels work in chunks of 64 positions and, where channels are contiguous, want operands transposed:
/// two more passes over memory. The general ones cost a multiply-add a mode, tap or kernel term for each element, at a
/// rate that one position a step (the scan) or one load a term (the convolutions) allows.
struct Automatic {
  static constexpr Index shortest = 64;  // positions: shorter sequences leave most of a chunk empty
  static constexpr Index few_terms =
      16;  // a direct sum this short costs no more than the passes over memory

  static bool diagonal_scan(Index length) { return length >= shortest; }
  static bool shift_convolution(Index length, Index taps) {
    return length >= shortest && taps >= few_terms;
  }
  static bool causal_convolution(Index length, Index terms) {
    return length >= shortest && terms >= few_terms;
  }
};

/// The general kernels everywhere: sums in float, in the order of the formula.
struct GeneralKernels {
  static bool diagonal_scan(Index) { return false; }
  static bool shift_convolution(Index, Index) { return false; }
  static bool causal_convolution(Index, Index) { return false; }
};

}  // namespace ssm::cuda
