// SPDX-License-Identifier: Apache-2.0
#include "training.hpp"

namespace synthetics {

/// One head and learned positions, as in the paper, but without its dropout of 0.1 inside the
/// attention.
void train_attention(const Settings& settings, const Data& data, std::uint64_t seed,
                     const std::function<void(Epoch)>& report) {
  train<TwoBlocks<ssm::AttentionBlock>>(settings, data, seed, settings.length + 2, report);
}

}  // namespace synthetics
