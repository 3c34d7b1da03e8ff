// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/gated_state_space.hpp"
#include "training.hpp"

namespace synthetics {
namespace {

struct GssBlock {
  template <Index Width>
  using Layer = ssm::PreNormBlock<
      ssm::LayerNorm<Width>,
      ssm::GatedStateSpace<ssm::GatedStateSpaceConfig{
          .channels = Width, .gate_channels = 4 * Width, .state_channels = Width}>,
      ssm::FeedForward<ssm::FeedForwardConfig{.channels = Width, .hidden = 4 * Width}>>;
};

}  // namespace

void train_gss(const Settings& settings, const Data& data, std::uint64_t seed,
               const Course& course) {
  train<TwoBlocks<GssBlock>>(settings, data, seed, course);
}

}  // namespace synthetics
