// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/require_cxx20.hpp"

// What follows needs C++20.
#include <type_traits>

#include "ssm/backend/cuda/activation.hpp"
#include "ssm/backend/cuda/attention.hpp"
#include "ssm/backend/cuda/cascaded_scan.hpp"
#include "ssm/backend/cuda/causal_convolution.hpp"
#include "ssm/backend/cuda/cross_entropy.hpp"
#include "ssm/backend/cuda/decayed_attention.hpp"
#include "ssm/backend/cuda/device.hpp"
#include "ssm/backend/cuda/diagonal_kernel.hpp"
#include "ssm/backend/cuda/diagonal_parameters.hpp"
#include "ssm/backend/cuda/diagonal_scan.hpp"
#include "ssm/backend/cuda/dlpack.hpp"
#include "ssm/backend/cuda/dropout.hpp"
#include "ssm/backend/cuda/embedding.hpp"
#include "ssm/backend/cuda/h3_mixer.hpp"
#include "ssm/backend/cuda/h3_step.hpp"
#include "ssm/backend/cuda/matmul.hpp"
#include "ssm/backend/cuda/normalization.hpp"
#include "ssm/backend/cuda/optimizer_update.hpp"
#include "ssm/backend/cuda/pair_rotation.hpp"
#include "ssm/backend/cuda/rearrange.hpp"
#include "ssm/backend/cuda/running_mean.hpp"
#include "ssm/backend/cuda/sample.hpp"
#include "ssm/backend/cuda/selective_scan.hpp"
#include "ssm/backend/cuda/shift_convolution.hpp"
#include "ssm/backend/cuda/short_convolution.hpp"
#include "ssm/backend/cuda/ssd_scan.hpp"
namespace ssm {

/// NVIDIA GPUs, through the compiled library ssm::cuda; a program that uses it needs no CUDA
/// compiler.
///   ssm::Context<ssm::Cuda> gpu(ssm::cuda::Resources(ssm::Device{0}));
///   auto parameters = layer.initialize(gpu, ssm::Seed{42});
/// Every primitive is queued on the context's one stream. Two things wait for the device:
/// allocating its memory, and copying from it to the host.
/// With `HostSpace` in place of device memory the same kernels work on host memory that the device
/// can reach: page-locked, or any on machines where the two share an address space. Every call then
/// waits until it is done. `Choice` says which of two kernels a sequence goes to.
/// Throws  cuda::Failure  where a context is made without a usable device
template <class SpaceType = cuda::CudaSpace, class Choice = cuda::Automatic>
struct BasicCuda : cuda::primitive::Activation,
                   cuda::primitive::Attention,
                   cuda::primitive::CascadedScan,
                   cuda::primitive::BasicCausalConvolution<Choice>,
                   cuda::primitive::CrossEntropy,
                   cuda::primitive::BasicDecayedAttention<Choice>,
                   cuda::primitive::DiagonalKernel,
                   cuda::primitive::DiagonalParameters,
                   cuda::primitive::BasicDiagonalScan<Choice>,
                   cuda::primitive::Dropout,
                   cuda::primitive::Embedding,
                   cuda::primitive::BasicH3Mixer<Choice>,
                   cuda::primitive::H3Step,
                   cuda::primitive::Matmul,
                   cuda::primitive::Normalization,
                   cuda::primitive::OptimizerUpdate,
                   cuda::primitive::PairRotation,
                   cuda::primitive::Rearrange,
                   cuda::primitive::RunningMean,
                   cuda::primitive::Sample,
                   cuda::primitive::SelectiveScan,
                   cuda::primitive::BasicShiftConvolution<Choice>,
                   cuda::primitive::ShortConvolution,
                   cuda::primitive::BasicSsdScan<Choice> {
  using Space = SpaceType;
  using Resources = cuda::Resources;

  /// Of floats; the general convolution of doubles is a direct sum.
  template <class T>
  static bool prefers_convolution(const SequenceWork& work) {
    return std::is_same_v<T, float> && Choice::convolves(work);
  }
};

/// The Cuda backend, which chooses the form of a kernel by the size of the work.
using Cuda = BasicCuda<>;

}  // namespace ssm
