// SPDX-License-Identifier: Apache-2.0
#include "ssm/family/gpt2.hpp"

#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <vector>

#include "ssm/family/family.hpp"
#include "ssm/io/state_checkpoint.hpp"
#include "support/session.hpp"
#include "support/temporary_folder.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

using Json = nlohmann::ordered_json;

/// Every field, each other than transformers has it where it is left out.
const Json every_field{{"model_type", "gpt2"},
                       {"n_embd", 24},
                       {"n_layer", 3},
                       {"n_head", 4},
                       {"n_inner", 40},
                       {"n_positions", 50},
                       {"n_ctx", 50},
                       {"vocab_size", 70},
                       {"activation_function", "relu"},
                       {"layer_norm_epsilon", 1e-6},
                       {"initializer_range", 0.5},
                       {"embd_pdrop", 0.25},
                       {"resid_pdrop", 0.125},
                       {"attn_pdrop", 0.0625},
                       {"scale_attn_weights", false},
                       {"scale_attn_by_inverse_layer_idx", true},
                       {"tie_word_embeddings", false}};

Gpt2LanguageModelConfig read(const Json& json) {
  return Gpt2Family::read(parse_json(json.dump(), "config.json"));
}
std::string complaint(const char* field, const Json& value) {
  Json json = every_field;
  json[field] = value;
  try {
    read(json);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

constexpr Gpt2LanguageModelConfig tiny{
    .n_embd = 8, .n_layer = 2, .n_head = 2, .n_inner = 12, .n_positions = 20, .vocab_size = 7};

TEST_CASE("every field of a config that is written is read as it was") {
  const Json json = Gpt2Family::write(read(every_field));
  for (const auto& item : every_field.items())
    CHECK_MESSAGE(json.at(item.key()) == item.value(), item.key());
  CHECK(Gpt2Family::write(read(json)) == json);
}

TEST_CASE("what a config leaves out is as transformers has it") {
  const Json published{{"n_embd", 768},
                       {"n_layer", 12},
                       {"n_head", 12},
                       {"n_inner", 3072},
                       {"n_positions", 1024},
                       {"vocab_size", 50257},
                       {"activation_function", "gelu_new"},
                       {"layer_norm_epsilon", 1e-5},
                       {"initializer_range", 0.02},
                       {"embd_pdrop", 0.1},
                       {"resid_pdrop", 0.1},
                       {"attn_pdrop", 0.1},
                       {"scale_attn_weights", true},
                       {"scale_attn_by_inverse_layer_idx", false},
                       {"tie_word_embeddings", true}};
  const Json json = Gpt2Family::write(read({{"model_type", "gpt2"}, {"n_inner", nullptr}}));
  for (const auto& item : published.items())
    CHECK_MESSAGE(json.at(item.key()) == item.value(), item.key());
}

TEST_CASE("a function of another size or another word for one is read") {
  CHECK(read({{"n_embd", 20}}).n_inner == 80);
  const std::vector<std::pair<const char*, ActivationKind>> words{
      {"gelu_new", ActivationKind::gelu_tanh}, {"gelu_pytorch_tanh", ActivationKind::gelu_tanh},
      {"gelu", ActivationKind::gelu_erf},      {"silu", ActivationKind::silu},
      {"swish", ActivationKind::silu},         {"tanh", ActivationKind::tanh}};
  for (const auto& word : words)
    CHECK_MESSAGE(read({{"activation_function", word.first}}).activation == word.second,
                  word.first);
}

TEST_CASE("every field is checked, and named") {
  const std::vector<std::pair<const char*, Json>> bad{
      {"n_embd", 0},
      {"n_embd", "24"},
      {"n_layer", -3},
      {"n_head", 0},
      {"n_inner", 2.5},
      {"n_positions", 0},
      {"n_ctx", 51},
      {"vocab_size", 2147483648},
      {"unpadded_vocab_size", 71},
      {"activation_function", "selu"},
      {"activation_function", 3},
      {"layer_norm_epsilon", 2},
      {"initializer_range", -1},
      {"embd_pdrop", 1},
      {"resid_pdrop", -0.1},
      {"attn_pdrop", "much"},
      {"scale_attn_weights", 1},
      {"scale_attn_by_inverse_layer_idx", "no"},
      {"reorder_and_upcast_attn", 0.5},
      {"tie_word_embeddings", "no"},
      {"add_cross_attention", true},
      {"is_encoder_decoder", true},
      {"pruned_heads", {{"0", {1}}}},
      {"quantization_config", {{"bits", 4}}},
  };
  for (const auto& entry : bad) {
    const std::string message = complaint(entry.first, entry.second);
    CAPTURE(entry.second.dump());
    CHECK_MESSAGE(message.starts_with("config.json: '" + std::string(entry.first) + "' "), message);
  }
  CHECK(complaint("reorder_and_upcast_attn", true) == "");
  CHECK(complaint("use_cache", false) == "");
}

TEST_CASE("a saved model has the matrices of its blocks transposed, and loads bit for bit") {
  const TemporaryFolder folder;
  Context<Reference> ctx;
  const auto layer = make_language_model(tiny);
  const auto parameters = layer.initialize<float>(ctx, Seed{5});
  save_language_model<Gpt2Family>(folder.path(), tiny, parameters);
  const SafetensorsFile file(folder / "model.safetensors");
  CHECK(file.shape("transformer.h.1.attn.c_attn.weight") == std::vector<Index>{8, 24});
  CHECK(file.shape("transformer.h.1.mlp.c_proj.weight") == std::vector<Index>{12, 8});
  CHECK(file.shape("transformer.wpe.weight") == std::vector<Index>{20, 8});
  CHECK(!file.contains("lm_head.weight"));
  const auto stored = file.read<float, 2>("transformer.h.1.mlp.c_fc.weight");
  CHECK(stored(3, 11) == parameters.backbone.blocks[1].second.inner.fc1.weight(11, 3));
  const auto loaded = load_language_model<Gpt2Family>(ctx, folder.path());
  CHECK(distance(loaded.parameters, parameters) == 0);
}

TEST_CASE("a text that is longer than the learned positions is refused, and the state stays") {
  Session session(make_language_model(tiny), 2);
  session.read(13, 1);
  session.read(6, 2);
  CHECK_THROWS_WITH_AS(session.read(2, 3),
                       "language model: position 20 is beyond the 20 learned positions",
                       ArgumentError);
  CHECK(session.state().position(0) == 19);
  session.step(4);
  CHECK_THROWS_AS(session.step(4), ArgumentError);
  CHECK(session.state().position(1) == 20);
}

TEST_CASE("positions go on from a state that was saved, and matter") {
  const TemporaryFolder folder;
  using Layer = Gpt2LanguageModel;
  Session stopped(make_language_model(tiny), 2), resumed(make_language_model(tiny), 2);
  stopped.read(7, 1);
  SafetensorsWriter writer(folder / "state");
  save_state<Layer>(writer, stopped.state());
  writer.finish();
  load_state<Layer>(SafetensorsFile(folder / "state"), resumed.state());
  CHECK(resumed.state().position(1) == 7);
  Session earlier(make_language_model(tiny), 2);
  load_state<Layer>(SafetensorsFile(folder / "state"), earlier.state());
  earlier.state().position(0) = 6;
  const auto expected = stopped.read(5, 2);
  CHECK(resumed.read(5, 2) == expected);
  CHECK(earlier.read(5, 2) != expected);
  CHECK(resumed.step(3) == stopped.step(3));
}

TEST_CASE("a dropout of attention weights is refused where it would drop, and nowhere else") {
  Context<Reference> ctx;
  auto config = tiny;
  config.attn_pdrop = 0.1;
  const auto layer = make_language_model(config);
  const auto parameters = layer.initialize<float>(ctx, Seed{5});
  const DynamicTensor<Token, 2> tokens({1, 4});
  DynamicTensor<float, 3> logits({1, 4, 7});
  auto tape = layer.make_tape<float>();
  layer.forward(ctx, parameters, tokens, logits);
  layer.forward(ctx, parameters, tokens, logits, tape);
  CHECK_THROWS_WITH_AS(
      layer.forward(ctx, parameters, tokens, logits, tape, {.dropout = Seed{1}}),
      "CausalAttention: dropout of attention weights is not computed; train with one of 0",
      ArgumentError);
}

}  // namespace
}  // namespace ssm::test
