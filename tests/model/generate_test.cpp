// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/generate.hpp"

#include <doctest/doctest.h>

#include <iterator>
#include <ranges>
#include <type_traits>
#include <vector>

#include "ssm/model/blocks.hpp"
#include "support/backends.hpp"
#include "support/tiny_model.hpp"
// Behind the intrinsics, whose headers declare functions that it defines.
#include "ssm/laws/allocation_count.hpp"

namespace ssm::test {
namespace {

using P = H3LanguageModel::Parameters<float>;
using Tokens = std::vector<Token>;

static_assert(std::ranges::input_range<Generation<Reference, P>>);
static_assert(std::is_same_v<std::ranges::range_value_t<Generation<Reference, P>>, Token>);

Tokens generated(const Model<P>& model, const Tokens& prompt, const GenerateOptions& options) {
  Context<Reference> ctx;
  Tokens tokens;
  for (const Token token : generate(ctx, model, prompt, options)) tokens.push_back(token);
  return tokens;
}

H3LanguageModelConfig hybrid() {
  return {.d_model = 8,
          .n_layer = 2,
          .d_inner = 8,
          .vocab_size = 7,
          .pad_vocab_size_multiple = 4,
          .d_state = 4,
          .attn_layer_idx = {1},
          .num_heads = 2,
          .rotary_emb_dim = 2};
}

/// The likeliest token after a text, from one forward pass over all of it.
Token likeliest_after(const Model<P>& model, const Tokens& text) {
  Context<Reference> ctx;
  const auto length = static_cast<Index>(text.size());
  DynamicTensor<Token, 2> tokens({1, length});
  std::copy(text.begin(), text.end(), tokens.data());
  DynamicTensor<float, 3> logits({1, length, model.layer.padded_vocabulary()});
  model.layer.forward(ctx, model.parameters, tokens, logits);
  Token best = 0;
  for (Token v = 1; v < static_cast<Token>(model.layer.vocabulary()); ++v)
    if (logits(0, length - 1, v) > logits(0, length - 1, best)) best = v;
  return best;
}

TEST_CASE("at temperature zero every token is the likeliest after all before it") {
  for (const auto& model : {tiny_model<float>(), tiny_model<float>(hybrid())}) {
    Tokens text{1, 2, 3};
    const Tokens continuation = generated(model, text, {.temperature = 0, .tokens = 12});
    REQUIRE(continuation.size() == 12);
    for (const Token token : continuation) {
      CHECK(token == likeliest_after(model, text));
      text.push_back(token);
    }
  }
}

TEST_CASE("a prompt longer than what is read at once is still one prompt") {
  const auto model = tiny_model<float>();
  for (const std::size_t length : {1U, 2U, 63U, 1024U, 1025U, 2500U}) {
    Tokens prompt;
    for (std::size_t i = 0; i < length; ++i) prompt.push_back(static_cast<Token>(i * i % 7));
    CHECK(generated(model, prompt, {.temperature = 0, .tokens = 1}) ==
          Tokens{likeliest_after(model, prompt)});
  }
}

TEST_CASE("the same seed gives the same tokens and another seed gives others") {
  const auto model = tiny_model<float>();
  const GenerateOptions options{.tokens = 40, .seed = Seed{3}};
  GenerateOptions other = options;
  other.seed = Seed{4};
  CHECK(generated(model, {1}, options) == generated(model, {1}, options));
  CHECK(generated(model, {1}, options) != generated(model, {1}, other));
}

TEST_CASE("exactly as many tokens come as were asked for") {
  const auto model = tiny_model<float>();
  for (const Index count : {0, 1, 2, 65})
    CHECK(static_cast<Index>(generated(model, {1, 2}, {.tokens = count}).size()) == count);
}

TEST_CASE("without a number of tokens the text goes on until the reader stops") {
  const auto model = tiny_model<float>();
  Context<Reference> ctx;
  Index count = 0;
  for ([[maybe_unused]] const Token token : generate(ctx, model, Tokens{1}))
    if (++count == 100) break;
  CHECK(count == 100);
}

TEST_CASE("padding of the vocabulary never occurs") {
  auto model = tiny_model<float>();
  REQUIRE(model.layer.padded_vocabulary() == 8);
  // The last row of the embedding, the padding, is made the likeliest by far.
  for (Index d = 0; d < 8; ++d) {
    model.parameters.norm.weight(d) = 0;
    model.parameters.norm.bias(d) = 1;
    model.parameters.embedding(7, d) = 100;
  }
  for (const Token token : generated(model, {1}, {.tokens = 50})) CHECK(token < 7);
}

TEST_CASE("options of the sampling reach it") {
  const auto model = tiny_model<float>();
  const Tokens greedy = generated(model, {1, 2}, {.temperature = 0, .tokens = 20});
  CHECK(generated(model, {1, 2}, {.top_k = 1, .tokens = 20}) == greedy);
  CHECK(generated(model, {1, 2}, {.top_p = 1e-9, .tokens = 20}) == greedy);
  CHECK(generated(model, {1, 2}, {.min_p = 1, .tokens = 20}) == greedy);
  CHECK(generated(model, {1, 2}, {.temperature = 100, .tokens = 20}) != greedy);
  CHECK_THROWS_AS(generated(model, {1}, {.top_p = 0, .tokens = 1}), ArgumentError);
}

TEST_CASE("a model whose sizes are in its type generates too") {
  const LanguageModel<Vocabulary{7}, Width{8}, H3Block> layer;
  Context<Reference> ctx;
  const auto parameters = layer.initialize(ctx, Seed{1});
  Tokens tokens;
  const Tokens prompt{1, 2};
  for (const Token token : generate(ctx, layer, parameters, prompt, {.tokens = 5}))
    tokens.push_back(token);
  CHECK(tokens.size() == 5);
}

TEST_CASE("after the first tokens a model without attention allocates nothing") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(name);
    const auto model = tiny_model<float>();
    Context<B> ctx;
    auto text = generate(ctx, model, Tokens{1, 2, 3}, {.top_k = 3});
    auto token = text.begin();
    for (int i = 0; i < 3; ++i) ++token;
    const std::size_t before = laws::allocation_count();
    for (int i = 0; i < 100; ++i) ++token;
    CHECK(laws::allocation_count() == before);
  });
}

TEST_CASE("an empty prompt and a token outside the vocabulary are refused") {
  const auto model = tiny_model<float>();
  CHECK_THROWS_AS(generated(model, {}, {.tokens = 1}), ArgumentError);
  CHECK_THROWS_AS(generated(model, {7}, {.tokens = 1}), ArgumentError);
  CHECK_THROWS_AS(generated(model, {-1}, {.tokens = 1}), ArgumentError);
}

}  // namespace
}  // namespace ssm::test
