// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/require_cxx20.hpp"

// What follows needs C++20.
#include "ssm/backend/composed/h3_mixer.hpp"
#include "ssm/backend/reference/activation.hpp"
#include "ssm/backend/reference/attention.hpp"
#include "ssm/backend/reference/cascaded_scan.hpp"
#include "ssm/backend/reference/causal_convolution.hpp"
#include "ssm/backend/reference/cross_entropy.hpp"
#include "ssm/backend/reference/decayed_attention.hpp"
#include "ssm/backend/reference/diagonal_kernel.hpp"
#include "ssm/backend/reference/diagonal_parameters.hpp"
#include "ssm/backend/reference/diagonal_scan.hpp"
#include "ssm/backend/reference/dropout.hpp"
#include "ssm/backend/reference/embedding.hpp"
#include "ssm/backend/reference/matmul.hpp"
#include "ssm/backend/reference/normalization.hpp"
#include "ssm/backend/reference/optimizer_update.hpp"
#include "ssm/backend/reference/pair_rotation.hpp"
#include "ssm/backend/reference/rearrange.hpp"
#include "ssm/backend/reference/running_mean.hpp"
#include "ssm/backend/reference/sample.hpp"
#include "ssm/backend/reference/selective_scan.hpp"
#include "ssm/backend/reference/shift_convolution.hpp"
#include "ssm/backend/reference/short_convolution.hpp"
#include "ssm/backend/reference/ssd_scan.hpp"
namespace ssm {

/// Every primitive as plain loops that read like its formula, summed in double precision on one
/// thread: slow, and what the other backends are compared with.
struct Reference : reference::Activation,
                   reference::Attention,
                   reference::CausalConvolution,
                   reference::CrossEntropy,
                   reference::DecayedAttention,
                   reference::DiagonalKernel,
                   reference::DiagonalParameters,
                   reference::DiagonalScan,
                   reference::CascadedScan,
                   reference::Dropout,
                   reference::Embedding,
                   composed::H3Mixer,
                   reference::Matmul,
                   reference::Normalization,
                   reference::OptimizerUpdate,
                   reference::PairRotation,
                   reference::Rearrange,
                   reference::RunningMean,
                   reference::Sample,
                   reference::SelectiveScan,
                   reference::ShiftConvolution,
                   reference::ShortConvolution,
                   reference::SsdScan {
  using Space = HostSpace;
  struct Resources {};
};

}  // namespace ssm
