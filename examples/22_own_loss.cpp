// SPDX-License-Identifier: Apache-2.0
// A loss of one's own: a stack that removes noise, trained so that single wild values count little.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <ssm/backend/cpu.hpp>
#include <ssm/io/model_file.hpp>
#include <ssm/ssm.hpp>
#include <vector>

// [own loss]
/// Huber's loss: quadratic up to 1, linear beyond. Returns its mean, and writes its gradient.
double huber(const auto& y, const auto& target, const auto& dy) {
  const auto count = static_cast<float>(y.size());
  double sum = 0;
  ssm::map(
      [&](float have, float want) {
        const float error = have - want, size = std::abs(error);
        sum += size <= 1 ? error * error / 2 : size - 0.5F;
        return std::clamp(error, -1.0F, 1.0F) / count;
      },
      dy, y, target);
  return sum / static_cast<double>(count);
}
// [/own loss]

int main() {
  // [own loss training]
  using Block = ssm::Residual<ssm::LayerNorm<8>, ssm::S4D<ssm::S4DConfig{.channels = 8}>>;
  using Map = ssm::Linear<ssm::LinearConfig{}>;
  ssm::Context<ssm::Cpu> ctx;
  const ssm::Sequential layer(Map({.inputs = 1, .outputs = 8}),
                              ssm::Stack<Block>(std::vector<Block>(2)),  // as many as you like
                              Map({.inputs = 8, .outputs = 1}));
  ssm::Model model{layer, layer.initialize(ctx, ssm::Seed{1})};
  ssm::Trainer trainer(ctx, model, {.rate = 1e-2, .ssm_rate = 1e-2});
  ssm::DynamicTensor<float, 3> clean({8, 50, 1}), x({8, 50, 1});
  double first = 0, last = 0;
  for (std::uint64_t step = 0; step < 150; ++step) {
    ssm::fill_uniform(x, ssm::Seed{2}.fork(step), -0.3, 0.3);
    for (ssm::Index i = 0; i < x.size(); ++i) {
      clean.data()[i] = std::sin(0.2F * static_cast<float>(i));
      x.data()[i] += clean.data()[i] + (i % 17 == 0 ? 8.0F : 0.0F);
    }
    last = trainer.update(x, [&](auto y, auto dy) { return huber(y, clean, dy); }).loss;
    if (step == 0) first = last;
  }
  // [/own loss training]

  // [model file]
  const auto path = std::filesystem::temp_directory_path() / "ssm_own_loss.safetensors";
  ssm::save(path, model);
  ssm::Model again{layer, layer.initialize(ctx, ssm::Seed{4})};
  ssm::load(path, again);
  // [/model file]
  std::filesystem::remove(path);
  ssm::DynamicTensor<float, 3> y({8, 50, 1}), z({8, 50, 1});
  model.forward(ctx, x, y);
  again.forward(ctx, x, z);
  std::printf("Huber's loss %.3f -> %.3f\n", first, last);
  return last < first / 3 && ssm::largest_difference(y, z).value == 0 ? 0 : 1;
}
