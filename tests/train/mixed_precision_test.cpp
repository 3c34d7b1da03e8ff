// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "ssm/backend/cpu.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/losses.hpp"
#include "ssm/train/text_streams.hpp"
#include "ssm/train/trainer.hpp"

namespace ssm {
namespace {

/// Text in which most tokens follow from the one before.
std::vector<Token> text() {
  const Random random(Seed{3});
  std::vector<Token> tokens(4000);
  std::uint32_t token = 1;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    token = (5 * token + 3 + (random.uniform(i) < 0.2 ? 1 : 0)) % 32;
    tokens[i] = static_cast<Token>(token);
  }
  return tokens;
}

MambaLanguageModelConfig small_model() {
  MambaLanguageModelConfig config;
  config.d_model = 16;
  config.n_layer = 2;
  config.vocab_size = 32;
  config.d_state = 4;
  return config;
}

/// The losses of some updates with sequences in T.
template <class T>
std::vector<double> losses(int updates) {
  Context<Cpu> ctx;
  const auto layer = make_language_model(small_model());
  auto parameters = layer.initialize(ctx, Seed{1});
  const std::vector<Token> tokens = text();
  const TextStreams streams(TokenView(std::span<const Token>(tokens)), 32, 4, Seed{2});
  LanguageModelTrainer<decltype(parameters), T> trainer(
      ctx, layer, parameters,
      {.batch = 4, .carry = 4, .optimizer = {.rate = 5e-3, .clip_norm = 1}});
  std::vector<double> result;
  for (int i = 0; i < updates; ++i)
    result.push_back(trainer.update(ctx, layer, parameters, streams, 5e-3).loss);
  return result;
}

double mean(const std::vector<double>& losses, std::size_t begin) {
  double sum = 0;
  for (std::size_t i = begin; i < begin + 10; ++i) sum += losses[i];
  return sum / 10;
}

TEST_CASE("training in half types follows training in float") {
  constexpr int updates = 60;
  const auto exact = losses<float>(updates);
  const auto bf16 = losses<BFloat16>(updates);
  const auto f16 = losses<Float16>(updates);
  REQUIRE(exact.back() < 0.6 * exact.front());
  CHECK(bf16.front() == doctest::Approx(exact.front()).epsilon(0.005));
  CHECK(f16.front() == doctest::Approx(exact.front()).epsilon(0.0005));
  CHECK(bf16.front() != exact.front());  // these are other numbers
  CHECK(f16.front() != exact.front());
  // Means of ten updates: a single batch of four windows jumps.
  for (std::size_t begin = 0; begin < exact.size(); begin += 10) {
    CAPTURE(begin);
    CHECK(mean(bf16, begin) == doctest::Approx(mean(exact, begin)).epsilon(0.05));
    CHECK(mean(f16, begin) == doctest::Approx(mean(exact, begin)).epsilon(0.05));
  }
}

using Map = Linear<LinearConfig{.inputs = 3, .outputs = 2}>;

TEST_CASE("a trainer in a half type keeps what it trains in float") {
  Context<Cpu> ctx;
  const Map layer;
  Model model{layer, layer.initialize(ctx, Seed{1})};
  auto trainer = mixed_precision_trainer<BFloat16>(ctx, model, {.rate = 1e-4, .weight_decay = 0});
  DynamicTensor<float, 3> x({2, 4, 3}), target({2, 4, 2});
  fill(x, 1.0F);
  const float before = model.parameters.weight(0, 0);
  double first = 0, last = 0;
  for (int i = 0; i < 50; ++i) {
    const TrainingStep step = trainer.update(
        x, [&](const auto& y, const auto& dy) { return mean_squared_error(ctx, y, target, dy); });
    (i == 0 ? first : last) = step.loss;
  }
  CHECK(last < first);
  // Fifty steps of 1e-4, of which bf16 alone would have kept none.
  CHECK(std::abs(model.parameters.weight(0, 0) - before) == doctest::Approx(5e-3).epsilon(0.2));
}

TEST_CASE("a gradient that overflows in f16 halves the scale, and is no update") {
  Context<Cpu> ctx;
  const Map layer;
  Model model{layer, layer.initialize(ctx, Seed{1})};
  auto trainer = mixed_precision_trainer<Float16>(ctx, model, {.rate = 1e-3});
  DynamicTensor<float, 3> x({1, 4, 3});
  fill(x, 1.0F);
  const auto loss_with_slope = [](float slope) {
    return [slope](const auto&, const auto& dy) {
      fill(dy, slope);
      return 1.0;
    };
  };
  const double scale = trainer.optimizer().loss_scale().value();
  REQUIRE(scale > 1);
  const float before = model.parameters.weight(0, 0);
  const TrainingStep overflow = trainer.update(x, loss_with_slope(3.0F));  // 3 · 65536 > 65504
  CHECK_FALSE(std::isfinite(overflow.gradient_norm));
  CHECK(trainer.step() == 0);
  CHECK(model.parameters.weight(0, 0) == before);
  CHECK(trainer.optimizer().loss_scale().value() == scale / 2);
  trainer.update(x, loss_with_slope(3.0F));
  CHECK(trainer.optimizer().loss_scale().value() == scale / 4);
  const TrainingStep fits = trainer.update(x, loss_with_slope(3.0F));
  CHECK(trainer.step() == 1);
  // Four positions, of six weights and two biases.
  CHECK(fits.gradient_norm == doctest::Approx(12 * std::sqrt(8.0)).epsilon(1e-3));
}

}  // namespace
}  // namespace ssm
