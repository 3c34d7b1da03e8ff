// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cuda/launch.hpp"
#include "ssm/op/sequence_work.hpp"

namespace ssm::cuda {

/// Whether a block of the current device has the shared memory that the tensor-core kernels need,
/// 224 KB: from Hopper on.
SSM_CUDA_API bool has_tensor_core_kernels();

/// Which kernel a sequence of floats or of a half type goes to where both the tensor-core kernel
/// and the general one, which takes half types as floats, can take it: the argument of
/// cuda::primitive::BasicDiagonalScan, BasicShiftConvolution, BasicCausalConvolution,
/// BasicH3Mixer, BasicDecayedAttention and BasicSsdScan.
///
/// The tensor-core kernels cost a fixed time, in which a channel's matrices are made and read and
/// operands are transposed, and then little an element. The general ones cost a multiply-add for
/// every term of every element. Bounds are where the two took the same time on an H200 at 768
/// channels (bench/cuda_choice.cpp, bench/baselines/cuda_choice_h200.json).
struct Automatic {
  /// General: 1.75 us a position forward, 8 backward, for 8192 sequences of a channel at once.
  /// Tensor cores: 110 and 430 us, and little more with the length.
  static bool diagonal_scan(const SequenceWork& work) {
    const Index rounds = std::max<Index>(1, work.batch * work.channels / 8192);
    return work.length * rounds >= 64;
  }
  static bool shift_convolution(const SequenceWork& work) {
    return work.products() >= (work.is_backward ? 360'000 : 131'072);
  }
  static bool causal_convolution(const SequenceWork& work) {
    return work.terms >= 12 && work.products() >= 65'536;
  }
  /// Of memories that fade, in half types.
  static bool decayed_tiles() { return true; }
  /// Of an H3 head of several channels in bf16. Pairs cost the length for a position, and channels
  /// are filled up to packs of eight; a scan of the outer product costs the square of the width.
  static bool pairs_positions(Index length, Index width) {
    return length <= (width < 8 ? 256 : 1024) * width;
  }
  /// A scan's fixed time is the larger, above all backwards, its time an element the smaller.
  /// Without gradients it is as fast or faster at any length worth a choice.
  static bool convolves(const SequenceWork& work) {
    return work.is_backward &&
           (work.length <= 1024 || (work.length <= 4096 && work.length <= 256 * work.batch));
  }
};

/// The tensor-core kernels wherever they can.
struct TensorCoreKernels {
  static bool convolves(const SequenceWork& work) { return Automatic::convolves(work); }
  static bool diagonal_scan(const SequenceWork&) { return true; }
  static bool shift_convolution(const SequenceWork&) { return true; }
  static bool causal_convolution(const SequenceWork&) { return true; }
  static bool decayed_tiles() { return true; }
  static bool pairs_positions(Index, Index) { return true; }
};

/// The general kernels everywhere: sums in float, in the order of the formula.
struct GeneralKernels {
  static bool convolves(const SequenceWork&) { return false; }
  static bool diagonal_scan(const SequenceWork&) { return false; }
  static bool shift_convolution(const SequenceWork&) { return false; }
  static bool causal_convolution(const SequenceWork&) { return false; }
  static bool decayed_tiles() { return false; }
  static bool pairs_positions(Index, Index) { return false; }
};

}  // namespace ssm::cuda
