// SPDX-License-Identifier: Apache-2.0
#include "ssm/family/retnet.hpp"

#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <vector>

namespace ssm::test {
namespace {

using Json = nlohmann::ordered_json;

const Json published{{"decoder_embed_dim", 16},
                     {"decoder_value_embed_dim", 24},
                     {"decoder_retention_heads", 2},
                     {"decoder_ffn_embed_dim", 20},
                     {"decoder_layers", 3},
                     {"decoder_normalize_before", true},
                     {"activation_fn", "swish"},
                     {"no_scale_embedding", false},
                     {"deepnorm", false},
                     {"share_decoder_input_output_embed", true},
                     {"layernorm_eps", 1e-5},
                     {"dropout", 0.25},
                     {"activation_dropout", 0.125},
                     {"vocab_size", 29}};

RetNetLanguageModelConfig read(const Json& json) {
  return RetNetFamily::read(parse_json(json.dump(), "config.json"));
}
std::string complaint(const char* field, const Json& value) {
  Json json = published;
  json[field] = value;
  try {
    read(json);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("every size is read from the published fields") {
  const RetNetLanguageModelConfig config = read(published);
  CHECK(config.d_model == 16);
  CHECK(config.d_value == 24);
  CHECK(config.num_heads == 2);
  CHECK(config.d_inner == 20);
  CHECK(config.n_layer == 3);
  CHECK(config.vocab_size == 29);
  CHECK(config.activation == ActivationKind::silu);
  CHECK(config.scales_embedding);
  CHECK(config.has_tied_head);
  CHECK(config.norm_epsilon == 1e-5);
  CHECK(config.dropout == 0.25);
  CHECK(config.activation_dropout == 0.125);
}

TEST_CASE("what a config leaves out is as the published code has it") {
  const RetNetLanguageModelConfig config = read({{"decoder_embed_dim", 16},
                                                 {"decoder_value_embed_dim", 24},
                                                 {"decoder_retention_heads", 2},
                                                 {"decoder_ffn_embed_dim", 20},
                                                 {"decoder_layers", 3},
                                                 {"vocab_size", 29}});
  CHECK(config.activation == ActivationKind::gelu_erf);
  CHECK(!config.scales_embedding);
  CHECK(!config.has_tied_head);
  CHECK(config.norm_epsilon == 1e-6);
  CHECK(config.dropout == 0);
  CHECK(config.activation_dropout == 0);
}

TEST_CASE("a config that is written is read as it was") {
  const Json json = RetNetFamily::write(read(published));
  CHECK(RetNetFamily::write(read(json)) == json);
  for (const auto& field : published.items())
    if (field.key() != "deepnorm")
      CHECK_MESSAGE(json.at(field.key()) == field.value(), field.key());
}

TEST_CASE("every field is checked, and named") {
  const std::vector<std::pair<const char*, Json>> bad{
      {"decoder_embed_dim", 0},
      {"decoder_embed_dim", nullptr},
      {"decoder_embed_dim", 18},  // heads of nine channels do not turn in pairs
      {"decoder_embed_dim", "16"},
      {"decoder_value_embed_dim", 25},
      {"decoder_retention_heads", 0},
      {"decoder_retention_heads", 2147483648},
      {"decoder_ffn_embed_dim", 2.5},
      {"decoder_layers", -3},
      {"vocab_size", -1},
      {"activation_fn", "tanh"},
      {"activation_fn", 3},
      {"no_scale_embedding", 1},
      {"share_decoder_input_output_embed", "no"},
      {"layernorm_eps", 2},
      {"dropout", 1},
      {"activation_dropout", -0.1},
      {"decoder_normalize_before", false},
      {"deepnorm", true},
      {"layernorm_embedding", true},
      {"multiway", true},
      {"no_output_layer", true},
      {"moe_freq", 2},
  };
  for (const auto& [field, value] : bad) {
    const std::string message = complaint(field, value), given = value.dump();
    CAPTURE(given);
    CHECK_MESSAGE(message.starts_with("config.json: '" + std::string(field) + "' "), message);
  }
}

}  // namespace
}  // namespace ssm::test
