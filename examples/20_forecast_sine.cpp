// SPDX-License-Identifier: Apache-2.0
// A model that is not a language model: it forecasts a noisy sine, one value ahead, and then
// streams.
#include <cmath>
#include <cstdio>
#include <ssm/backend/cpu.hpp>
#include <ssm/layer/s4d.hpp>
#include <ssm/ssm.hpp>

// [forecast model]
constexpr ssm::Index d_model = 16;
using Norm = ssm::LayerNorm<d_model>;
using Mixer = ssm::S4D<ssm::S4DConfig{.channels = d_model, .state = 16}>;
using Mlp = ssm::FeedForward<ssm::FeedForwardConfig{.channels = d_model, .hidden = 2 * d_model}>;
using Forecaster = ssm::Sequential<
    ssm::Named<"encoder", ssm::Linear<ssm::LinearConfig{.inputs = 1, .outputs = d_model}>>,
    ssm::Residual<Norm, Mixer>, ssm::Residual<Norm, Mlp, "norm", "mlp">, Norm,
    ssm::Named<"head", ssm::Linear<ssm::LinearConfig{.inputs = d_model, .outputs = 1}>>>;
// [/forecast model]

/// Sixteen noisy sines of other periods and phases each time.
void draw(ssm::DynamicTensor<float, 3>& series, ssm::Index step) {
  ssm::fill_normal(series, ssm::Seed{100}.fork(static_cast<std::uint64_t>(step)), 0, 0.1);
  for (ssm::Index b = 0; b < series.extent(0); ++b)
    for (ssm::Index t = 0; t < series.extent(1); ++t)
      series(b, t, 0) += std::sin(0.1F * static_cast<float>((1 + b % 4) * t + 7 * b + 10 * step));
}

int main() {
  const ssm::Index batch = 16, length = 64;
  // [forecast training]
  ssm::Context<ssm::Cpu> ctx;
  const Forecaster layer;
  ssm::Model model{layer, layer.initialize(ctx, ssm::Seed{3})};
  ssm::Trainer trainer(ctx, model, {.rate = 5e-3, .ssm_rate = 5e-3, .weight_decay = 0});
  ssm::DynamicTensor<float, 3> series({batch, length + 1, 1});
  double first = 0, last = 0;
  for (int step = 0; step < 300; ++step) {
    draw(series, step);
    const auto x = series.slice(1, 0, length);
    const auto target = series.slice(1, 1, length + 1);
    const auto loss = [&](auto y, auto dy) { return ssm::mean_squared_error(ctx, y, target, dy); };
    last = trainer.update(x, loss).loss;
    if (step == 0) first = last;
  }
  // [/forecast training]
  std::printf("mean squared error %.3f -> %.3f\n", first, last);

  // [forecast stream]
  ssm::DynamicTensor<float, 3> y({batch, length, 1}), streamed({batch, length, 1});
  model.forward(ctx, series.slice(1, 0, length), y);
  auto state = model.initial_state(ctx, batch);
  for (ssm::Index t = 0; t < length; ++t)
    model.step(ctx, series.select(1, t), streamed.select(1, t), state);
  // [/forecast stream]
  std::printf("streaming differs by %.1e\n", ssm::largest_difference(y, streamed).value);
  const bool learned = first > 0.3 && last < 0.04;
  return learned && ssm::all_close(y, streamed, ssm::tolerance<float>.value) ? 0 : 1;
}
