// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/retnet_language_model.hpp"
#include "training.hpp"

namespace synthetics {
namespace {

struct RetNetMaker {
  using Model = ssm::RetNetLanguageModel;
  static Model make(const Settings& settings) {
    return ssm::make_language_model(
        ssm::RetNetLanguageModelConfig{.d_model = settings.width,
                                       .n_layer = 2,
                                       .vocab_size = settings.vocabulary,
                                       .num_heads = 2,
                                       .d_value = 2 * settings.width,
                                       .d_inner = 2 * settings.width,
                                       .has_tied_head = true,
                                       .embed_dropout = settings.dropout});
  }
};

}  // namespace

void train_retnet(const Settings& settings, const Data& data, std::uint64_t seed,
                  const Course& course) {
  train<RetNetMaker>(settings, data, seed, course);
}

}  // namespace synthetics
