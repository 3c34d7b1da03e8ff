// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/trainer.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "ssm/io/model_file.hpp"
#include "ssm/io/optimizer_checkpoint.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/mean_pool.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/model/last_position.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/sequential.hpp"
#include "ssm/train/accuracy.hpp"
#include "ssm/train/losses.hpp"
#include "support/backends.hpp"
#include "support/temporary_folder.hpp"
#include "support/test_tensor.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

using Block = Residual<LayerNorm<4>, S4D<S4DConfig{.channels = 4, .state = 4}>>;
template <Index Outputs>
using Small = Sequential<Linear<LinearConfig{.inputs = 2, .outputs = 4}>, Block,
                         MeanPool<MeanPoolConfig{.channels = 4}>,
                         Linear<LinearConfig{.inputs = 4, .outputs = Outputs}>>;

/// With dropout, so that an update depends on its number.
template <Index Outputs, class T = double, class B>
auto small_model(const Context<B>& ctx) {
  Small<Outputs> layer({}, Block({}, {}, 0.2), {}, {});
  auto parameters = layer.template initialize<T>(ctx, Seed{3});
  return Model{std::move(layer), std::move(parameters)};
}

TEST_CASE("an update is forward, loss, backward and AdamW") {
  Context<Reference> ctx;
  auto model = small_model<3>(ctx);
  const auto x = random_tensor("x", 2, 6, 2);
  const auto target = random_tensor("target", 2, 6, 3);
  const AdamWConfig config{.rate = 0.01, .clip_norm = 0.1};

  auto expected = copy_of(model.parameters, model.layer);
  AdamW optimizer(ctx, model.layer, expected, config);
  auto tape = model.layer.make_tape<double>();
  auto gradients = model.layer.zero_parameters<double>(ctx);
  auto y = nan_tensor(2, 6, 3), dy = nan_tensor(2, 6, 3), dx = nan_tensor(2, 6, 2);
  Trainer trainer(ctx, model, config, Seed{7});
  for (std::uint64_t step = 0; step < 3; ++step) {
    model.layer.forward(ctx, expected, x, y, tape, {.dropout = Seed{7}.fork(step)});
    const double loss = mean_squared_error(ctx, y, target, dy);
    set_zero(ctx, gradients);
    model.layer.backward(ctx, expected, tape, dy, dx, gradients);
    const double norm = optimizer.update(ctx, expected, gradients, step == 1 ? 0.02 : 0.01);

    UpdateOptions<decltype(expected)> options;
    if (step == 1) options.rate = 0.02;
    const TrainingStep result = trainer.update(
        x, [&](auto out, auto dout) { return mean_squared_error(ctx, out, target, dout); },
        options);
    CHECK(result.loss == loss);
    CHECK(result.gradient_norm == norm);
    CHECK(distance(trainer.gradients(), gradients) == 0);
    CHECK(distance(model.parameters, expected) == 0);
  }
  CHECK(trainer.step() == 3);
}

TEST_CASE("training a classifier of whole sequences brings its loss down on every backend") {
  laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(name);
    Context<B> ctx;
    auto model = small_model<2, T>(ctx);
    Trainer trainer(ctx, model, {.rate = 0.02, .ssm_rate = 0.02});
    auto x = random_tensor<T>("x", 8, 20, 2);
    DynamicTensor<Token, 1> labels({8});
    for (Index b = 0; b < 8; ++b) {  // which channel is the louder one
      labels(b) = static_cast<Token>(b % 2);
      for (Index t = 0; t < 20; ++t) x(b, t, b % 2) += T{1};
    }
    const auto loss = [&](auto y, auto dy) {
      return cross_entropy(ctx, last_position(y), labels, last_position(dy));
    };
    const double first = trainer.update(x, loss).loss;
    double last = 0;
    for (int step = 0; step < 60; ++step) last = trainer.update(x, loss).loss;
    CHECK(first > 0.4);
    CHECK(last < 0.1);
    auto y = nan_tensor<T>(8, 20, 2);
    model.forward(ctx, x, y);
    CHECK(accuracy(last_position(y), labels) == 1);
  });
}

TEST_CASE("packed sequences train as the same sequences one by one do") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 2, 5, 2);
  const auto target = random_tensor("target", 2, 5, 2);
  const std::vector<Index> segments{0, 5, 10};
  const Small<2> plain;  // without dropout: its masks follow where elements lie
  Model batch{plain, plain.initialize<double>(ctx, Seed{1})};
  Model packed{plain, plain.initialize<double>(ctx, Seed{1})};
  Trainer of_batch(ctx, batch), of_packed(ctx, packed);
  for (int step = 0; step < 3; ++step) {
    const double whole =
        of_batch.update(x, [&](auto y, auto dy) { return mean_squared_error(ctx, y, target, dy); })
            .loss;
    const double rows =
        of_packed
            .update(x.reshape(1, 10, 2),
                    [&](auto y, auto dy) {
                      return mean_squared_error(ctx, y, target.reshape(1, 10, 2), dy);
                    },
                    {.segments = segments})
            .loss;
    CHECK(std::abs(whole - rows) <= tolerance<double>.value);
  }
  CHECK(distance(batch.parameters, packed.parameters) <= tolerance<double>.gradient);
}

TEST_CASE("a loss that is not finite changes nothing and says so") {
  Context<Reference> ctx;
  auto model = small_model<2>(ctx);
  const auto before = copy_of(model.parameters, model.layer);
  Trainer trainer(ctx, model);
  const auto x = random_tensor("x", 1, 4, 2);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isnan(trainer.update(x, [&](auto, auto) { return nan; }).loss));
  const TrainingStep step = trainer.update(x, [&](auto, auto dy) {
    dy(0, 0, 0) = nan;
    return 1.0;
  });
  CHECK(step.loss == 1);
  CHECK(std::isnan(step.gradient_norm));
  CHECK(distance(model.parameters, before) == 0);
  CHECK(trainer.step() == 0);
}

TEST_CASE("a language model trains on a loss of one's own") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(name);
    Context<B> ctx;
    auto model = tiny_model();
    Trainer trainer(ctx, model, {.rate = 0.01});
    DynamicTensor<Token, 2> tokens({2, 8});
    for (Index i = 0; i < tokens.size(); ++i) tokens.data()[i] = static_cast<Token>(i % 7);
    const auto loss = [&](auto y, auto dy) {
      const auto zero = zeros_like(y);
      return mean_squared_error(ctx, y, zero, dy);
    };
    const double first = trainer.update(tokens, loss).loss;
    double last = 0;
    for (int step = 0; step < 20; ++step) last = trainer.update(tokens, loss).loss;
    CHECK(last < first / 2);
  });
}

TEST_CASE("training that was stopped goes on bit for bit") {
  const TemporaryFolder folder;
  Context<Reference> ctx;
  const auto x = random_tensor("x", 2, 6, 2);
  const auto target = random_tensor("target", 2, 6, 3);
  const auto loss = [&](auto y, auto dy) { return mean_squared_error(ctx, y, target, dy); };
  auto model = small_model<3>(ctx);
  Trainer trainer(ctx, model, {}, Seed{5});
  for (int step = 0; step < 3; ++step) trainer.update(x, loss);
  save(folder / "model.safetensors", model);
  save_optimizer(folder / "optimizer.safetensors", trainer.optimizer());

  auto other = small_model<3>(ctx);
  Trainer resumed(ctx, other, {}, Seed{5});
  load(folder / "model.safetensors", other);
  load_optimizer(folder / "optimizer.safetensors", resumed.optimizer());
  CHECK(resumed.step() == 3);
  for (int step = 0; step < 3; ++step)
    CHECK(trainer.update(x, loss).loss == resumed.update(x, loss).loss);
  CHECK(distance(model.parameters, other.parameters) == 0);
}

TEST_CASE("a model's verbs are its layer's") {
  Context<Reference> ctx;
  const auto model = small_model<3>(ctx);
  const auto x = random_tensor("x", 2, 6, 2);
  auto y = nan_tensor(2, 6, 3), streamed = nan_tensor(2, 6, 3);
  model.forward(ctx, x, y);
  auto state = model.initial_state(ctx, 2);
  model.prefill(ctx, x.slice(1, 0, 4), streamed.slice(1, 0, 4), state);
  for (Index t = 4; t < 6; ++t) model.step(ctx, x.select(1, t), streamed.select(1, t), state);
  CHECK(difference(y, streamed) <= tolerance<double>.value);
}

}  // namespace
}  // namespace ssm::test
