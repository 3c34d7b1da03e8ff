// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ssm {

/// What one update saw: the loss before it, of a language model in nats per token, and the norm of
/// its gradient before clipping.
struct TrainingStep {
  double loss = 0;
  double gradient_norm = 0;
};

}  // namespace ssm
