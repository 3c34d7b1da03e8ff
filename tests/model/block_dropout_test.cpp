// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "ssm/model/dense_retnet_language_model.hpp"
#include "ssm/model/one_of.hpp"
#include "ssm/model/retnet_language_model.hpp"
#include "ssm/model/sequential.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/text_streams.hpp"
#include "support/backends.hpp"
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

constexpr Index vocabulary = 7;

RetNetLanguageModel retnet(double dropout, double activation_dropout = 0,
                           ActivationKind activation = ActivationKind::silu) {
  return make_language_model(RetNetLanguageModelConfig{.d_model = 4,
                                                       .n_layer = 2,
                                                       .vocab_size = vocabulary,
                                                       .num_heads = 1,
                                                       .d_value = 4,
                                                       .d_inner = 6,
                                                       .activation = activation,
                                                       .norm_epsilon = 0.1,
                                                       .dropout = dropout,
                                                       .activation_dropout = activation_dropout});
}
DenseRetNetLanguageModel dense_retnet(double dropout) {
  return make_language_model(DenseRetNetLanguageModelConfig{.d_model = 4,
                                                            .n_layer = 3,
                                                            .vocab_size = vocabulary,
                                                            .num_heads = 1,
                                                            .d_key = 4,
                                                            .d_value = 4,
                                                            .dense_block_layers = 2,
                                                            .k_select_reduction = 2,
                                                            .v_select_reduction = 2,
                                                            .norm_epsilon = 0.1,
                                                            .initializer_range = 0.4,
                                                            .dropout = dropout});
}

/// A model with its weights, tokens, and what it says of them.
template <class B, class L>
struct Speaker {
  using Parameters = typename L::template Parameters<double>;
  using State = typename L::template State<double>;

  explicit Speaker(const L& model)
      : layer(model), p(layer.template initialize<double>(ctx, Seed{1})) {
    ctx.workspace().fill_with_nan(true);
    for (Index i = 0; i < tokens.size(); ++i)
      tokens.data()[i] = static_cast<Token>(i * i % vocabulary);
  }
  DynamicTensor<double, 3> logits(std::optional<Seed> seed, bool with_tape = true) {
    auto y = nan_tensor(2, 5, vocabulary);
    const SequenceOptions<State> options{.dropout = seed};
    if (with_tape)
      layer.forward(ctx, p, tokens, y, tape, options);
    else
      layer.forward(ctx, p, tokens, y, options);
    return y;
  }

  Context<B> ctx;
  L layer;
  Parameters p;
  typename L::template Tape<double> tape;
  DynamicTensor<Token, 2> tokens{{2, 5}};
};

template <class Visit>
void for_each_speaker(Visit&& visit) {
  laws::for_each_backend([&]<class B>(const char* name) {
    CAPTURE(std::string(name));
    Speaker<B, RetNetLanguageModel> blocks(retnet(0.4)), activations(retnet(0, 0.5)),
        both(retnet(0.3, 0.3));
    Speaker<B, DenseRetNetLanguageModel> dense(dense_retnet(0.3));
    visit(blocks);
    visit(activations);
    visit(both);
    visit(dense);
  });
}

TEST_CASE("blocks drop as their seed says, and nothing without one or in inference") {
  for_each_speaker([](auto& speaker) {
    const auto plain = speaker.logits(std::nullopt);
    CHECK(difference(speaker.logits(std::nullopt, false), plain) == 0);
    CHECK(difference(speaker.logits(Seed{3}, false), plain) == 0);
    const auto once = speaker.logits(Seed{3});
    CHECK(difference(speaker.logits(Seed{3}), once) == 0);
    CHECK(difference(once, plain) > tolerance<double>.value);
    CHECK(difference(speaker.logits(Seed{4}), once) > tolerance<double>.value);
  });
}

TEST_CASE("gradients of a model that drops equal central differences under the same seed") {
  for_each_speaker([](auto& speaker) {
    const auto dlogits = random_tensor("dlogits", 2, 5, vocabulary);
    auto gradients = speaker.layer.template zero_parameters<double>(speaker.ctx);
    speaker.logits(Seed{3});
    speaker.layer.backward(speaker.ctx, speaker.p, speaker.tape, dlogits, gradients);
    const auto loss = [&] { return inner_product(dlogits, speaker.logits(Seed{3})); };
    for_each_parameter(
        [&](const ParameterSpec& spec, auto& values, auto& gradient) {
          CAPTURE(spec.name);
          CHECK(gradient_error(loss, values, gradient) < tolerance<double>.gradient);
        },
        speaker.p, gradients);
  });
}

TEST_CASE("a residual connection leaves out about as much of what it adds as it is told to") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    using Add = Linear<LinearConfig{.inputs = 8, .outputs = 8}>;
    constexpr double probability = 0.25;
    const Residual<RmsNorm<8>, Add> layer{RmsNorm<8>(), Add(), probability};
    const Residual<RmsNorm<8>, Add> whole{RmsNorm<8>(), Add()};
    Context<B> ctx;
    const auto p = layer.template initialize<double>(ctx, Seed{1});
    const auto x = random_tensor("x", 4, 100, 8);
    auto y = nan_tensor(4, 100, 8), expected = y.clone();
    auto tape = layer.template make_tape<double>(ctx);
    layer.forward(ctx, p, x, y, tape, {.dropout = Seed{5}});
    whole.forward(ctx, p, x, expected);
    Index dropped = 0;
    for_each_index(y, [&](auto... i) {
      const double added = y(i...) - x(i...), all = expected(i...) - x(i...);
      dropped += y(i...) == x(i...);
      const double kept = y(i...) == x(i...) ? 0 : all / (1 - probability);
      CHECK(std::abs(added - kept) < tolerance<double>.value);
    });
    const double part = static_cast<double>(dropped) / static_cast<double>(y.size());
    CHECK(part == doctest::Approx(probability).epsilon(0.1));
  });
}

/// The share of y that differs from what the layer gives without dropout, the same at every call.
template <class B, class L>
double dropped_share(const L& layer) {
  Context<B> ctx;
  const auto p = layer.template initialize<double>(ctx, Seed{1});
  const auto x = random_tensor("x", 2, 30, 8);
  auto y = nan_tensor(2, 30, 8), again = y.clone(), whole = y.clone();
  auto tape = layer.template make_tape<double>(ctx);
  layer.forward(ctx, p, x, y, tape, {.dropout = Seed{5}});
  layer.forward(ctx, p, x, again, tape, {.dropout = Seed{5}});
  layer.forward(ctx, p, x, whole);
  Index differs = 0;
  for_each_index(y, [&](auto... i) {
    CHECK(y(i...) == again(i...));
    differs += std::abs(y(i...) - whole(i...)) > 1e-12;
  });
  return static_cast<double>(differs) / static_cast<double>(y.size());
}

TEST_CASE("layers in a sequence, and one of two kinds, drop what they are told to") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    using Add = Linear<LinearConfig{.inputs = 8, .outputs = 8}>;
    using Dropping = Residual<RmsNorm<8>, Add>;
    const Dropping half{RmsNorm<8>(), Add(), 0.5}, none{RmsNorm<8>(), Add()};
    CHECK(dropped_share<B>(none) == 0);
    // What is kept is doubled: all of it differs.
    CHECK(dropped_share<B>(Sequential<Dropping, Dropping>(none, half)) > 0.9);
    CHECK(dropped_share<B>(Sequential<Dropping, Dropping>(none, none)) == 0);
    CHECK(dropped_share<B>(OneOf<Dropping, RmsNorm<8>>(half)) > 0.9);
    CHECK(dropped_share<B>(OneOf<Add, Dropping>(half)) > 0.9);
    CHECK(dropped_share<B>(OneOf<Add, Dropping>(none)) == 0);
  });
}

TEST_CASE("a trainer lets the model drop what its configuration names") {
  const std::vector<Token> text{0, 3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 2, 4, 6, 1, 3, 2};
  const auto loss = [&](double dropout, Seed seed) {
    Speaker<Reference, RetNetLanguageModel> speaker(retnet(dropout));
    const TextStreams streams(text, 6, 2, Seed{2});
    LanguageModelTrainer trainer(speaker.ctx, speaker.layer, speaker.p, {.batch = 2, .seed = seed});
    return trainer.update(speaker.ctx, speaker.layer, speaker.p, streams, 0).loss;
  };
  CHECK(loss(0, Seed{1}) == loss(0, Seed{2}));
  CHECK(loss(0.4, Seed{1}) == loss(0.4, Seed{1}));
  CHECK(loss(0.4, Seed{1}) != loss(0.4, Seed{2}));
  CHECK(loss(0.4, Seed{1}) != loss(0, Seed{1}));
}

TEST_CASE("probabilities outside [0, 1) are refused") {
  CHECK_THROWS_AS(retnet(1), ArgumentError);
  CHECK_THROWS_AS(retnet(0, -0.1), ArgumentError);
  CHECK_THROWS_AS(dense_retnet(1), ArgumentError);
}

TEST_CASE("every activation that RetNet's configurations name changes what a model says") {
  std::vector<double> seen;
  for (const ActivationKind kind :
       {ActivationKind::silu, ActivationKind::gelu_erf, ActivationKind::relu}) {
    Speaker<Reference, RetNetLanguageModel> speaker(retnet(0, 0, kind));
    const double logit = speaker.logits(std::nullopt)(1, 4, 2);
    for (const double other : seen) CHECK(logit != other);
    seen.push_back(logit);
  }
}

}  // namespace
}  // namespace ssm::test
