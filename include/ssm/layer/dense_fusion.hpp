// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/extents.hpp"

namespace ssm {

/// Where what a layer selects from earlier layers' hidden states joins its own.
///   readout   h′_t = h_t + Σ_i a_t ⊙ h^i_t
///             read, but not carried on: the recurrence stays what it was
///   carried   the sum enters the recurrence, and so what comes after it
/// In both, h^i is what the earlier layer computed by itself: connections do not compound.
/// Source  He et al. 2024 (DenseSSM) §3.2: its convolutional and its autoregressive form
enum class DenseFusion { readout, carried };

/// The sizes of a call, for what later layers read of it.
struct HiddenShape {
  Index batch = 0;
  Index length = 0;
  Index sequences = 0;  // rows of states
  bool has_initial_state = false;
};

}  // namespace ssm
