// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/language_model_trainer.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/train/shuffled_windows.hpp"
#include "ssm/train/text_streams.hpp"
#include "support/backends.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

using P = H3LanguageModel::Parameters<double>;

std::vector<Token> uneven_text(std::size_t size) {
  std::vector<Token> text;
  for (std::size_t i = 0; i < size; ++i) text.push_back(static_cast<Token>(i * i % 7));
  return text;
}

/// A model, its trainer and a text.
struct Run {
  explicit Run(LanguageModelTrainerConfig config = {.batch = 2}, double dropout = 0)
      : model(model_with(dropout)),
        streams(text, 9, std::max<Index>(config.batch * config.accumulation, 1), Seed{2}),
        trainer(ctx, model.layer, model.parameters, config) {}
  TrainingStep update(double rate = 0.01) {
    return trainer.update(ctx, model.layer, model.parameters, streams, rate);
  }

  static Model<P> model_with(double dropout) {
    return tiny_model({.d_model = 8,
                       .n_layer = 2,
                       .d_inner = 16,
                       .vocab_size = 7,
                       .pad_vocab_size_multiple = 4,
                       .d_state = 4,
                       .embed_dropout = dropout,
                       .resid_dropout = dropout / 2});
  }

  Context<Reference> ctx;
  Model<P> model;
  std::vector<Token> text = uneven_text(60);
  TextStreams streams;
  LanguageModelTrainer<P> trainer;
};

TEST_CASE("accumulated gradients equal those of a larger batch, with the state carried or not") {
  for (const Index carry : {1, 2}) {
    Run whole({.batch = 6, .carry = carry});
    Run microbatches({.batch = 2, .accumulation = 3, .carry = carry});
    for (int step = 0; step < 4; ++step) {
      const TrainingStep a = whole.update();
      const TrainingStep b = microbatches.update();
      CHECK(std::abs(a.loss - b.loss) <= tolerance<double>.value);
      CHECK(std::abs(a.gradient_norm - b.gradient_norm) <= tolerance<double>.gradient);
      CHECK(distance(whole.trainer.gradients(), microbatches.trainer.gradients()) <=
            tolerance<double>.gradient);
    }
  }
}

TEST_CASE("a loss that is taken in parts is that of all logits, and so are its gradients") {
  for (const auto& config :
       {LanguageModelTrainerConfig{.batch = 6},
        LanguageModelTrainerConfig{.batch = 3, .accumulation = 2, .carry = 2},
        LanguageModelTrainerConfig{.batch = 6, .document_end = Token{4}},
        LanguageModelTrainerConfig{.batch = 6, .carry = 2, .document_end = Token{4}}})
    for (const Index rows : {1, 5, 16}) {
      LanguageModelTrainerConfig in_parts = config;
      in_parts.logit_bytes = rows * 8 * Index{sizeof(double)};  // 8: the padded vocabulary
      Run whole(config, 0.1), parts(in_parts, 0.1);
      for (int step = 0; step < 4; ++step) {
        const TrainingStep a = whole.update();
        const TrainingStep b = parts.update();
        CHECK(std::abs(a.loss - b.loss) <= tolerance<double>.value);
        CHECK(std::abs(a.gradient_norm - b.gradient_norm) <= tolerance<double>.gradient);
        CHECK(distance(whole.trainer.gradients(), parts.trainer.gradients()) <=
              tolerance<double>.gradient);
      }
    }
}

TEST_CASE("parts of a loss are as large as they may be, and nearly alike") {
  using Loss = HeadLoss<float, HostSpace>;
  CHECK(Loss::rows_for(8192, 256, Index{1} << 27) == 8192);
  CHECK(Loss::rows_for(8192, 50257, Index{1} << 27) == 2048);
  CHECK(Loss::rows_for(54, 8, 40) == 5);
  CHECK(Loss::rows_for(54, 8, 1) == 1);
  CHECK(Loss::rows_for(0, 8, 1) == 0);
}

TEST_CASE("gradients start at zero whatever is in their memory") {
  Run run;
  run.update(0);
  const auto expected = copy_of(run.trainer.gradients(), run.model.layer);
  auto gradients = run.model.layer.zero_parameters<double>(run.ctx);
  const auto for_each_number = [&](const auto& visit) {
    for_each_parameter(
        [&](const ParameterSpec&, auto& tensor) {
          for (Index i = 0; i < tensor.size(); ++i) visit(tensor.data()[i]);
        },
        gradients);
  };
  for (const bool reaches : {false, true}) {
    for_each_number([](double& x) { x = std::numeric_limits<double>::quiet_NaN(); });
    set_zero(run.ctx, gradients, true);
    UnwrittenGradients pass(run.ctx, gradients);
    if (reaches) {
      DynamicTensor<Token, 2> tokens({2, 9}), targets({2, 9});
      run.streams.fill(0, 0, tokens, targets);
      DynamicTensor<double, 3> logits({2, 9, run.model.layer.padded_vocabulary()});
      auto tape = run.model.layer.make_tape<double>();
      run.model.layer.forward(run.ctx, run.model.parameters, tokens, logits, tape);
      DynamicTensor<double, 1> loss({1});
      cross_entropy(run.ctx, CrossEntropy<double, HostSpace>{.logits = as_rows(logits.view()),
                                                             .targets = targets.flatten(),
                                                             .loss = loss,
                                                             .dlogits = as_rows(logits.view())});
      run.model.layer.backward(run.ctx, run.model.parameters, tape, logits, gradients);
    }
    pass.finish();
    if (reaches)
      CHECK(distance(gradients, expected) <= tolerance<double>.value);
    else
      for_each_number([](double x) { CHECK(x == 0); });
  }
}

TEST_CASE("a loss that is not finite changes nothing") {
  for (const Index accumulation : {1, 2}) {
    Run run({.batch = 2, .accumulation = accumulation, .optimizer = {.clip_norm = 1}});
    run.update();
    const auto moments = copy_of(run.trainer.optimizer().first_moment(), run.model.layer);
    run.model.parameters.norm.bias(0) = std::numeric_limits<double>::infinity();
    const auto before = copy_of(run.model.parameters, run.model.layer);
    CHECK_FALSE(std::isfinite(run.update().loss));
    CHECK(run.trainer.step() == 1);
    CHECK(distance(run.trainer.optimizer().first_moment(), moments) == 0);
    run.model.parameters.norm.bias(0) = before.norm.bias(1);
    auto expected = copy_of(before, run.model.layer);
    expected.norm.bias(0) = before.norm.bias(1);
    CHECK(distance(run.model.parameters, expected) == 0);
  }
}

/// The loss of windows first … last of every stream, each stream read in one piece.
double loss_of_pieces(const Run& run, Index first, Index last) {
  Context<Reference> ctx;
  const Index batch = run.streams.streams();
  const Index length = (last - first + 1) * run.streams.length();
  DynamicTensor<Token, 2> tokens({batch, length}), targets({batch, length});
  for (Index step = first; step <= last; ++step) {
    const Index begin = (step - first) * run.streams.length();
    for (Index b = 0; b < batch; ++b)
      for (Index t = 0; t < run.streams.length(); ++t) {
        tokens(b, begin + t) = run.streams.window(b, step)[static_cast<std::size_t>(t)];
        targets(b, begin + t) = run.streams.window(b, step)[static_cast<std::size_t>(t + 1)];
      }
  }
  DynamicTensor<double, 3> logits({batch, length, run.model.layer.padded_vocabulary()});
  run.model.layer.forward(ctx, run.model.parameters, tokens, logits);
  DynamicTensor<double, 1> loss({1});
  cross_entropy(ctx,
                CrossEntropy<double, HostSpace>{
                    .logits = as_rows(logits.view()), .targets = targets.flatten(), .loss = loss});
  return loss(0);
}

TEST_CASE("a state that is carried makes windows one long piece, until it starts afresh") {
  Run run({.batch = 2, .carry = 3});
  const auto update = [&] { return run.update(0).loss; };  // the rate is zero: parameters stay
  const double first = update(), second = update(), third = update(), fourth = update();
  CHECK(std::abs(first - loss_of_pieces(run, 0, 0)) <= tolerance<double>.value);
  CHECK(std::abs((first + second + third) / 3 - loss_of_pieces(run, 0, 2)) <=
        tolerance<double>.value);
  CHECK(std::abs(second - loss_of_pieces(run, 1, 1)) > tolerance<double>.value);
  CHECK(std::abs(fourth - loss_of_pieces(run, 3, 3)) <= tolerance<double>.value);
}

/// The summed loss of the documents in windows first … last of every stream, windows that go on
/// read in one piece and each document by itself, with the gradient of that sum.
struct Documents {
  Documents(const Run& run, Index first, Index last, Token end)
      : gradients(run.model.layer.zero_parameters<double>(ctx)) {
    for (Index stream = 0; stream < run.streams.streams(); ++stream) {
      std::vector<Token> piece;
      for (Index step = first; step <= last; ++step) {
        const auto window = run.streams.window(stream, step);
        const bool goes_on = step > first && run.streams.begin_of(stream, step) ==
                                                 run.streams.begin_of(stream, step - 1) + 9;
        if (goes_on) piece.pop_back();
        if (!goes_on) add_documents(run, std::exchange(piece, {}), end);
        piece.insert(piece.end(), window.begin(), window.end());
      }
      add_documents(run, piece, end);
    }
  }
  void add_documents(const Run& run, const std::vector<Token>& piece, Token end) {
    for (auto begin = piece.begin(); begin != piece.end();) {
      auto behind = std::find(begin, piece.end(), end);
      if (behind != piece.end()) ++behind;
      add(run, std::vector<Token>(begin, behind));
      begin = behind;
    }
  }
  void add(const Run& run, const std::vector<Token>& document) {
    const auto length = static_cast<Index>(document.size()) - 1;
    if (length == 0) return;
    DynamicTensor<double, 3> logits({1, length, run.model.layer.padded_vocabulary()});
    DynamicTensor<double, 1> loss({1});
    auto tape = run.model.layer.make_tape<double>();
    run.model.layer.forward(ctx, run.model.parameters,
                            View<const Token, 2>(document.data(), {1, length}), logits, tape);
    cross_entropy(ctx, CrossEntropy<double, HostSpace>{
                           .logits = as_rows(logits.view()),
                           .targets = View<const Token, 1>(document.data() + 1, {length}),
                           .reduction = Reduction::sum,
                           .loss = loss,
                           .dlogits = as_rows(logits.view())});
    run.model.layer.backward(ctx, run.model.parameters, tape, logits, gradients);
    nats += loss(0);
    tokens += length;
  }

  Context<Reference> ctx;
  P gradients;
  double nats = 0;
  Index tokens = 0;
};

TEST_CASE("documents packed into windows have the loss and the gradient of each by itself") {
  for (const Index accumulation : {1, 2}) {
    Run run({.batch = 4 / accumulation, .accumulation = accumulation, .document_end = 0});
    for (Index step = 0; step < 7; ++step) {
      Documents apart(run, step, step, 0);
      REQUIRE(apart.tokens < 4 * 9);  // an end somewhere
      const auto count = static_cast<double>(apart.tokens);
      CHECK(std::abs(run.update(0).loss - apart.nats / count) <= tolerance<double>.value);
      H3LanguageModel::for_each_parameter(
          [&](const ParameterSpec&, auto& tensor) {
            for (Index i = 0; i < tensor.size(); ++i) tensor.data()[i] /= count;
          },
          apart.gradients);
      CHECK(distance(run.trainer.gradients(), apart.gradients) <= tolerance<double>.gradient);
    }
  }
}

TEST_CASE("a document goes on in the next window where the state is carried, and no other does") {
  Run run({.batch = 3, .carry = 4, .document_end = 0});
  int ends = 0;  // of windows that end with a document
  for (Index begin = 0; begin < 28; begin += 4) {
    double nats = 0;
    Index tokens = 0;
    for (Index step = begin; step < begin + 4; ++step) {
      const Index count = Documents(run, step, step, 0).tokens;
      nats += run.update(0).loss * static_cast<double>(count);
      tokens += count;
      for (Index stream = 0; stream < 3; ++stream) ends += run.streams.window(stream, step)[8] == 0;
    }
    const Documents whole(run, begin, begin + 3, 0);
    CHECK(tokens == whole.tokens);
    CHECK(std::abs(nats - whole.nats) <= tolerance<double>.value * static_cast<double>(tokens));
  }
  CHECK(ends > 0);
}

TEST_CASE("a window of ends alone has no loss and no gradient") {
  Run run({.batch = 2, .document_end = 0});
  const std::vector<Token> ends(40, 0);
  const TextStreams streams(ends, 9, 2, Seed{1});
  const TrainingStep step =
      run.trainer.update(run.ctx, run.model.layer, run.model.parameters, streams, 0.1);
  CHECK(step.loss == 0);
  CHECK(step.gradient_norm == 0);
}

TEST_CASE("training brings the loss of a simple text down on every backend") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(name);
    Context<B> ctx;
    auto model = tiny_model<float>();
    const auto text = periodic_text(200);
    const TextStreams streams(text, 16, 4, Seed{1});
    LanguageModelTrainer trainer(ctx, model.layer, model.parameters,
                                 {.batch = 4, .optimizer = {.rate = 0.02, .clip_norm = 1}});
    const double first = trainer.update(ctx, model.layer, model.parameters, streams, 0.02).loss;
    double last = 0;
    for (int step = 0; step < 60; ++step)
      last = trainer.update(ctx, model.layer, model.parameters, streams, 0.02).loss;
    CHECK(first > 1.5);  // near ln 8
    CHECK(last < 0.2);
  });
}

TEST_CASE("the same seeds make the same updates bit for bit") {
  Run a({.batch = 2, .seed = Seed{9}}, 0.3);
  Run b({.batch = 2, .seed = Seed{9}}, 0.3);
  Run c({.batch = 2, .seed = Seed{8}}, 0.3);
  for (int step = 0; step < 3; ++step) {
    a.update();
    b.update();
    c.update();
  }
  CHECK(distance(a.model.parameters, b.model.parameters) == 0);
  CHECK(distance(a.model.parameters, c.model.parameters) > 0);
}

TEST_CASE("dropout differs from update to update and changes the loss") {
  Run with({.batch = 2}, 0.5);
  Run without({.batch = 2});
  CHECK(with.update(0).loss != without.update(0).loss);
}

TEST_CASE("a run that stops and goes on ends with the same bits as one that does not") {
  const LanguageModelTrainerConfig config{.batch = 2, .accumulation = 2, .carry = 4};
  Run whole(config, 0.2);
  for (int step = 0; step < 8; ++step) whole.update();
  Run before(config, 0.2);
  for (int step = 0; step < 6; ++step) before.update();  // in the middle of what is carried

  Run after(config, 0.2);
  after.model.parameters = copy_of(before.model.parameters, before.model.layer);
  auto& optimizer = after.trainer.optimizer();
  optimizer.first_moment() = copy_of(before.trainer.optimizer().first_moment(), before.model.layer);
  optimizer.second_moment() =
      copy_of(before.trainer.optimizer().second_moment(), before.model.layer);
  optimizer.set_step(6);
  for (std::size_t microbatch = 0; microbatch < 2; ++microbatch)
    copy_state<H3LanguageModel>(after.ctx, before.trainer.states()[microbatch],
                                after.trainer.states()[microbatch]);
  after.update();
  after.update();
  CHECK(after.trainer.step() == 8);
  CHECK(distance(after.model.parameters, whole.model.parameters) == 0);
}

TEST_CASE("a loss that is not finite is reported and changes nothing") {
  Run run;
  run.model.parameters.norm.weight(0) = std::numeric_limits<double>::quiet_NaN();
  const P before = copy_of(run.model.parameters, run.model.layer);
  CHECK(!std::isfinite(run.update().loss));
  CHECK(run.trainer.step() == 0);
  run.model.parameters.norm.weight(0) = 1;
  P expected = copy_of(before, run.model.layer);
  expected.norm.weight(0) = 1;
  CHECK(distance(run.model.parameters, expected) == 0);
}

TEST_CASE("options outside their range are refused") {
  CHECK_THROWS_AS(Run({.batch = 0}), ArgumentError);
  CHECK_THROWS_AS(Run({.accumulation = 0}), ArgumentError);
  CHECK_THROWS_AS(Run({.carry = 0}), ArgumentError);
  CHECK_THROWS_AS(Run({}, 1), ArgumentError);
  CHECK_THROWS_AS(Run({.document_end = 7}), ArgumentError);
  CHECK_THROWS_AS(Run({.document_end = -1}), ArgumentError);
  Run run({.batch = 2});
  const TextStreams three(run.text, 9, 3, Seed{1});
  CHECK_THROWS_AS(run.trainer.update(run.ctx, run.model.layer, run.model.parameters, three, 0.1),
                  ArgumentError);
  Run carrying({.batch = 2, .carry = 2});
  const ShuffledWindows shuffled(run.text, 9, 2, Seed{1});
  CHECK_THROWS_AS(carrying.trainer.update(carrying.ctx, carrying.model.layer,
                                          carrying.model.parameters, shuffled, 0.1),
                  ArgumentError);
}

}  // namespace
}  // namespace ssm::test
