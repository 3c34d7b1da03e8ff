// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/kept_states.hpp"
#include "ssm/parallel/cut_sequences.hpp"
#include "ssm/parallel/in_process.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/text_streams.hpp"
#include "support/backends.hpp"
#include "support/every_model.hpp"
#include "support/test_tensor.hpp"
#include "support/tiny_model.hpp"
#include "support/watched_heap.hpp"

namespace ssm::test {
namespace {

constexpr Index vocabulary = 5;

// Models of every family, some with dropout.
auto h3() {
  return make_language_model(H3LanguageModelConfig{.d_model = 4,
                                                   .n_layer = 4,
                                                   .d_inner = 6,
                                                   .vocab_size = vocabulary,
                                                   .d_state = 4,
                                                   .attn_layer_idx = {1, 3},
                                                   .embed_dropout = 0.2,
                                                   .resid_dropout = 0.3});
}
auto gpt2() {
  return make_language_model(Gpt2LanguageModelConfig{.n_embd = 4,
                                                     .n_layer = 3,
                                                     .n_head = 2,
                                                     .n_inner = 6,
                                                     .n_positions = 64,
                                                     .vocab_size = vocabulary,
                                                     .resid_pdrop = 0.3});
}
auto mamba() {
  return make_language_model(MambaLanguageModelConfig{.d_model = 4,
                                                      .n_layer = 3,
                                                      .vocab_size = vocabulary,
                                                      .d_inner = 6,
                                                      .d_state = 3,
                                                      .dt_rank = 2});
}
auto mamba2() {
  return make_language_model(Mamba2LanguageModelConfig{.d_model = 4,
                                                       .n_layer = 3,
                                                       .vocab_size = vocabulary,
                                                       .d_inner = 6,
                                                       .head_dim = 3,
                                                       .d_state = 3});
}
auto dense_mamba(DenseFusion fusion) {
  return make_dense_language_model(MambaLanguageModelConfig{.d_model = 4,
                                                            .n_layer = 4,
                                                            .vocab_size = vocabulary,
                                                            .d_inner = 6,
                                                            .d_state = 3,
                                                            .dt_rank = 2,
                                                            .dense_block_layers = 2,
                                                            .h_select_reduction = 2,
                                                            .fusion = fusion});
}
auto retnet() {
  return make_language_model(RetNetLanguageModelConfig{.d_model = 4,
                                                       .n_layer = 3,
                                                       .vocab_size = vocabulary,
                                                       .num_heads = 2,
                                                       .d_value = 6,
                                                       .d_inner = 6,
                                                       .dropout = 0.3,
                                                       .activation_dropout = 0.3});
}
auto dense_retnet() {
  return make_language_model(DenseRetNetLanguageModelConfig{.d_model = 4,
                                                            .n_layer = 4,
                                                            .vocab_size = vocabulary,
                                                            .num_heads = 1,
                                                            .d_key = 4,
                                                            .d_value = 4,
                                                            .dense_block_layers = 2,
                                                            .k_select_reduction = 2,
                                                            .v_select_reduction = 2,
                                                            .dropout = 0.3});
}

/// What a call and its gradient leave.
template <class L>
struct Outcome {
  using Parameters = typename L::template Parameters<double>;
  DynamicTensor<double, 3> logits;
  typename L::template State<double> end, dbegin;
  Parameters gradients;
};

template <class L>
bool are_same(const Outcome<L>& a, const Outcome<L>& b) {
  bool same = difference(a.logits, b.logits) == 0 && distance(a.gradients, b.gradients) == 0;
  const auto compare = [&](const auto& x, const auto& y) {
    L::for_each_state(
        [&](const std::string&, const auto& one, const auto& other) {
          same = same && one.extents() == other.extents();
          for (Index i = 0; same && i < one.size(); ++i) same = one.data()[i] == other.data()[i];
        },
        x, y);
  };
  compare(a.end, b.end);
  compare(a.dbegin, b.dbegin);
  return same;
}

/// A call from a state that is not zero, to one, and its gradient to both; what the tape takes.
template <class B, class L>
std::pair<Outcome<L>, std::size_t> outcome(const L& layer, bool recompute, bool in_place) {
  Context<B> ctx;
  const auto p = layer.template initialize<double>(ctx, Seed{1});
  constexpr Index length = 24;
  DynamicTensor<Token, 2> tokens({2, length});
  for (Index i = 0; i < tokens.size(); ++i)
    tokens.data()[i] = static_cast<Token>(i * i % vocabulary);
  Outcome<L> result{.logits = nan_tensor(2, length, vocabulary),
                    .end = layer.template initial_state<double>(ctx, 2, 2 * length),
                    .dbegin = layer.template initial_state<double>(ctx, 2),
                    .gradients = layer.template zero_parameters<double>(ctx)};
  auto begin = layer.template initial_state<double>(ctx, 2, 2 * length);
  layer.forward(ctx, p, tokens, result.logits, {.initial_state = &begin, .final_state = &begin});
  if (in_place) copy_state<L>(ctx, begin, result.end);
  const auto call = [&](auto& tape) {
    tape.backbone.recompute = recompute;
    layer.forward(ctx, p, tokens, result.logits, tape,
                  {.initial_state = in_place ? &result.end : &begin,
                   .final_state = &result.end,
                   .dropout = Seed{3}});
  };
  std::size_t bytes = live_bytes;
  auto tape = layer.template make_tape<double>(ctx);
  call(tape);
  bytes = live_bytes - bytes;
  if (in_place) copy_state<L>(ctx, begin, result.end);
  call(tape);
  const auto dlogits = random_tensor("dlogits", 2, length, vocabulary);
  // Twice: a tape serves any number of backward passes.
  for (int i = 0; i < 2; ++i)
    layer.backward(ctx, p, tape, dlogits, result.gradients, {.initial_state = &result.dbegin});
  return {std::move(result), bytes};
}

template <class L>
void check(const L& layer) {
  laws::for_each_backend([&]<class B>(const char* name) {
    CAPTURE(std::string(name));
    for (const bool in_place : {false, true}) {
      const auto [kept, kept_bytes] = outcome<B>(layer, false, in_place);
      const auto [again, again_bytes] = outcome<B>(layer, true, in_place);
      CHECK(are_same(kept, again));
      CHECK(again_bytes < kept_bytes);
    }
  });
}

/// check(layer) for a model of each family, in a SUBCASE of its own.
void for_each_model(const auto& check) {
  SUBCASE("H3 and attention, dropout") { check(h3()); }
  SUBCASE("GPT-2") { check(gpt2()); }
  SUBCASE("Mamba") { check(mamba()); }
  SUBCASE("Mamba-2") { check(mamba2()); }
  SUBCASE("RetNet, dropout") { check(retnet()); }
  SUBCASE("DenseMamba") { check(dense_mamba(DenseFusion::readout)); }
  SUBCASE("DenseMamba, carried") { check(dense_mamba(DenseFusion::carried)); }
  SUBCASE("DenseRetNet, dropout") { check(dense_retnet()); }
}

TEST_CASE("forward passes that run once more leave the same bits, from a smaller tape") {
  for_each_model([](const auto& layer) { check(layer); });
}

/// Of each rank, the logits and gradients of its stretch.
template <class L>
auto outcomes_across_ranks(const L& layer, int count, bool recompute) {
  using P = typename L::template Parameters<double>;
  constexpr Index length = 23;
  std::vector<std::pair<DynamicTensor<double, 3>, P>> results(static_cast<std::size_t>(count));
  InProcess::run(count, [&](Communicator& ranks) {
    Context<Reference> ctx;
    const auto p = layer.template initialize<double>(ctx, Seed{1});
    const Stretch here = stretch_of(length, ranks.rank(), count);
    DynamicTensor<Token, 2> tokens({2, here.length()});
    for (Index i = 0; i < tokens.size(); ++i)
      tokens.data()[i] = static_cast<Token>((i + here.begin) * i % vocabulary);
    auto& [logits, gradients] = results[static_cast<std::size_t>(ranks.rank())];
    logits = nan_tensor(2, here.length(), vocabulary);
    gradients = layer.template zero_parameters<double>(ctx);
    const auto dlogits = random_tensor("dlogits", 2, here.length(), vocabulary);
    auto tape = layer.template make_tape<double>(ctx);
    tape.backbone.recompute = recompute;
    KeptStates kept;
    const CutSequences<Reference, double> cut(
        ctx, {.ranks = &ranks, .begin = here.begin, .kept = &kept});
    for (int i = 0; i < 2; ++i) {
      kept.begin();
      layer.forward(ctx, p, tokens, logits, tape, {.dropout = Seed{3}});
      kept.begin_backward();
      layer.backward(ctx, p, tape, dlogits, gradients);
      kept.end();
    }
  });
  return results;
}

template <class L>
void check_across_ranks(const L& layer) {
  for (const int count : {2, 3}) {
    const auto kept = outcomes_across_ranks(layer, count, false);
    const auto again = outcomes_across_ranks(layer, count, true);
    for (std::size_t rank = 0; rank < kept.size(); ++rank) {
      CHECK(difference(kept[rank].first, again[rank].first) == 0);
      CHECK(distance(kept[rank].second, again[rank].second) == 0);
    }
  }
}

TEST_CASE("forward passes run once more where ranks share sequences") {
  for_each_model([](const auto& layer) { check_across_ranks(layer); });
}

TEST_CASE("training with recompute makes the same updates") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    const auto text = periodic_text(400);
    const auto train = [&](bool recompute) {
      auto [layer, parameters] = tiny_model<float>({.d_model = 8,
                                                    .n_layer = 3,
                                                    .d_inner = 16,
                                                    .vocab_size = 7,
                                                    .d_state = 4,
                                                    .resid_dropout = 0.1});
      Context<B> ctx;
      LanguageModelTrainer trainer(
          ctx, layer, parameters,
          {.batch = 2, .carry = 2, .optimizer = {.rate = 1e-2}, .recompute = recompute});
      const TextStreams streams(text, 16, 2, Seed{1});
      for (int i = 0; i < 4; ++i) trainer.update(ctx, layer, parameters, streams, 1e-2);
      return std::move(parameters);
    };
    CHECK(distance(train(false), train(true)) == 0);
  });
}

TEST_CASE("what cannot be run once more is refused") {
  Context<Reference> ctx;
  const LanguageModel<Vocabulary{5}, Width{4}, H3Block, H3Block> fixed;
  const auto parameters = fixed.template initialize<double>(ctx, Seed{1});
  CHECK_THROWS_WITH_AS(LanguageModelTrainer(ctx, fixed, parameters, {.recompute = true}),
                       "training: recompute is for models whose blocks are a stack", ArgumentError);
}

}  // namespace
}  // namespace ssm::test
