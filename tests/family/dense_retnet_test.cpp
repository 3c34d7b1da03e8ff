// SPDX-License-Identifier: Apache-2.0
#include "ssm/family/dense_retnet.hpp"

#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <vector>

namespace ssm::test {
namespace {

using Json = nlohmann::ordered_json;

const Json published{{"model_type", "DenseGauRetNet"},
                     {"hidden_size", 16},
                     {"query_key_dim", 8},
                     {"num_attention_heads", 2},
                     {"num_hidden_layers", 3},
                     {"v_factor", 2},
                     {"dense_block_layers", 1},
                     {"intermediate_k_select_scale", 4},
                     {"intermediate_v_select_scale", 8},
                     {"rms_norm_eps", 1e-5},
                     {"vocab_size", 29},
                     {"tie_word_embeddings", true},
                     {"deepnorm", false},
                     {"dropout", 0.2}};

DenseRetNetLanguageModelConfig read(const Json& json) {
  return DenseRetNetFamily::read(parse_json(json.dump(), "config.json"));
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
  const DenseRetNetLanguageModelConfig config = read(published);
  CHECK(config.d_model == 16);
  CHECK(config.d_key == 8);
  CHECK(config.d_value == 32);
  CHECK(config.num_heads == 2);
  CHECK(config.n_layer == 3);
  CHECK(config.vocab_size == 29);
  CHECK(config.dense_block_layers == 1);
  CHECK(config.k_select_reduction == 4);
  CHECK(config.v_select_reduction == 8);
  CHECK(config.norm_epsilon == 1e-5);
  CHECK(config.has_tied_head);
  CHECK(config.dropout == 0.2);
  CHECK(config.fusion == DenseFusion::carried);
}

TEST_CASE("what the first published config leaves out is as its code has it") {
  const DenseRetNetLanguageModelConfig config = read({{"model_type", "llama"},
                                                      {"hidden_size", 1536},
                                                      {"query_key_dim", 768},
                                                      {"num_attention_heads", 2},
                                                      {"num_hidden_layers", 16},
                                                      {"dense_block_layers", 1},
                                                      {"vocab_size", 32000}});
  CHECK(config.k_select_reduction == 32);
  CHECK(config.v_select_reduction == 32);
  CHECK(config.d_value == 3072);
  CHECK(!config.has_tied_head);
  CHECK(config.norm_epsilon == 1e-6);
  CHECK(config.dropout == 0.1);
}

TEST_CASE("a config that is written is read as it was") {
  const Json json = DenseRetNetFamily::write(read(published));
  CHECK(DenseRetNetFamily::write(read(json)) == json);
  for (const auto& field : published.items())
    CHECK_MESSAGE(json.at(field.key()) == field.value(), field.key());
}

TEST_CASE("how a model fuses is read, and carried where nothing is said") {
  Json json = published;
  for (const char* word : {"carried", "readout"}) {
    json["dense_fusion"] = word;
    CHECK(read(json).fusion ==
          (word == std::string("readout") ? DenseFusion::readout : DenseFusion::carried));
    CHECK(DenseRetNetFamily::write(read(json)).at("dense_fusion") == word);
  }
}

TEST_CASE("widths that the factor does not divide evenly survive the way to a file and back") {
  for (Index d_model = 1; d_model <= 200; ++d_model)
    for (const Index d_value : {Index{2}, 2 * d_model + 2, 6 * d_model - 2}) {
      DenseRetNetLanguageModelConfig config = read(published);
      config.d_model = d_model;
      config.d_value = d_value;
      config.k_select_reduction = config.v_select_reduction = 1;
      CAPTURE(d_model);
      CHECK(read(DenseRetNetFamily::write(config)).d_value == d_value);
    }
}

TEST_CASE("every field is checked, and named") {
  const std::vector<std::pair<const char*, Json>> bad{
      {"model_type", "mamba"},
      {"hidden_size", 0},
      {"hidden_size", nullptr},
      {"query_key_dim", nullptr},
      {"query_key_dim", 6},  // heads of three channels do not turn in pairs
      {"num_attention_heads", 0},
      {"num_attention_heads", 3.5},
      {"num_hidden_layers", 4294967296},
      {"v_factor", 0},
      {"v_factor", "2"},
      {"v_factor", 2.0625},  // 33 channels in two heads
      {"dense_block_layers", -1},
      {"dense_block_layers", nullptr},
      {"intermediate_k_select_scale", 0},
      {"intermediate_k_select_scale", 17},
      {"intermediate_v_select_scale", true},
      {"rms_norm_eps", -1e-6},
      {"vocab_size", 0},
      {"tie_word_embeddings", 0},
      {"dropout", 1.5},
      {"dense_fusion", "both"},
      {"dense_fusion", 1},
  };
  for (const auto& [field, value] : bad) {
    const std::string message = complaint(field, value), given = value.dump();
    CAPTURE(given);
    CHECK_MESSAGE(message.starts_with("config.json: '" + std::string(field) + "' "), message);
  }
}

}  // namespace
}  // namespace ssm::test
