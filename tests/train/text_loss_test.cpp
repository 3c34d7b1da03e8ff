// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/text_loss.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "ssm/core/scalar.hpp"  // tolerance
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

using P = H3LanguageModel::Parameters<double>;

std::vector<Token> some_text(std::size_t size) {
  std::vector<Token> text;
  for (std::size_t i = 0; i < size; ++i) text.push_back(static_cast<Token>(i * i % 7));
  return text;
}

/// −Σ ln p over one whole forward pass.
double whole_loss(const Model<P>& model, const std::vector<Token>& text) {
  Context<Reference> ctx;
  const auto length = static_cast<Index>(text.size()) - 1;
  DynamicTensor<Token, 2> tokens({1, length});
  for (Index t = 0; t < length; ++t) tokens(0, t) = text[static_cast<std::size_t>(t)];
  DynamicTensor<double, 3> logits({1, length, model.layer.padded_vocabulary()});
  model.layer.forward(ctx, model.parameters, tokens, logits);
  double nats = 0;
  for (Index t = 0; t < length; ++t) {
    double sum = 0;
    for (Index v = 0; v < logits.extent(2); ++v) sum += std::exp(logits(0, t, v));
    nats += std::log(sum) - logits(0, t, text[static_cast<std::size_t>(t) + 1]);
  }
  return nats;
}

TextLoss loss_of(const Model<P>& model, const std::vector<Token>& text, TextLossOptions options) {
  Context<Reference> ctx;
  return text_loss(ctx, model.layer, model.parameters, text, options);
}

TEST_CASE("the loss of a text is that of one forward pass, whatever the chunks") {
  const auto model = tiny_model();
  for (const std::size_t size : {2U, 3U, 64U, 65U, 66U, 1001U}) {
    const auto text = some_text(size);
    const double expected = whole_loss(model, text);
    for (const Index chunk : {1, 7, 64, 2000}) {
      const TextLoss loss = loss_of(model, text, {.chunk = chunk});
      CHECK(loss.tokens == static_cast<Index>(size) - 1);
      CHECK(std::abs(loss.nats - expected) <= tolerance<double>.value * std::max(1.0, expected));
    }
  }
}

/// A text that is read part by part.
class CopiedText : public TokenSource {
 public:
  explicit CopiedText(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Index size() const override { return static_cast<Index>(tokens_.size()); }
  void read(Index begin, std::span<Token> out) const override {
    require_inside(begin, out.size(), size());
    std::copy_n(tokens_.begin() + begin, out.size(), out.begin());
    longest_read = std::max(longest_read, out.size());
  }
  mutable std::size_t longest_read = 0;

 private:
  std::vector<Token> tokens_;
};

TEST_CASE("the loss of a text that is read part by part is that of the text in memory") {
  const auto model = tiny_model();
  Context<Reference> ctx;
  const auto text = some_text(333);
  const CopiedText source(text);
  for (const TextLossOptions& options :
       {TextLossOptions{.chunk = 50}, TextLossOptions{.chunk = 16, .streams = 5}}) {
    const TextLoss loss = text_loss(ctx, model.layer, model.parameters, source, options);
    CHECK(loss.nats == loss_of(model, text, options).nats);
    CHECK(loss.tokens == 332);
  }
  CHECK(source.longest_read == 51);
  const TokenView last = TokenView(source).subview(300, 33);
  CHECK(text_loss(ctx, model.layer, model.parameters, last).nats ==
        loss_of(model, {text.begin() + 300, text.end()}, {}).nats);
}

TEST_CASE("a hybrid model carries its cache from chunk to chunk") {
  const auto model = tiny_model({.d_model = 8,
                                 .n_layer = 2,
                                 .d_inner = 8,
                                 .vocab_size = 7,
                                 .d_state = 4,
                                 .attn_layer_idx = {1},
                                 .num_heads = 2,
                                 .rotary_emb_dim = 2});
  const auto text = some_text(50);
  CHECK(std::abs(loss_of(model, text, {.chunk = 6}).nats - whole_loss(model, text)) <=
        tolerance<double>.value * 100);
}

TEST_CASE("parallel streams are the losses of the parts, each from a fresh state") {
  const auto model = tiny_model();
  const auto text = some_text(32);  // 31 predictions: 11 + 11 + 9
  const auto part = [&](std::size_t begin, std::size_t count) {
    return whole_loss(model, {text.begin() + static_cast<std::ptrdiff_t>(begin),
                              text.begin() + static_cast<std::ptrdiff_t>(begin + count + 1)});
  };
  const TextLoss loss = loss_of(model, text, {.chunk = 4, .streams = 3});
  CHECK(loss.tokens == 31);
  CHECK(std::abs(loss.nats - part(0, 11) - part(11, 11) - part(22, 9)) <=
        tolerance<double>.value * 100);
}

TEST_CASE("with a context the state starts afresh after so many tokens") {
  const auto model = tiny_model();
  const auto text = some_text(21);  // 8 + 8 + 4 predictions
  const auto part = [&](std::ptrdiff_t begin, std::ptrdiff_t count) {
    return whole_loss(model, {text.begin() + begin, text.begin() + begin + count + 1});
  };
  for (const Index chunk : {3, 8, 100})
    CHECK(std::abs(loss_of(model, text, {.context = 8, .chunk = chunk}).nats - part(0, 8) -
                   part(8, 8) - part(16, 4)) <= tolerance<double>.value * 100);
}

TEST_CASE("a text of one token or none has nothing to predict") {
  const auto model = tiny_model();
  CHECK(loss_of(model, {}, {}).tokens == 0);
  CHECK(loss_of(model, {3}, {}).tokens == 0);
  CHECK(loss_of(model, {3}, {}).mean() == 0);
}

TEST_CASE("options and tokens outside their range are refused") {
  const auto model = tiny_model();
  CHECK_THROWS_AS(loss_of(model, {1, 2}, {.chunk = 0}), ArgumentError);
  CHECK_THROWS_AS(loss_of(model, {1, 2}, {.streams = 0}), ArgumentError);
  CHECK_THROWS_AS(loss_of(model, {1, 2}, {.context = -1}), ArgumentError);
  CHECK_THROWS_AS(loss_of(model, {1, 8, 1}, {}), ArgumentError);
}

}  // namespace
}  // namespace ssm::test
