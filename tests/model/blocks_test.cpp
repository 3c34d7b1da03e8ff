// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/blocks.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/model/retnet_language_model.hpp"

namespace {

using namespace ssm;

/// "name [extents]" of every tensor of a model.
template <class L>
std::vector<std::string> tensors(const L& model) {
  Context<Reference> ctx;
  std::vector<std::string> all;
  const auto p = model.zero_parameters(ctx);
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto& tensor) {
        std::string line = spec.name + " [";
        for (const Index extent : tensor.extents().to_array()) line += std::to_string(extent) + " ";
        all.push_back(line + "]");
      },
      p);
  return all;
}

TEST_CASE("a list of Mamba blocks under Mamba's names has the tensors of a Mamba checkpoint") {
  using Listed = NamedLanguageModel<MambaNames, Vocabulary{7}, Width{24}, MambaBlock, MambaBlock>;
  CHECK(tensors(Listed()) ==
        tensors(make_language_model(MambaLanguageModelConfig{
            .d_model = 24, .n_layer = 2, .vocab_size = 7, .d_inner = 48, .dt_rank = 2})));
}

TEST_CASE("a list of RetNet blocks under RetNet's names has the tensors of a RetNet checkpoint") {
  using Listed = NamedLanguageModel<RetNetNames, Vocabulary{7}, Width{8}, RetNetBlock>;
  CHECK(tensors(Listed()) ==
        tensors(make_language_model(RetNetLanguageModelConfig{.d_model = 8,
                                                              .n_layer = 1,
                                                              .vocab_size = 7,
                                                              .num_heads = 1,
                                                              .d_value = 16,
                                                              .d_inner = 16,
                                                              .has_tied_head = true})));
}

/// Logits of 0, 1, 2, 3 whole and step by step.
template <class L>
void check_steps() {
  Context<Reference> ctx;
  const L model;
  const auto p = model.template initialize<double>(ctx, Seed{1});
  DynamicTensor<Token, 2> tokens({1, 4});
  for (Index t = 0; t < 4; ++t) tokens(0, t) = static_cast<Token>(t);
  DynamicTensor<double, 3> whole({1, 4, 5}), step({1, 1, 5});
  model.forward(ctx, p, tokens, whole);
  auto state = model.template initial_state<double>(ctx, 1);
  for (Index t = 0; t < 4; ++t) {
    model.prefill(ctx, p, tokens.slice(1, t, t + 1), step, state);
    for (Index v = 0; v < 5; ++v)
      CHECK(std::abs(step(0, 0, v) - whole(0, t, v)) <= tolerance<double>.value);
  }
}

TEST_CASE("every block makes a language model, alone and together") {
  check_steps<LanguageModel<Vocabulary{5}, Width{8}, H3Block>>();
  check_steps<LanguageModel<Vocabulary{5}, Width{8}, AttentionBlock>>();
  check_steps<LanguageModel<Vocabulary{5}, Width{8}, S4DBlock>>();
  check_steps<LanguageModel<Vocabulary{5}, Width{8}, GatedStateSpaceBlock>>();
  check_steps<LanguageModel<Vocabulary{5}, Width{8}, MambaBlock>>();
  check_steps<LanguageModel<Vocabulary{5}, Width{8}, RetNetBlock>>();
  check_steps<LanguageModel<Vocabulary{5}, Width{8}, MambaBlock, AttentionBlock, RetNetBlock>>();
}

/// A word of one's own needs no more than a layer of a width.
struct ShiftBlock {
  template <Index Width>
  using Layer = Residual<LayerNorm<Width>, ShiftSsm<ShiftSsmConfig{.channels = Width}>>;
};

TEST_CASE("a user's block stands in a list, and the first block says what norm comes last") {
  check_steps<LanguageModel<Vocabulary{5}, Width{4}, ShiftBlock>>();
  const auto last = [](const auto& model) { return tensors(model).back(); };
  CHECK(last(LanguageModel<Vocabulary{5}, Width{4}, ShiftBlock, MambaBlock>()) ==
        "backbone.ln_f.bias [4 ]");
  CHECK(last(LanguageModel<Vocabulary{5}, Width{4}, MambaBlock, ShiftBlock>()) ==
        "backbone.ln_f.weight [4 ]");
}

}  // namespace
