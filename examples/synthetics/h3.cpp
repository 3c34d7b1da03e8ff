// SPDX-License-Identifier: Apache-2.0
#include "training.hpp"

namespace synthetics {

void train_h3(const Settings& settings, const Data& data, std::uint64_t seed,
              const std::function<void(Epoch)>& report) {
  train<TwoBlocks<ssm::H3Block>>(settings, data, seed, 0, report);
}

}  // namespace synthetics
