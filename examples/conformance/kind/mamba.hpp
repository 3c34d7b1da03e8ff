// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/mamba.hpp"

namespace ssm::conformance {

/// The sizes of mamba_block and of what extends it.
inline MambaOptions mamba_sizes(const Trial& trial) {
  return {.channels = trial.size("d"),
          .inner = trial.size("d_inner"),
          .state = trial.size("d_state"),
          .conv_width = trial.size("d_conv"),
          .dt_rank = trial.size("dt_rank")};
}

template <class B, class T>
void check_mamba(Trial& trial) {
  check_layer<B, T>(trial, Mamba<MambaConfig{.state = dyn, .conv_width = dyn}>(mamba_sizes(trial)));
}

}  // namespace ssm::conformance
