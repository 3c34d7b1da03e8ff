// SPDX-License-Identifier: Apache-2.0
// A model that is not a language model: it forecasts noisy sines, one value ahead, then streams.
#include <cstdio>
#include <ssm/backend/cpu.hpp>
#include <ssm/ssm.hpp>

#include "data/noisy_sines.hpp"
// [forecast model]
constexpr ssm::Index width = 16;
using Norm = ssm::LayerNorm<width>;
using Mixer = ssm::S4D<ssm::S4DConfig{.channels = width, .state = 16}>;
using Mlp = ssm::FeedForward<ssm::FeedForwardConfig{.channels = width, .hidden = 2 * width}>;
using Encoder = ssm::Linear<ssm::LinearConfig{.inputs = 1, .outputs = width}>;
using Head = ssm::Linear<ssm::LinearConfig{.inputs = width, .outputs = 1}>;
using Forecaster = ssm::Sequential<ssm::Named<"encoder", Encoder>, ssm::Residual<Norm, Mixer>,
                                   ssm::Residual<Norm, Mlp>, Norm, ssm::Named<"head", Head>>;
// [/forecast model]
int main() {
  // [forecast training]
  ssm::Context<ssm::Cpu> ctx;
  ssm::Model model{Forecaster(), Forecaster().initialize(ctx, ssm::Seed{3})};
  ssm::Trainer trainer(ctx, model, {.rate = 5e-3, .ssm_rate = 5e-3, .weight_decay = 0});
  ssm::DynamicTensor<float, 3> series({16, 65, 1});
  const auto x = series.slice(1, 0, 64), target = series.slice(1, 1, 65);
  const auto loss = [&](auto y, auto dy) { return ssm::mean_squared_error(ctx, y, target, dy); };
  for (int step = 0; step < 300; ++step) {
    draw_noisy_sines(series, step);
    const double error = trainer.update(x, loss).loss;
    if (step % 50 == 49) std::printf("step %d: mean squared error %.3f\n", step + 1, error);
  }
  // [/forecast training]
  // [forecast stream]
  ssm::DynamicTensor<float, 3> y({16, 64, 1}), streamed({16, 64, 1});
  model.forward(ctx, x, y);
  auto state = model.initial_state(ctx, 16);
  for (ssm::Index t = 0; t < 64; ++t) model.step(ctx, x.select(1, t), streamed.select(1, t), state);
  // [/forecast stream]
  const bool learned = ssm::mean_squared_error(ctx, streamed, target) < 0.04;
  return learned && ssm::all_close(y, streamed, 1e-5) ? 0 : 1;
}
