// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/h3_language_model.hpp"
#include "training.hpp"

namespace synthetics {
namespace {

// Two blocks with an MLP of four times the width: H3, attention, or the one and then the other.
ssm::H3LanguageModelConfig config_of(const Settings& settings) {
  return {.d_model = settings.width,
          .n_layer = 2,
          .d_inner = 4 * settings.width,
          .vocab_size = settings.vocabulary,
          .embed_dropout = settings.dropout};
}

template <bool attends_first, bool attends_second>
struct H3Maker {
  using Model = ssm::H3LanguageModel;
  static Model make(const Settings& settings) {
    ssm::H3LanguageModelConfig config = config_of(settings);
    if (attends_first) config.attn_layer_idx.push_back(0);
    if (attends_second) config.attn_layer_idx.push_back(1);
    // Attention alone has learned positions; H3 in front of it tells it where tokens are.
    if (attends_first) config.max_position_embeddings = settings.length + 2;
    return ssm::make_language_model(config);
  }
};

}  // namespace

void train_h3(const Settings& settings, const Data& data, std::uint64_t seed,
              const Course& course) {
  train<H3Maker<false, false>>(settings, data, seed, course);
}
void train_hybrid(const Settings& settings, const Data& data, std::uint64_t seed,
                  const Course& course) {
  train<H3Maker<false, true>>(settings, data, seed, course);
}
/// One head, as in the paper, but without its dropout of 0.1 inside the attention.
void train_attention(const Settings& settings, const Data& data, std::uint64_t seed,
                     const Course& course) {
  train<H3Maker<true, true>>(settings, data, seed, course);
}

}  // namespace synthetics
