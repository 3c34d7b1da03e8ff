// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/composed/h3_mixer.hpp"
#include "ssm/backend/cpu/activation.hpp"
#include "ssm/backend/cpu/attention.hpp"
#include "ssm/backend/cpu/causal_convolution.hpp"
#include "ssm/backend/cpu/cross_entropy.hpp"
#include "ssm/backend/cpu/decayed_attention.hpp"
#include "ssm/backend/cpu/diagonal_kernel.hpp"
#include "ssm/backend/cpu/diagonal_parameters.hpp"
#include "ssm/backend/cpu/diagonal_scan.hpp"
#include "ssm/backend/cpu/driven_scan.hpp"
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

namespace ssm {

/// Every primitive on the CPU's vector units and cores. The instruction set and the FFT are part of the type, so that
/// translation units compiled for different ones do not clash when linked.
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
                  cpu::DrivenScan<Arch>,
                  cpu::Dropout<Arch>,
                  cpu::Embedding<Arch>,
                  composed::H3Mixer,
                  cpu::Matmul<Arch>,
                  cpu::Normalization<Arch>,
                  cpu::OptimizerUpdate<Arch>,
                  cpu::PairRotation<Arch>,
                  cpu::Rearrange<Arch>,
                  cpu::Sample<Arch>,
                  cpu::SelectiveScan<Arch>,
                  cpu::ShiftConvolution<Arch>,
                  cpu::ShortConvolution<Arch> {
  using Space = HostSpace;
  using Resources = cpu::Resources;
};

using Cpu = BasicCpu<>;

}  // namespace ssm
