// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/mamba_language_model.hpp"
#include "training.hpp"

namespace synthetics {
namespace {

// A Mamba block has no MLP beside it: four of them have about the parameters of two blocks with
// one.
ssm::MambaLanguageModelConfig config_of(const Settings& settings) {
  return {.d_model = settings.width,
          .n_layer = 4,
          .vocab_size = settings.vocabulary,
          .d_inner = 2 * settings.width,
          .dt_rank = (settings.width + 15) / 16,
          .embed_dropout = settings.dropout};
}

struct MambaMaker {
  using Model = ssm::MambaLanguageModel;
  static Model make(const Settings& settings) {
    return ssm::make_language_model(config_of(settings));
  }
};

struct DenseMambaMaker {
  using Model = ssm::DenseMambaLanguageModel;
  static Model make(const Settings& settings) {
    ssm::MambaLanguageModelConfig config = config_of(settings);
    config.dense_block_layers = 2;
    config.h_select_reduction = settings.width / 4;
    return ssm::make_dense_language_model(config);
  }
};

}  // namespace

void train_mamba(const Settings& settings, const Data& data, std::uint64_t seed,
                 const Course& course) {
  train<MambaMaker>(settings, data, seed, course);
}
void train_dense_mamba(const Settings& settings, const Data& data, std::uint64_t seed,
                       const Course& course) {
  train<DenseMambaMaker>(settings, data, seed, course);
}

}  // namespace synthetics
