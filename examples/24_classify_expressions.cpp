// SPDX-License-Identifier: Apache-2.0
// Classifies short expressions of ListOps: [MAX 2 [MIN 4 7 ] ] is 4.
#include <cstdio>
#include <numeric>
#include <ssm/backend/cpu.hpp>
#include <ssm/long_range/list_ops.hpp>
#include <ssm/ssm.hpp>
#include <vector>

int main() {
  // [expressions]
  const ssm::ListOps task{.max_depth = 3, .max_arguments = 3, .min_length = 3, .max_length = 12};
  const ssm::ClassificationData data = task.data(ssm::Seed{1}, 1000, 200);
  const auto layer = ssm::make_token_classifier({.vocabulary = ssm::list_ops::symbols + 1,
                                                 .classes = ssm::list_ops::classes,
                                                 .d_model = 32,
                                                 .n_layer = 2,
                                                 .d_state = 16,
                                                 .norm = ssm::NormPlace::after});
  ssm::Context<ssm::Cpu> ctx;
  ssm::Model model{layer, layer.initialize(ctx, ssm::Seed{2})};
  ssm::Trainer trainer(ctx, model, {.rate = 5e-3, .ssm_rate = 1e-3, .clip_norm = 1});
  ssm::SequenceBatch batch;  // padded behind the end of each
  std::vector<ssm::Index> chosen(50);
  for (ssm::Index step = 0; step < 300; ++step) {
    std::iota(chosen.begin(), chosen.end(), 50 * step % data.training.count());
    batch.fill(data.training, chosen);
    trainer.update(batch.tokens,
                   [&](auto y, auto dy) { return ssm::cross_entropy(ctx, y, batch.targets, dy); });
  }
  std::iota(chosen.begin(), chosen.end(), ssm::Index{0});
  batch.fill(data.test, chosen);
  ssm::DynamicTensor<float, 3> y({50, batch.tokens.extent(1), data.test.classes});
  model.forward(ctx, batch.tokens, y);
  const double accuracy = ssm::accuracy(y, batch.targets);
  // [/expressions]
  std::printf("test accuracy: %.0f %%\n", 100 * accuracy);
  return accuracy > 0.25 ? 0 : 1;
}
