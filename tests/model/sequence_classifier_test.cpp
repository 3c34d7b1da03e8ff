// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/sequence_classifier.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "ssm/backend/cpu.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/io/model_file.hpp"
#include "ssm/model/last_position.hpp"
#include "ssm/train/accuracy.hpp"
#include "ssm/train/losses.hpp"
#include "ssm/train/trainer.hpp"
#include "support/temporary_folder.hpp"
#include "support/test_tensor.hpp"

namespace ssm {
namespace {

SequenceClassifierConfig small() {
  return {.vocabulary = 4, .classes = 2, .d_model = 6, .n_layer = 2, .d_state = 4, .dt_min = 0.02};
}

/// Sequences of 1 and 2, and the class of each: whether its first token, which only what reads
/// backwards or remembers knows at the end, is 2.
struct FirstToken {
  static constexpr Index rows = 32;
  DynamicTensor<Token, 2> tokens{{rows, 12}};
  DynamicTensor<Token, 1> labels{{rows}};

  void draw(std::uint64_t step) {
    const Random random(Seed{5}.fork(step));
    for (Index b = 0; b < rows; ++b) {
      for (Index t = 0; t < 12; ++t)
        tokens(b, t) =
            static_cast<Token>(1 + random.below(static_cast<std::uint64_t>(b * 12 + t), 2));
      labels(b) = tokens(b, 0) - 1;
    }
  }
};

double trained_accuracy(const SequenceClassifierConfig& config) {
  Context<Cpu> ctx;
  const TokenClassifier layer = make_token_classifier(config);
  Model model{layer, layer.initialize(ctx, Seed{1})};
  Trainer trainer(ctx, model, {.rate = 2e-2, .weight_decay = 0}, Seed{2});
  FirstToken task;
  for (std::uint64_t step = 0; step < 200; ++step) {
    task.draw(step);
    trainer.update(task.tokens, [&](auto y, auto dy) {
      return cross_entropy(ctx, last_position(y), task.labels, last_position(dy));
    });
  }
  task.draw(1000);
  DynamicTensor<float, 3> y({FirstToken::rows, 12, 2});
  model.forward(ctx, task.tokens, y);
  return accuracy(last_position(y), task.labels);
}

TEST_CASE("every form learns which token came first") {
  for (const ClassifierMixer mixer : {ClassifierMixer::s4d, ClassifierMixer::h3})
    for (const NormPlace norm : {NormPlace::before, NormPlace::after}) {
      SequenceClassifierConfig config = small();
      config.mixer = mixer;
      config.norm = norm;
      config.bidirectional = mixer == ClassifierMixer::s4d;
      config.pooling = norm == NormPlace::before ? Pooling::mean : Pooling::last;
      CAPTURE(static_cast<int>(mixer));
      CAPTURE(static_cast<int>(norm));
      CHECK(trained_accuracy(config) >= 0.9);
    }
}

TEST_CASE("dropout changes training and nothing else") {
  SequenceClassifierConfig config = small();
  config.dropout = 0.5;
  const TokenClassifier dropping = make_token_classifier(config);
  const TokenClassifier whole = make_token_classifier(small());
  Context<Cpu> ctx;
  const auto p = whole.initialize(ctx, Seed{1});
  auto tape = whole.make_tape(ctx), other = whole.make_tape(ctx);
  FirstToken task;
  task.draw(1);
  DynamicTensor<float, 3> y({FirstToken::rows, 12, 2}), z({FirstToken::rows, 12, 2});
  const SequenceOptions<StateOf<std::remove_cv_t<decltype(p)>>> options{.dropout = Seed{3}};
  whole.forward(ctx, p, task.tokens, y, tape, options);
  dropping.forward(ctx, p, task.tokens, z);
  CHECK(largest_difference(y, z).value == 0);
  dropping.forward(ctx, p, task.tokens, z, other, options);
  CHECK(largest_difference(y, z).value > 1e-3);
}

TEST_CASE("padding behind a sequence does not reach a causal one's answer") {
  SequenceClassifierConfig config = small();
  config.bidirectional = false;
  const TokenClassifier layer = make_token_classifier(config);
  Context<Reference> ctx;
  const auto p = layer.initialize<double>(ctx, Seed{1});
  DynamicTensor<Token, 2> tokens({1, 9});
  for (Index t = 0; t < 9; ++t) tokens(0, t) = static_cast<Token>(t < 6 ? 1 + t % 3 : 0);
  auto padded = test::nan_tensor(1, 9, 2), alone = test::nan_tensor(1, 6, 2);
  layer.forward(ctx, p, tokens, padded);
  layer.forward(ctx, p, tokens.slice(1, 0, 6), alone);
  for (Index c = 0; c < 2; ++c)
    CHECK(std::abs(padded(0, 5, c) - alone(0, 5, c)) <= tolerance<double>.value);
}

TEST_CASE("numbers are read in place of tokens, and a classifier is kept in a file") {
  SequenceClassifierConfig config = small();
  config.inputs = 2;
  const SequenceClassifier layer = make_sequence_classifier(config);
  Context<Cpu> ctx;
  const Model model{layer, layer.initialize(ctx, Seed{1})};
  const TemporaryFolder folder;
  save(folder / "model.safetensors", model);
  Model opened{layer, layer.zero_parameters(ctx)};
  load(folder / "model.safetensors", opened);
  std::vector<std::string> names;
  for_each_parameter([&](const ParameterSpec& spec, auto&) { names.push_back(spec.name); },
                     opened.parameters);
  CHECK(names.front() == "encoder.weight");
  CHECK(std::find(names.begin(), names.end(), "layers.1.mixer.output_linear.weight") !=
        names.end());
  CHECK(std::find(names.begin(), names.end(), "layers.0.mixer.backward.D") != names.end());
  DynamicTensor<float, 3> x({3, 10, 2}), y({3, 10, 2}), z({3, 10, 2});
  fill_normal(x, Seed{4});
  model.forward(ctx, x, y);
  opened.forward(ctx, x, z);
  CHECK(largest_difference(y, z).value == 0);
}

TEST_CASE("a classifier without tokens, inputs, classes or layers is refused") {
  SequenceClassifierConfig config = small();
  config.vocabulary = 0;
  CHECK_THROWS_WITH_AS(make_token_classifier(config), "Embedded: a vocabulary of 0", ArgumentError);
  config = small();
  config.n_layer = 0;
  CHECK_THROWS_AS(make_token_classifier(config), ArgumentError);
}

}  // namespace
}  // namespace ssm
