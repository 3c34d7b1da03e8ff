// SPDX-License-Identifier: Apache-2.0
// Sequences in bf16: a layer, and training in mixed precision.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ssm/backend/cpu.hpp>
#include <ssm/ssm.hpp>

int main() {
  ssm::Context<ssm::Cpu> ctx;

  // [layer in bf16]
  using ssm::BFloat16;
  const ssm::H3<ssm::H3Config{.channels = 16, .state = 8}> layer;
  // Matrices in bf16; the SSMs' parameters, biases and states in float.
  const auto parameters = layer.initialize<BFloat16>(ctx, ssm::Seed{1});
  ssm::DynamicTensor<BFloat16, 3> x({2, 40, 16}), y({2, 40, 16});
  ssm::fill(x, BFloat16(0.5F));
  layer.forward(ctx, parameters, x, y);
  auto state = layer.initial_state<BFloat16>(ctx, 2);
  layer.step(ctx, parameters, x.view().select(1, 0), y.view().select(1, 0), state);
  // [/layer in bf16]

  // [mixed precision]
  using Map = ssm::Linear<ssm::LinearConfig{}>;
  const ssm::Sequential stack(Map({.inputs = 1, .outputs = 16}), layer,
                              Map({.inputs = 16, .outputs = 1}));
  ssm::Model model{stack, stack.initialize(ctx, ssm::Seed{2})};  // in float, as it is saved
  auto trainer = ssm::mixed_precision_trainer<BFloat16>(ctx, model, {.rate = 1e-2});
  ssm::DynamicTensor<float, 3> input({4, 32, 1}), target({4, 32, 1});
  double first = 0, last = 0;
  for (std::uint64_t step = 0; step < 60; ++step) {
    ssm::fill_uniform(input, ssm::Seed{3}.fork(step), -1, 1);
    for (ssm::Index i = 0; i < input.size(); ++i)  // the number before
      target.data()[i] = i % 32 == 0 ? 0.0F : input.data()[i - 1];
    last = trainer
               .update(input,
                       [&](auto out, auto dout) {
                         return ssm::mean_squared_error(ctx, out, target, dout);
                       })
               .loss;
    if (step == 0) first = last;
  }
  // [/mixed precision]
  std::printf("loss %.4f, then %.4f\n", first, last);
  return last < 0.5 * first && std::isfinite(last) ? 0 : 1;
}
