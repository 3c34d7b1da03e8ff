// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/s4d.hpp"

#include "training.hpp"

namespace synthetics {
namespace {

struct S4DBlock {
  template <Index Width>
  using Layer = ssm::PreNormBlock<
      ssm::LayerNorm<Width>, ssm::S4D<ssm::S4DConfig{.channels = Width}>,
      ssm::FeedForward<ssm::FeedForwardConfig{.channels = Width, .hidden = 4 * Width}>>;
};

}  // namespace

void train_s4d(const Settings& settings, const Data& data, std::uint64_t seed,
               const Course& course) {
  train<TwoBlocks<S4DBlock>>(settings, data, seed, course);
}

}  // namespace synthetics
