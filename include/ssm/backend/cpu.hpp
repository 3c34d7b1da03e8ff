// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/require_cxx20.hpp"

// What follows needs C++20.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "ssm/backend/composed/h3_mixer.hpp"
#include "ssm/backend/cpu/activation.hpp"
#include "ssm/backend/cpu/attention.hpp"
#include "ssm/backend/cpu/cascaded_scan.hpp"
#include "ssm/backend/cpu/causal_convolution.hpp"
#include "ssm/backend/cpu/cross_entropy.hpp"
#include "ssm/backend/cpu/decayed_attention.hpp"
#include "ssm/backend/cpu/diagonal_kernel.hpp"
#include "ssm/backend/cpu/diagonal_parameters.hpp"
#include "ssm/backend/cpu/diagonal_scan.hpp"
#include "ssm/backend/cpu/dropout.hpp"
#include "ssm/backend/cpu/embedding.hpp"
#include "ssm/backend/cpu/matmul.hpp"
#include "ssm/backend/cpu/normalization.hpp"
#include "ssm/backend/cpu/optimizer_update.hpp"
#include "ssm/backend/cpu/pair_rotation.hpp"
#include "ssm/backend/cpu/rearrange.hpp"
#include "ssm/backend/cpu/resources.hpp"
#include "ssm/backend/cpu/sample.hpp"
#include "ssm/backend/cpu/selective_scan.hpp"
#include "ssm/backend/cpu/shift_convolution.hpp"
#include "ssm/backend/cpu/short_convolution.hpp"
#include "ssm/backend/cpu/ssd_scan.hpp"
#include "ssm/backend/reference/running_mean.hpp"
#include "ssm/op/sequence_work.hpp"
namespace ssm {

/// Every primitive on the CPU's vector units and cores. The instruction set and the FFT are part of
/// the type, so that translation units compiled for different ones do not clash when linked.
///   ssm::Context<ssm::Cpu> ctx;                               // all threads
///   ssm::Context<ssm::Cpu> two(ssm::cpu::Resources(2));
template <class Arch = xsimd::default_arch, class Fft = cpu::LaneFft>
struct BasicCpu : cpu::Activation<Arch>,
                  cpu::Attention<Arch>,
                  cpu::CausalConvolution<Arch, Fft>,
                  cpu::CrossEntropy<Arch>,
                  cpu::DecayedAttention<Arch>,
                  cpu::DiagonalKernel<Arch>,
                  cpu::DiagonalParameters<Arch>,
                  cpu::DiagonalScan<Arch>,
                  cpu::CascadedScan<Arch>,
                  cpu::Dropout<Arch>,
                  cpu::Embedding<Arch>,
                  composed::H3Mixer,
                  cpu::Matmul<Arch>,
                  cpu::Normalization<Arch>,
                  cpu::OptimizerUpdate<Arch>,
                  cpu::PairRotation<Arch>,
                  cpu::Rearrange<Arch>,
                  reference::RunningMean,
                  cpu::Sample<Arch>,
                  cpu::SelectiveScan<Arch>,
                  cpu::ShiftConvolution<Arch>,
                  cpu::ShortConvolution<Arch>,
                  cpu::SsdScan<Arch> {
  using Space = HostSpace;
  using Resources = cpu::Resources;

  /// Nanoseconds an element, forward and backward on two cores, of
  /// bench/baselines/{diagonal_scan,diagonal_kernel, causal_convolution}_bench.json: a scan 0.25 a
  /// mode; a convolution 3.4, and 0.6 more at every doubling beyond 1024 positions, and 4.7 for its
  /// kernel, which the whole batch shares. Without gradients the scan is as fast or faster.
  template <class T>
  static bool prefers_convolution(const SequenceWork& work) {
    if (!std::is_same_v<Fft, cpu::LaneFft> || !work.is_backward || work.length > 16384)
      return false;
    const double doublings = std::log2(std::max(1.0, static_cast<double>(work.length) / 1024));
    const double convolution = 3.4 + 0.6 * doublings + 4.7 / static_cast<double>(work.batch);
    return convolution < 0.25 * static_cast<double>(work.terms);
  }
};

/// The backend for the instruction set that the translation unit is compiled for, with an FFT of
/// its own.
using Cpu = BasicCpu<>;

}  // namespace ssm
