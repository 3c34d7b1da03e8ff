// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "ssm/core/compare.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/language_model.hpp"
#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

std::filesystem::path folder_of(const std::string& name) {
  return std::filesystem::path(SSM_TEST_DATA) / "conformance/cases" / name;
}
const std::vector<std::string> folders{"model_h3_hybrid", "model_mamba_original", "model_retnet",
                                       "model_dense_retnet_m2", "model_dense_mamba_m2"};
const std::vector<Token> prompt{3, 1, 4, 1, 5, 9, 2, 6};

/// Calls check(model) for a model of every family on every backend of the host.
void for_each_model(const std::function<void(AnyLanguageModel&)>& check) {
  for (const std::string& name : folders)
    for (const char* backend : {"reference", "cpu"}) {
      CAPTURE(name);
      CAPTURE(backend);
      AnyLanguageModel model = open_language_model(folder_of(name), {.backend = backend});
      check(model);
    }
}
std::vector<Token> listed(GeneratedTokens tokens) {
  std::vector<Token> all;
  for (const Token token : tokens) all.push_back(token);
  return all;
}
DynamicTensor<Token, 2> rows_of(const std::vector<std::vector<Token>>& rows) {
  DynamicTensor<Token, 2> tokens(
      {static_cast<Index>(rows.size()), static_cast<Index>(rows.front().size())});
  for (Index b = 0; b < tokens.extent(0); ++b)
    for (Index t = 0; t < tokens.extent(1); ++t)
      tokens(b, t) = rows[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];
  return tokens;
}
/// A fresh model over bytes, as small as they come.
AnyLanguageModel fresh(const std::string& family, const std::string& backend = "cpu",
                       std::map<std::string, std::string> options = {}) {
  options.insert({{"layers", "2"}, {"width", "16"}});
  return fresh_language_model({.family = family, .options = options, .seed = Seed{3}},
                              {.backend = backend, .threads = 2});
}
const std::vector<std::string> families{"h3",           "mamba",       "mamba2", "retnet",
                                        "dense-retnet", "dense-mamba", "gpt2"};

TEST_CASE("a model opens without its family being named, and says what it is") {
  const AnyLanguageModel model = open_language_model(folder_of("model_mamba_original"));
  CHECK(model.facts().family == "mamba");
  CHECK(model.facts().backend == "cpu");
  CHECK(model.facts().vocabulary == 27);
  CHECK(model.facts().padded_vocabulary == 32);
  CHECK(model.facts().parameters == 2936);
  CHECK(!model.facts().has_attention);
  CHECK(open_language_model(folder_of("model_h3_hybrid")).facts().has_attention);
  CHECK(open_language_model(folder_of("model_attention_positions")).facts().positions == 32);
}

TEST_CASE("a backend that is not there is named, with those that are") {
  std::string names;
  for (const std::string& name : language_model_backends())
    names += (names.empty() ? "" : ", ") + name;
  CHECK(names.find("reference, cpu") == 0);
  const std::string complaint = "the backend 'abacus' is not built in; there are " + names;
  CHECK_THROWS_WITH_AS(open_language_model(folder_of("model_retnet"), {.backend = "abacus"}),
                       complaint.c_str(), ArgumentError);
  CHECK_THROWS_WITH_AS(
      open_language_model(folder_of("model_retnet"), {.backend = "cpu", .numbers = "bf16"}),
      "language model: no numbers of type 'bf16' on cpu; there is float", ArgumentError);
}

TEST_CASE("backends give the same logits") {
  for (const std::string& name : folders) {
    CAPTURE(name);
    const auto cpu = open_language_model(folder_of(name)).logits(prompt);
    const auto reference =
        open_language_model(folder_of(name), {.backend = "reference"}).logits(prompt);
    CHECK(largest_difference(cpu, reference).value < 1e-4);
  }
}

TEST_CASE(
    "prefill and steps give the logits of the whole sequence, for several sequences at once") {
  for_each_model([](AnyLanguageModel& model) {
    const Index width = model.facts().padded_vocabulary;
    const auto tokens = rows_of({prompt, {2, 7, 1, 8, 2, 8, 1, 8}});
    DynamicTensor<float, 3> whole({2, 8, width});
    model.logits(tokens, whole);
    DynamicTensor<float, 3> by_parts({2, 8, width});
    LanguageModelState state = model.initial_state(2);
    model.prefill(tokens.slice(1, 0, 5), by_parts.slice(1, 0, 5), state);
    for (Index t = 5; t < 8; ++t)
      model.step(clone(tokens.select(1, t)), by_parts.select(1, t), state);
    CHECK(largest_difference(whole, by_parts).value < 1e-4);
    CHECK(state.sequences() == 2);
    CHECK(state.position(0) == 8);
  });
}

TEST_CASE("text continues by callback, as a range, and from a state alike") {
  for_each_model([](AnyLanguageModel& model) {
    const GenerateOptions options{.temperature = 0, .tokens = 12};
    const auto expected = listed(model.generate(prompt, options));
    CHECK(expected.size() == 12);
    std::vector<Token> visited;
    model.generate(prompt, options, [&](Token token) {
      visited.push_back(token);
      return visited.size() < 5;
    });
    CHECK(visited == std::vector<Token>(expected.begin(), expected.begin() + 5));
    LanguageModelState state = model.initial_state();
    CHECK(listed(model.generate(prompt, options, state)) == expected);
    CHECK(state.position() == 20);
  });
}

TEST_CASE("a state that has read its text goes on where it was, copied, saved and loaded") {
  for_each_model([](AnyLanguageModel& model) {
    const TemporaryFolder folder;
    const GenerateOptions options{.temperature = 0, .tokens = 6};
    LanguageModelState state = model.initial_state();
    const auto first = listed(model.generate(prompt, options, state));
    // Another turn is as if all had been one prompt.
    std::vector<Token> all = prompt;
    all.insert(all.end(), first.begin(), first.end());
    all.push_back(7);
    const auto expected = listed(model.generate(all, options));
    state.save(folder / "state.safetensors");
    LanguageModelState copied = state.copy();
    const std::vector<Token> next{7};
    CHECK(listed(model.generate(next, options, state)) == expected);
    CHECK(listed(model.generate(next, options, copied)) == expected);
    LanguageModelState loaded = model.initial_state();
    loaded.load(folder / "state.safetensors");
    CHECK(loaded.position() == 14);
    CHECK(listed(model.generate(next, options, loaded)) == expected);
  });
}

TEST_CASE("a sequence joins a batch and leaves it with the same numbers") {
  for_each_model([](AnyLanguageModel& model) {
    const Index width = model.facts().padded_vocabulary;
    LanguageModelState batch = model.initial_state(3);
    DynamicTensor<float, 3> last({3, 1, width});
    model.prefill(rows_of({{1, 2, 3, 4, 5, 6, 7, 8}, {2, 2, 2, 2, 2, 2, 2, 2}, prompt}), last,
                  batch);
    LanguageModelState alone = model.initial_state();
    const auto expected = model.prefill(prompt, alone);
    CHECK(largest_difference(expected, clone(last.select(0, 2).select(0, 0))).value < 1e-4);
    LanguageModelState left = batch.row(2);
    alone.copy_row(0, batch, 0);
    DynamicTensor<Token, 1> tokens({3});
    fill(tokens, Token{4});
    DynamicTensor<float, 2> logits({3, width});
    model.step(tokens, logits, batch);
    const std::vector<Token> four{4};
    CHECK(largest_difference(model.prefill(four, left), clone(logits.select(0, 2))).value < 1e-4);
    CHECK(largest_difference(clone(logits.select(0, 0)), clone(logits.select(0, 2))).value < 1e-4);
  });
}

TEST_CASE("states of other models and other numbers of sequences are refused") {
  const AnyLanguageModel mamba = open_language_model(folder_of("model_mamba_hf"));
  const AnyLanguageModel retnet = open_language_model(folder_of("model_retnet"));
  LanguageModelState state = retnet.initial_state();
  CHECK_THROWS_AS(mamba.prefill(prompt, state), ArgumentError);
  LanguageModelState two = mamba.initial_state(2);
  CHECK_THROWS_AS(mamba.prefill(prompt, two), ArgumentError);
  CHECK_THROWS_AS(mamba.initial_state(0), ArgumentError);
  CHECK_THROWS_AS(two.row(2), Error);
  const TemporaryFolder folder;
  state.save(folder / "retnet.safetensors");
  LanguageModelState one = mamba.initial_state();
  CHECK_THROWS_AS(one.load(folder / "retnet.safetensors"), CheckpointError);
}

TEST_CASE("sessions in threads share weights and give the same text") {
  const AnyLanguageModel model = open_language_model(folder_of("model_h3_hybrid"));
  const GenerateOptions options{.temperature = 0.9, .tokens = 30, .seed = {5}};
  const auto expected = listed(model.generate(prompt, options));
  std::vector<std::vector<Token>> texts(4);
  std::vector<std::thread> threads;
  for (auto& text : texts)
    threads.emplace_back([&] { text = listed(model.session().generate(prompt, options)); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& text : texts) CHECK(text == expected);
}

TEST_CASE("weights that sessions share do not change") {
  AnyLanguageModel model = fresh("mamba");
  {
    const AnyLanguageModel session = model.session();
    CHECK_THROWS_AS(model.keep_weights_in(WeightForm::bf16), ArgumentError);
    CHECK_THROWS_AS(model.start_training({}), ArgumentError);
  }
  CHECK_NOTHROW(model.keep_weights_in(WeightForm::bf16));
}

TEST_CASE(
    "a model opened in int8 or f16 has the fingerprint of the others, and logits near theirs") {
  for (const char* folder : {"model_h3_hybrid", "model_mamba_hf"}) {
    CAPTURE(std::string(folder));
    const AnyLanguageModel full = open_language_model(folder_of(folder));
    const auto expected = full.logits(prompt);
    for (const auto& [backend, form] : {std::pair("cpu", WeightForm::int8),
                                        {"reference", WeightForm::int8},
                                        {"cpu", WeightForm::f16},
                                        {"reference", WeightForm::f16}}) {
      const std::string where = std::string(backend) + " " + std::string(weight_form_name(form));
      CAPTURE(where);
      AnyLanguageModel model =
          open_language_model(folder_of(folder), {.backend = backend, .weights = form});
      CHECK(model.fingerprint() == full.fingerprint());
      CHECK(model.facts().parameters == full.facts().parameters);
      CHECK(model.facts().weight_bytes < full.facts().weight_bytes);
      const auto logits = model.logits(prompt);
      double error = 0, size = 0;
      for (Index i = 0; i < logits.size(); ++i) {
        error += std::pow(logits.data()[i] - expected.data()[i], 2);
        size += std::pow(expected.data()[i], 2);
      }
      // In int8 a weight is uniformly within half a scale, 1/254 of its row's largest, of what it
      // was; in f16 within 2^-11 of itself.
      CHECK(std::sqrt(error / size) < (form == WeightForm::int8 ? 0.05 : 2e-3));
      CHECK(error > 0);
      CHECK_THROWS_AS(model.start_training({}), ArgumentError);
      CHECK_THROWS_AS(model.keep_weights_in(WeightForm::full), ArgumentError);
    }
  }
}

TEST_CASE("generated text comes in whole characters, and stops before a token that ends it") {
  const AnyLanguageModel model = fresh("h3");
  std::string text;
  for (const std::string& piece : model.generate("To be", {.temperature = 5, .tokens = 100})) {
    CHECK(!piece.empty());
    text += piece;
  }
  CHECK(text.size() >= 100);
  const std::vector<Token> start{65, 66};
  const auto free = listed(model.generate(start, {.temperature = 0, .tokens = 10}));
  const auto stopped =
      listed(model.generate(start, {.temperature = 0, .tokens = 10, .stop = {free[3]}}));
  CHECK(stopped.size() <= 3);
  CHECK_THROWS_AS(open_language_model(folder_of("model_retnet")).generate("text"), ArgumentError);
}

TEST_CASE("a model of every family trains, is saved, and goes on bit for bit") {
  std::vector<Token> text;
  for (int i = 0; i < 400; ++i) text.push_back(97 + i * i % 5);
  const TextStreams streams(text, 12, 2, Seed{1});
  const LanguageModelTrainerConfig config{
      .batch = 2, .carry = 3, .seed = Seed{2}, .optimizer = {.rate = 1e-2}};
  for (const std::string& family : families) {
    CAPTURE(family);
    const TemporaryFolder folder;
    AnyLanguageModel whole = fresh(family, "cpu", {{"dropout", "0.1"}});
    whole.start_training(config);
    double first = 0, last = 0;
    for (int step = 0; step < 20; ++step) {
      if (step == 8) whole.save(folder.path());
      last = whole.update(streams, 1e-2).loss;
      if (step == 0) first = last;
    }
    CHECK(last < first);
    AnyLanguageModel resumed = open_language_model(folder.path(), {.threads = 2});
    resumed.resume_training(folder.path(), config);
    CHECK(resumed.updates() == 8);
    for (int step = 8; step < 20; ++step) resumed.update(streams, 1e-2);
    CHECK(largest_difference(whole.logits(prompt), resumed.logits(prompt)).value == 0);
    CHECK(whole.evaluate(text).mean() < std::log(256));
  }
}

TEST_CASE("the state of an optimizer is asked for before updates") {
  AnyLanguageModel model = fresh("retnet");
  const std::vector<Token> text(50, Token{1});
  CHECK_THROWS_AS(model.update(TextStreams(text, 8, 2, Seed{1}), 1e-3), ArgumentError);
}

TEST_CASE("a fresh model is made by the names of its sizes, or by a config") {
  CHECK(fresh("mamba").facts().family == "mamba");
  CHECK(fresh("mamba").changed_option({{"width", "16"}}) == std::nullopt);
  CHECK(fresh("mamba").changed_option({{"width", "32"}}) == "width");
  CHECK_THROWS_AS(fresh("mamba", "cpu", {{"heads", "2"}}), ArgumentError);
  CHECK_THROWS_AS(fresh("perceptron"), ArgumentError);
  const auto from_config =
      fresh_language_model({.config = folder_of("model_retnet") / "config.json"});
  CHECK(from_config.facts().family == "retnet");
  CHECK(from_config.facts().vocabulary == 29);
}

TEST_CASE("a model with attention or learned positions is evaluated in windows it can hold") {
  std::vector<Token> text;
  for (int i = 0; i < 100; ++i) text.push_back(i % 7);
  const AnyLanguageModel model = open_language_model(folder_of("model_attention_positions"));
  CHECK(std::isfinite(model.evaluate(text).mean()));
  CHECK(model.evaluate(text).nats == model.loss(text, {.context = 32}).nats);
  CHECK(model.evaluate(text, 8).nats == model.loss(text, {.context = 8}).nats);
}

}  // namespace
}  // namespace ssm::test
