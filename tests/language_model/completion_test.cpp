// SPDX-License-Identifier: Apache-2.0
#include "ssm/language_model/completion.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "ssm/core/compare.hpp"
#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

using Tokens = std::vector<Token>;

std::filesystem::path folder_of(const std::string& name) {
  return std::filesystem::path(SSM_TEST_DATA) / "conformance/cases" / name;
}
const std::vector<std::string> folders{"model_h3_hybrid",      "model_mamba_original",
                                       "model_retnet",         "model_dense_retnet_m2",
                                       "model_dense_mamba_m2", "model_attention_positions"};

/// Calls check(model) for a model of every family on every backend of the host.
void for_each_model(const std::function<void(const AnyLanguageModel&)>& check) {
  for (const std::string& name : folders)
    for (const char* backend : {"reference", "cpu"}) {
      CAPTURE(name);
      CAPTURE(backend);
      check(open_language_model(folder_of(name), {.backend = backend, .threads = 2}));
    }
}
/// Of different lengths, of tokens that every vocabulary of the folders has.
std::vector<Tokens> prompts_of(const std::vector<int>& lengths) {
  std::vector<Tokens> prompts;
  for (const int length : lengths) {
    Tokens& prompt = prompts.emplace_back();
    for (int i = 0; i < length; ++i) prompt.push_back((i * i + length) % 11);
  }
  return prompts;
}
Tokens generated(const AnyLanguageModel& model, const Tokens& prompt,
                 const GenerateOptions& options) {
  Tokens all;
  for (const Token token : model.generate(prompt, options)) all.push_back(token);
  return all;
}
Tokens completed(const AnyLanguageModel& model, const CompletionRequest& request) {
  return complete(model, {request}).front().tokens;
}
/// A small fresh model over bytes.
AnyLanguageModel fresh(const std::string& family, std::uint64_t seed = 3) {
  return fresh_language_model(
      {.family = family, .options = {{"layers", "2"}, {"width", "16"}}, .seed = Seed{seed}},
      {.threads = 2});
}
/// Bytes other than these do not occur.
TokenWeights letters_alone(const std::string& letters) {
  TokenWeights weights;
  for (Token token = 0; token < 256; ++token)
    if (letters.find(static_cast<char>(token)) == std::string::npos)
      weights.logit_bias[token] = -std::numeric_limits<double>::infinity();
  return weights;
}

TEST_CASE("sequences of different lengths read together are as if each were alone, in any split") {
  for_each_model([](const AnyLanguageModel& model) {
    const auto prompts = prompts_of({1, 9, 3, 20, 2});
    LanguageModelState together = model.initial_state(5);
    const auto logits = model.prefill(prompts, together);
    LanguageModelState in_parts = model.initial_state(5);
    Tokens heads, tails;
    std::vector<Index> head_ends{0}, tail_ends{0};
    for (std::size_t s = 0; s < prompts.size(); ++s) {  // 0, 1, 2, … tokens first
      const auto cut = std::min<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(s),
                                                static_cast<std::ptrdiff_t>(prompts[s].size()) - 1);
      heads.insert(heads.end(), prompts[s].begin(), prompts[s].begin() + cut);
      tails.insert(tails.end(), prompts[s].begin() + cut, prompts[s].end());
      head_ends.push_back(static_cast<Index>(heads.size()));
      tail_ends.push_back(static_cast<Index>(tails.size()));
    }
    DynamicTensor<float, 2> head_logits({4, model.facts().padded_vocabulary});
    DynamicTensor<float, 2> tail_logits({5, model.facts().padded_vocabulary});
    model.prefill(heads, head_ends, head_logits, in_parts);
    model.prefill(tails, tail_ends, tail_logits, in_parts);
    CHECK(largest_difference(logits, tail_logits).value < 1e-4);
    DynamicTensor<Token, 1> next({5});
    fill(next, Token{4});
    DynamicTensor<float, 2> after({5, model.facts().padded_vocabulary});
    model.step(next, after, in_parts);
    const Tokens four{4};
    for (Index s = 0; s < 5; ++s) {
      CAPTURE(s);
      const Tokens& prompt = prompts[static_cast<std::size_t>(s)];
      LanguageModelState alone = model.initial_state();
      CHECK(largest_difference(model.prefill(prompt, alone), clone(logits.select(0, s))).value <
            1e-4);
      CHECK(together.position(s) == static_cast<Index>(prompt.size()));
      LanguageModelState row = together.row(s);
      const auto expected = model.prefill(four, alone);
      CHECK(largest_difference(expected, model.prefill(four, row)).value < 1e-4);
      CHECK(largest_difference(expected, clone(after.select(0, s))).value < 1e-4);
    }
  });
}

TEST_CASE("the same seed gives the same text in any company") {
  for_each_model([](const AnyLanguageModel& model) {
    const auto prompts = prompts_of({5, 1, 12});
    std::vector<CompletionRequest> requests;
    for (std::size_t i = 0; i < prompts.size(); ++i)
      requests.push_back({.prompt = prompts[i],
                          .options = {.temperature = 0.9,
                                      .top_k = 8,
                                      .seed = Seed{i + 20},
                                      .tokens = static_cast<Index>(4 + 7 * i),
                                      .end_tokens = Tokens{}}});
    const auto texts = complete(model, requests);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      CHECK(texts[i].tokens == generated(model, prompts[i],
                                         {.temperature = 0.9,
                                          .top_k = 8,
                                          .tokens = static_cast<Index>(4 + 7 * i),
                                          .seed = Seed{i + 20}}));
      CHECK(texts[i].end == CompletionEnd::tokens);
    }
  });
}

TEST_CASE("continuations of one prompt are those of the following seeds") {
  const AnyLanguageModel model = open_language_model(folder_of("model_h3_hybrid"));
  const Tokens prompt = prompts_of({7}).front();
  const auto texts = complete(
      model, {{.prompt = prompt, .options = {.seed = Seed{5}, .tokens = 9, .continuations = 4}},
              {.prompt = {3}, .options = {.tokens = 2}}});
  REQUIRE(texts.size() == 5);
  for (std::uint64_t i = 0; i < 4; ++i)
    CHECK(texts[i].tokens == generated(model, prompt, {.tokens = 9, .seed = Seed{5 + i}}));
  CHECK(texts[0].tokens != texts[1].tokens);
  CHECK(texts[4].tokens == generated(model, {3}, {.tokens = 2}));
}

TEST_CASE("a text ends before its end tokens while others go on") {
  const AnyLanguageModel model = open_language_model(folder_of("model_mamba_original"));
  const auto prompts = prompts_of({4, 6});
  const GenerateOptions free{.temperature = 2, .tokens = 20, .seed = Seed{9}};
  const Tokens first = generated(model, prompts[0], free);
  const Tokens second = generated(model, prompts[1], free);
  const Token last = first[6];
  const auto length = std::find(first.begin(), first.end(), last) - first.begin();
  const CompletionOptions options{.temperature = 2, .seed = Seed{9}, .tokens = 20};
  CompletionOptions ending = options;
  ending.end_tokens = Tokens{last};
  const auto texts =
      complete(model, {{prompts[0], ending}, {prompts[1], options}, {prompts[0], options}});
  CHECK(texts[0].tokens == Tokens(first.begin(), first.begin() + length));
  CHECK(texts[0].end == CompletionEnd::end_token);
  CHECK(texts[1].tokens == second);
  CHECK(texts[2].tokens == first);
}

TEST_CASE("the end tokens of a config count, and are kept when the model is saved") {
  const TemporaryFolder folder;
  const AnyLanguageModel plain = open_language_model(folder_of("model_mamba_original"));
  const auto with_ids = [&](const std::string& ids) {
    for (const auto& entry : std::filesystem::directory_iterator(folder_of("model_mamba_original")))
      std::filesystem::copy_file(entry.path(), folder / entry.path().filename().string(),
                                 std::filesystem::copy_options::overwrite_existing);
    std::string text = plain.config_json();
    text.insert(text.find('{') + 1, "\"eos_token_id\": " + ids + ",");
    std::ofstream(folder / "config.json") << text;
    return open_language_model(folder.path());
  };
  CHECK(plain.facts().end_tokens.empty());
  CHECK(with_ids("null").facts().end_tokens.empty());
  CHECK(with_ids("[4, 7, 4]").facts().end_tokens == Tokens{4, 7});
  CHECK_THROWS_AS(with_ids("\"end\""), CheckpointError);
  // What generates has the last word, where it says something.
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [9, 3]})";
  CHECK(with_ids("4").facts().end_tokens == Tokens{9, 3});
  std::ofstream(folder / "generation_config.json") << R"({"temperature": 0.5})";
  CHECK(with_ids("4").facts().end_tokens == Tokens{4});
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": "end"})";
  CHECK_THROWS_AS(with_ids("4"), CheckpointError);
  std::filesystem::remove(folder / "generation_config.json");
  CHECK_THROWS_AS(with_ids("[1.5]"), CheckpointError);
  const Tokens free = generated(plain, {1, 2}, {.temperature = 3, .tokens = 20});
  const AnyLanguageModel model = with_ids(std::to_string(free[5]));
  CHECK(model.fingerprint() == plain.fingerprint());
  const auto text =
      complete(model, {{.prompt = {1, 2}, .options = {.temperature = 3, .tokens = 20}}});
  CHECK(text.front().end == CompletionEnd::end_token);
  CHECK(text.front().tokens.size() <= 5);
  CHECK(completed(model, {.prompt = {1, 2},
                          .options = {.temperature = 3, .tokens = 20, .end_tokens = Tokens{}}}) ==
        free);
  const TemporaryFolder again;
  model.save(again.path());
  CHECK(open_language_model(again.path()).facts().end_tokens == Tokens{free[5]});
  // A model that begins from a config has them too.
  CHECK(fresh_language_model({.config = folder / "config.json"}).facts().end_tokens ==
        Tokens{free[5]});
  CHECK(fresh_language_model({.options = {{"layers", "1"}, {"width", "8"}}, .end_tokens = {7}})
            .facts()
            .end_tokens == Tokens{7});
}

TEST_CASE("stop strings end a text however it is cut") {
  const std::string text = "The cat, the cat and the catalog.";
  for (std::size_t size = 1; size < 9; ++size) {
    StopStrings stop({"the catalog", "atal", "dog"});
    std::string told;
    for (std::size_t i = 0; i < text.size() && !stop.matched(); i += size) {
      told += stop.push(text.substr(i, size));
      CHECK(told.find("atal") == std::string::npos);
    }
    CHECK(told == "The cat, the cat and the c");
    CHECK(stop.matched() == 1);
    CHECK(stop.push("more").empty());
    CHECK(stop.finish().empty());
  }
  StopStrings open({"aab"});
  CHECK(open.push("xaa").compare("x") == 0);
  CHECK(open.push("a") == "a");
  CHECK(open.finish() == "aa");
  StopStrings longest({"b", "ab"});
  CHECK(longest.push("aab") == "a");
  CHECK(longest.matched() == 1);
  CHECK_THROWS_AS(StopStrings({""}), ArgumentError);
}

TEST_CASE("generated text ends before a stop string that several tokens make up") {
  const AnyLanguageModel model = fresh("h3");
  CompletionOptions options{.weights = letters_alone("abcd"), .temperature = 3, .tokens = 60};
  const Tokens prompt{65};
  const std::string free = complete(model, {{prompt, options}}).front().text;
  REQUIRE(free.size() == 60);
  CHECK(free.find_first_not_of("abcd") == std::string::npos);
  options.stop = {"never", free.substr(30, 6)};
  std::string told;
  const auto stopped = complete(model, {{prompt, options}}, [&](const CompletionPiece& piece) {
    told += piece.text;
    return true;
  });
  CHECK(stopped.front().text == free.substr(0, free.find(options.stop[1])));
  CHECK(told == stopped.front().text);
  CHECK(stopped.front().end == CompletionEnd::stop_string);
  CHECK(stopped.front().stop == options.stop[1]);
  CHECK_THROWS_AS(complete(open_language_model(folder_of("model_retnet")), {{prompt, options}}),
                  ArgumentError);
}

TEST_CASE("a tokenizer of one's own makes the text") {
  struct Words {
    static std::string bytes(Token token) { return "w" + std::to_string(token) + " "; }
  };
  const AnyLanguageModel model = open_language_model(folder_of("model_retnet"));
  const auto text = complete(
      model, {{.prompt = {1}, .options = {.temperature = 0, .tokens = 3, .stop = {"w999"}}}}, {},
      text_by(Words()));
  std::string expected;
  for (const Token token : text.front().tokens) expected += Words::bytes(token);
  CHECK(text.front().text == expected);
}

TEST_CASE("weights change logits by their formulas") {
  detail::TokenCounts counts{.in_text = std::vector<bool>(5, false), .drawn = {{2, 3}, {3, 1}}};
  for (const Token token : {0, 1, 2, 3}) counts.read(token);
  std::vector<float> logits{2, -2, 3, -1, 5};
  apply({.logit_bias = {{0, 1}, {4, -std::numeric_limits<double>::infinity()}},
         .repetition_penalty = 2,
         .presence_penalty = 0.5,
         .frequency_penalty = 0.25},
        counts, logits);
  CHECK(logits[0] == 1.5F);
  CHECK(logits[1] == -4);
  CHECK(logits[2] == 1.5F - 0.5F - 0.75F);
  CHECK(logits[3] == -2 - 0.75F);
  CHECK(logits[4] == detail::forbidden);
  CHECK_THROWS_AS((TokenWeights{.repetition_penalty = 0}.require(5)), ArgumentError);
  CHECK_THROWS_AS((TokenWeights{.logit_bias = {{5, 1}}}.require(5)), ArgumentError);

  // Entropy 0.80: 0.2 is nearest to it by information (1.61), then 0.7 (0.36), then 0.1 (2.30).
  std::vector<float> typical{std::log(0.7F), std::log(0.2F), std::log(0.1F)};
  detail::keep_typical(0.6, 1, typical);
  CHECK(typical[0] > detail::forbidden);
  CHECK(typical[2] == detail::forbidden);
}

TEST_CASE("penalties reach the text") {
  const AnyLanguageModel model = fresh("mamba");
  const Tokens greedy = completed(model, {{65, 66}, {.temperature = 0, .tokens = 30}});
  const Tokens distinct = completed(
      model, {{65, 66}, {.weights = {.frequency_penalty = 1e6}, .temperature = 0, .tokens = 30}});
  CHECK(greedy != distinct);
  for (std::size_t i = 0; i < distinct.size(); ++i)
    CHECK(std::count(distinct.begin(), distinct.end(), distinct[i]) == 1);
  const Tokens forced =
      completed(model, {{65}, {.weights = {.logit_bias = {{7, 1e9}}}, .tokens = 5}});
  CHECK(forced == Tokens(5, 7));
  CHECK(completed(model, {{65, 66}, {.typical_p = 1e-9, .tokens = 20}}) ==
        completed(model, {{65, 66}, {.typical_p = 1e-9, .seed = Seed{8}, .tokens = 20}}));
}

TEST_CASE("log-probabilities are those of the model, whatever is drawn") {
  for_each_model([](const AnyLanguageModel& model) {
    const Tokens prompt{3, 1, 4};
    const auto texts = complete(model, {{prompt,
                                         {.weights = {.repetition_penalty = 1.5},
                                          .temperature = 2,
                                          .tokens = 6,
                                          .likeliest = 3}}});
    const Completion& text = texts.front();
    Tokens all = prompt;
    all.insert(all.end(), text.tokens.begin(), text.tokens.end());
    const auto logits = model.logits(all);
    REQUIRE(text.log_probabilities.size() == 6);
    for (std::size_t i = 0; i < 6; ++i) {
      const float* row = &logits(static_cast<Index>(i) + 2, 0);
      double sum = 0;
      for (Index v = 0; v < model.facts().vocabulary; ++v) sum += std::exp(double{row[v]});
      const auto expected = [&](Token v) { return row[v] - std::log(sum); };
      CHECK(std::abs(text.log_probabilities[i] - expected(text.tokens[i])) < 1e-4);
      REQUIRE(text.likeliest[i].size() == 3);
      const float best = *std::max_element(row, row + model.facts().vocabulary);
      CHECK(std::abs(row[text.likeliest[i][0].token] - best) < 1e-4);
      CHECK(text.likeliest[i][1].log_probability >= text.likeliest[i][2].log_probability);
      CHECK(std::abs(text.likeliest[i][2].log_probability - expected(text.likeliest[i][2].token)) <
            1e-4);
    }
  });
}

TEST_CASE("a visitor ends one text and not the others") {
  const AnyLanguageModel model = fresh("retnet");
  const CompletionOptions options{.tokens = 12};
  Index calls = 0;
  const auto texts =
      complete(model, {{{65}, options}, {{66}, options}}, [&](const CompletionPiece& piece) {
        if (piece.request == 0) ++calls;
        return piece.request == 1 || calls < 4;
      });
  CHECK(texts[0].tokens.size() == 4);
  CHECK(texts[0].end == CompletionEnd::visitor);
  CHECK(texts[1].tokens == completed(model, {{66}, options}));
}

TEST_CASE("turns of a transcript, rolled back, forked, saved and loaded, are as one prompt") {
  for_each_model([](const AnyLanguageModel& model) {
    const TemporaryFolder folder;
    const CompletionOptions options{.temperature = 0, .tokens = 5, .end_tokens = Tokens{}};
    Transcript chat(model);
    const auto turn = [&](Transcript& transcript, const Tokens& prompt) {
      Tokens all = transcript.tokens();
      all.insert(all.end(), prompt.begin(), prompt.end());
      const Tokens expected = completed(model, {all, options});
      CHECK(completed(model, {prompt, options, &transcript}) == expected);
      all.insert(all.end(), expected.begin(), expected.end());
      CHECK(transcript.tokens() == all);
      CHECK(transcript.read() == static_cast<Index>(all.size()) - 1);
    };
    turn(chat, {1, 2, 3});
    turn(chat, {4});
    chat.save(folder / "chat.safetensors");
    Transcript fork = chat.fork();
    turn(chat, {});
    for (const Index count : {3, 5, 7}) {  // within a turn, and beyond one
      chat.roll_back(count);
      turn(chat, {2});
    }
    turn(fork, {7});
    Transcript loaded(model.session());
    loaded.load(folder / "chat.safetensors");
    turn(loaded, {7});
    CHECK(loaded.tokens() == fork.tokens());
    loaded.roll_back(static_cast<Index>(loaded.tokens().size()));
    turn(loaded, {5});
    CHECK_THROWS_AS(loaded.roll_back(100), ArgumentError);
    // Reading without drawing: what a prompt cache is made by.
    Transcript cache(model);
    complete(model, {{{1, 2, 3, 4}, {.tokens = 0}, &cache}});
    CHECK(cache.read() == 3);
    turn(cache, {});
  });
}

TEST_CASE("several continuations of a transcript leave it where it was") {
  const AnyLanguageModel model = open_language_model(folder_of("model_h3_hybrid"));
  Transcript cache(model);
  complete(model, {{{1, 2, 3}, {.tokens = 0}, &cache}});
  const auto texts = complete(model, {{{4}, {.tokens = 6, .continuations = 2}, &cache}});
  CHECK(texts[1].tokens == generated(model, {1, 2, 3, 4}, {.tokens = 6, .seed = Seed{1}}));
  CHECK(cache.tokens() == Tokens{1, 2, 3, 4});
}

TEST_CASE("a transcript of other weights is refused, and so is a damaged one") {
  const TemporaryFolder folder;
  const AnyLanguageModel model = fresh("mamba");
  const AnyLanguageModel other = fresh("mamba", 4);
  CHECK(model.fingerprint() == fresh("mamba").fingerprint());
  CHECK(model.fingerprint() == model.session().fingerprint());
  Transcript chat(model);
  complete(model, {{{65, 66}, {.tokens = 3}, &chat}});
  chat.save(folder / "chat.safetensors");
  CHECK_THROWS_AS(complete(other, {{{65}, {}, &chat}}), ArgumentError);
  Transcript elsewhere(other);
  CHECK_THROWS_WITH_AS(elsewhere.load(folder / "chat.safetensors"),
                       doctest::Contains("is of another model"), CheckpointError);
  LanguageModelState state = model.initial_state();
  state.load(folder / "chat.safetensors");
  CHECK(state.position() == 4);
  state.save(folder / "state.safetensors");
  CHECK_THROWS_AS(chat.load(folder / "state.safetensors"), CheckpointError);  // no tokens
  CHECK(chat.tokens().size() == 5);
}

TEST_CASE("a model that has been trained is another one, a rounded one is not") {
  AnyLanguageModel model = fresh("mamba");
  const std::string before = model.fingerprint();
  const Tokens text = prompts_of({60}).front();
  const LanguageModelTrainerConfig training{.batch = 2};
  model.start_training(training);
  model.update(TextStreams(text, 8, 2, Seed{1}), 1e-2);
  CHECK(model.fingerprint() != before);
  for (const WeightForm form : {WeightForm::bf16, WeightForm::f16, WeightForm::int8}) {
    AnyLanguageModel rounded = fresh("mamba");
    rounded.keep_weights_in(form);
    CHECK(rounded.fingerprint() == before);
  }
}

TEST_CASE("sessions in threads continue one prompt cache with the same texts") {
  const AnyLanguageModel model = open_language_model(folder_of("model_h3_hybrid"));
  Transcript cache(model);
  complete(model, {{prompts_of({12}).front(), {.tokens = 0}, &cache}});
  std::vector<Transcript> chats;
  std::vector<AnyLanguageModel> sessions;
  std::vector<Tokens> texts(4);
  for (int i = 0; i < 4; ++i) {
    chats.push_back(cache.fork());
    sessions.push_back(model.session());
  }
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      texts[i] = completed(sessions[i], {{static_cast<Token>(i)}, {.tokens = 20}, &chats[i]});
    });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < 4; ++i) {
    Tokens prompt = cache.tokens();
    prompt.push_back(static_cast<Token>(i));
    CHECK(texts[i] == generated(model, prompt, {.tokens = 20}));
  }
}

TEST_CASE("the state of a model without attention stays as small as it is") {
  for (const char* family : {"mamba", "mamba2", "h3", "retnet", "dense-retnet", "dense-mamba"}) {
    const AnyLanguageModel model = fresh(family);
    LanguageModelState state = model.initial_state();
    const std::size_t before = state.bytes();
    model.prefill(Tokens(500, 65), state);
    CHECK(state.bytes() == before);
    CHECK(state.bytes() > 0);
  }
  const AnyLanguageModel hybrid = open_language_model(folder_of("model_h3_hybrid"));
  LanguageModelState state = hybrid.initial_state();
  const std::size_t before = state.bytes();
  hybrid.prefill(Tokens(50, 1), state);
  CHECK(state.bytes() > before);
}

TEST_CASE("a text ends where learned positions do") {
  const AnyLanguageModel model = open_language_model(folder_of("model_attention_positions"));
  const auto prompts = prompts_of({30, 2});
  const auto texts = complete(model, {{prompts[0], {.tokens = 40}}, {prompts[1], {.tokens = 10}}});
  CHECK(texts[0].end == CompletionEnd::positions);
  CHECK(texts[0].tokens.size() == 3);  // behind 30, 31 and 32 tokens
  CHECK(texts[1].tokens.size() == 10);
  CHECK_THROWS_AS(complete(model, {{prompts_of({33}).front(), {}}}), ArgumentError);
}

TEST_CASE("requests that make no sense are refused with a sentence") {
  const AnyLanguageModel model = fresh("mamba");
  Transcript chat(model);
  CHECK(complete(model, {}).empty());
  CHECK_THROWS_AS(complete(model, {{.prompt = {}}}), ArgumentError);
  CHECK_THROWS_AS(complete(model, {{.prompt = {256}}}), ArgumentError);
  CHECK_THROWS_AS(complete(model, {{{65}, {.tokens = -3}}}), ArgumentError);
  CHECK_THROWS_AS(complete(model, {{{65}, {.tokens = 1, .continuations = 0}}}), ArgumentError);
  CHECK_THROWS_AS(complete(model, {{{65}, {.tokens = 1, .end_tokens = Tokens{-1}}}}),
                  ArgumentError);
  CHECK_THROWS_AS(complete(model, {{{65}, {.typical_p = 0, .tokens = 1}}}), ArgumentError);
  CHECK_THROWS_AS(complete(model, {{{65}, {.tokens = 1}, &chat}, {{65}, {.tokens = 1}, &chat}}),
                  ArgumentError);
  LanguageModelState state = model.initial_state(2);
  DynamicTensor<float, 2> logits({2, 256});
  const Tokens tokens{1, 2, 3};
  CHECK_THROWS_AS(model.prefill(tokens, std::vector<Index>{0, 1}, logits, state), Error);
  CHECK_THROWS_AS(model.prefill(tokens, std::vector<Index>{0, 2, 1}, logits, state), Error);
  CHECK_THROWS_AS(model.prefill(tokens, std::vector<Index>{}, logits, state), Error);
}

}  // namespace
}  // namespace ssm::test
