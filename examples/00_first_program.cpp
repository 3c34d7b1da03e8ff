// SPDX-License-Identifier: Apache-2.0
// One layer: it trains on whole sequences in parallel, and streams one position at a time with the
// same numbers.
// [first program]
#include <iostream>
#include <ssm/backend/cpu.hpp>
#include <ssm/ssm.hpp>

int main() {
  const ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 16, .state = 64}> layer;
  ssm::Context<ssm::Cpu> ctx;  // threads and workspace
  ssm::Model model{layer, layer.initialize(ctx, ssm::Seed{42})};

  const ssm::Index batch = 4, length = 64;
  ssm::DynamicTensor<float, 3> x({batch, length, 16}), target({batch, length, 16});
  ssm::fill_normal(x, ssm::Seed{1});
  ssm::fill_normal(target, ssm::Seed{2});

  ssm::Trainer trainer(ctx, model, {.rate = 1e-2});
  for (int step = 0; step < 20; ++step) {
    const auto result = trainer.update(
        x, [&](auto y, auto dy) { return ssm::mean_squared_error(ctx, y, target, dy); });
    if (step % 10 == 0 || step == 19) std::cout << "loss " << result.loss << "\n";
  }

  ssm::DynamicTensor<float, 3> whole({batch, length, 16}), streamed({batch, length, 16});
  model.forward(ctx, x, whole);
  auto state = model.initial_state(ctx, batch);
  for (ssm::Index t = 0; t < length; ++t)
    model.step(ctx, x.select(1, t), streamed.select(1, t), state);
  std::cout << "streaming differs by " << ssm::largest_difference(whole, streamed).value << "\n";
}
// [/first program]
