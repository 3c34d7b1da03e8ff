// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/model/retnet_language_model.hpp"

namespace ssm::test {

/// A small language model that reads several sequences, and what it remembers of them.
template <class L>
class Session {
 public:
  using Layer = L;
  using State = typename L::template State<float>;

  Session(L layer, Index sequences)
      : layer_(std::move(layer)),
        parameters_(layer_.template initialize<float>(ctx_, Seed{5})),
        sequences_(sequences),
        state_(layer_.template initial_state<float>(ctx_, sequences)) {}

  /// The logits after `length` tokens, which `first` chooses, [sequences, vocabulary].
  std::vector<float> read(Index length, Index first) {
    DynamicTensor<Token, 2> tokens({sequences_, length});
    for (Index i = 0; i < tokens.size(); ++i)
      tokens.data()[i] = static_cast<Token>((first + 3 * i + i * i) % 7);
    DynamicTensor<float, 3> logits({sequences_, 1, layer_.padded_vocabulary()});
    layer_.prefill(ctx_, parameters_, tokens, logits, state_);
    return {logits.data(), logits.data() + logits.size()};
  }
  std::vector<float> step(Token token) {
    DynamicTensor<Token, 1> tokens({sequences_});
    for (Index s = 0; s < sequences_; ++s) tokens(s) = (token + static_cast<Token>(s)) % 7;
    DynamicTensor<float, 2> logits({sequences_, layer_.padded_vocabulary()});
    layer_.step(ctx_, parameters_, tokens, logits, state_);
    return {logits.data(), logits.data() + logits.size()};
  }

  Context<Reference>& context() { return ctx_; }
  const L& layer() const { return layer_; }
  State& state() { return state_; }
  const State& state() const { return state_; }

 private:
  Context<Reference> ctx_;
  L layer_;
  typename L::template Parameters<float> parameters_;
  Index sequences_;
  State state_;
};

/// run(layer, name) with a small model of every kind of state: recurrences, a hybrid with caches of
/// attention, positions.
template <class Run>
void for_each_session_layer(Run&& run) {
  H3LanguageModelConfig h3{.d_model = 8,
                           .n_layer = 3,
                           .d_inner = 16,
                           .vocab_size = 7,
                           .d_state = 4,
                           .num_heads = 2,
                           .rotary_emb_dim = 2};
  run(make_language_model(h3), "h3");
  h3.attn_layer_idx = {0, 2};
  run(make_language_model(h3), "hybrid");
  h3.attn_layer_idx = {1};
  h3.max_position_embeddings = 20;
  run(make_language_model(h3), "learned positions");
  run(make_language_model(MambaLanguageModelConfig{
          .d_model = 8, .n_layer = 2, .vocab_size = 7, .d_inner = 16, .d_state = 4, .dt_rank = 1}),
      "mamba");
  run(make_language_model(RetNetLanguageModelConfig{.d_model = 8,
                                                    .n_layer = 2,
                                                    .vocab_size = 7,
                                                    .num_heads = 2,
                                                    .d_value = 16,
                                                    .d_inner = 12}),
      "retnet");
}

}  // namespace ssm::test
