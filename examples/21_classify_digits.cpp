// SPDX-License-Identifier: Apache-2.0
// Classifies whole sequences: drawn digits, read as 196 pixels one after the other.
#include <cstdio>
#include <ssm/backend/cpu.hpp>
#include <ssm/ssm.hpp>

#include "data/drawn_digits.hpp"
// [classifier model]
constexpr ssm::Index width = 32;
using Norm = ssm::LayerNorm<width>;
using Mixer = ssm::S4D<ssm::S4DConfig{.channels = width, .state = 16}>;
using Mlp = ssm::FeedForward<ssm::FeedForwardConfig{.channels = width, .hidden = 2 * width}>;
using Block = ssm::Chain<ssm::Residual<Norm, Mixer>, ssm::Residual<Norm, Mlp, "norm2", "mlp">>;
using Encoder = ssm::Linear<ssm::LinearConfig{.inputs = 1, .outputs = width}>;
using Pool = ssm::MeanPool<ssm::MeanPoolConfig{.channels = width}>;
using Head = ssm::Linear<ssm::LinearConfig{.inputs = width, .outputs = DrawnDigits::classes}>;
using Classifier = ssm::Sequential<Encoder, Block, Block, Norm, Pool, ssm::Named<"head", Head>>;
// [/classifier model]
int main() {
  // [classifier training]
  ssm::Context<ssm::Cpu> ctx;
  ssm::Model model{Classifier(), Classifier().initialize(ctx, ssm::Seed{3})};
  ssm::Trainer trainer(ctx, model, {.rate = 1e-2, .ssm_rate = 1e-2, .clip_norm = 1});
  DrawnDigits digits(32);
  const auto loss = [&](auto y, auto dy) {
    return ssm::cross_entropy(ctx, ssm::last_position(y), digits.labels, ssm::last_position(dy));
  };
  for (std::uint64_t step = 0; step < 500; ++step) {
    digits.draw(ssm::Seed{1}.fork(step));
    const double error = trainer.update(digits.images, loss).loss;
    if (step % 100 == 99) std::printf("step %d: loss %.3f\n", int(step + 1), error);
  }
  // [/classifier training]
  digits.draw(ssm::Seed{2});
  ssm::DynamicTensor<float, 3> y({32, DrawnDigits::pixels, DrawnDigits::classes});
  model.forward(ctx, digits.images, y);
  return ssm::accuracy(ssm::last_position(y), digits.labels) >= 0.8 ? 0 : 1;
}
