// SPDX-License-Identifier: Apache-2.0
#include "ssm/family/mamba.hpp"

#include <doctest/doctest.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/family/families.hpp"
#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

using Json = nlohmann::ordered_json;

const Json hugging_face{{"model_type", "mamba"},    {"hidden_size", 40},
                        {"num_hidden_layers", 3},   {"state_size", 8},
                        {"intermediate_size", 100}, {"expand", 2},
                        {"time_step_rank", 5},      {"conv_kernel", 3},
                        {"use_bias", false},        {"use_conv_bias", false},
                        {"hidden_act", "silu"},     {"layer_norm_epsilon", 1e-6},
                        {"residual_in_fp32", true}, {"tie_word_embeddings", false},
                        {"vocab_size", 70}};
const Json original{
    {"d_model", 40},          {"n_layer", 3},
    {"vocab_size", 50277},    {"ssm_cfg", {{"d_state", 32}, {"expand", 3}, {"dt_rank", 7}}},
    {"rms_norm", true},       {"residual_in_fp32", true},
    {"fused_add_norm", true}, {"pad_vocab_size_multiple", 8}};

MambaLanguageModelConfig read(const Json& json) {
  const JsonObject object = parse_json(json.dump(), "config.json");
  MambaLanguageModelConfig config;
  with_family(object, [&]<class F>() {
    if constexpr (std::is_same_v<typename F::Config, MambaLanguageModelConfig>)
      config = F::read(object);
  });
  return config;
}
Json write(const MambaLanguageModelConfig& config) {
  return config.dense_block_layers > 0 ? DenseMambaFamily::write(config)
                                       : MambaFamily::write(config);
}
/// What is said where `field`, or `part`.`field`, is `value`; null removes it.
std::string complaint(Json json, const std::string& field, const Json& value,
                      const std::string& part = "") {
  (part.empty() ? json : json[part])[field] = value;
  try {
    read(json);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("every size is read from Hugging Face's fields") {
  const MambaLanguageModelConfig config = read(hugging_face);
  CHECK(config.d_model == 40);
  CHECK(config.n_layer == 3);
  CHECK(config.vocab_size == 70);
  CHECK(config.padded_vocabulary() == 70);
  CHECK(config.d_inner == 100);
  CHECK(config.d_state == 8);
  CHECK(config.d_conv == 3);
  CHECK(config.dt_rank == 5);
  CHECK(!config.has_bias);
  CHECK(!config.has_conv_bias);
  CHECK(!config.has_tied_head);
  CHECK(config.norm_epsilon == 1e-6);
  CHECK(config.dense_block_layers == 0);
}

TEST_CASE("what Hugging Face's config leaves out is as its code has it") {
  const MambaLanguageModelConfig config = read(
      {{"model_type", "mamba"}, {"hidden_size", 40}, {"num_hidden_layers", 3}, {"vocab_size", 9}});
  CHECK(config.d_inner == 80);
  CHECK(config.d_state == 16);
  CHECK(config.d_conv == 4);
  CHECK(config.dt_rank == 3);  // the width's sixteenth, rounded up
  CHECK(!config.has_bias);
  CHECK(config.has_conv_bias);
  CHECK(config.has_tied_head);
  CHECK(config.norm_epsilon == 1e-5);
}

TEST_CASE("every size is read from the published constructor's fields") {
  const MambaLanguageModelConfig config = read(original);
  CHECK(config.d_model == 40);
  CHECK(config.n_layer == 3);
  CHECK(config.vocab_size == 50277);
  CHECK(config.padded_vocabulary() == 50280);
  CHECK(config.d_inner == 120);
  CHECK(config.d_state == 32);
  CHECK(config.d_conv == 4);
  CHECK(config.dt_rank == 7);
  CHECK(!config.has_bias);
  CHECK(config.has_conv_bias);
  CHECK(config.has_tied_head);
}

TEST_CASE("the fields that a conversion left behind do not count") {
  Json json = hugging_face;
  json["d_model"] = 1;
  json["pad_vocab_size_multiple"] = 8;
  json["ssm_cfg"] = Json::object();
  CHECK(read(json).d_model == 40);
  CHECK(read(json).padded_vocabulary() == 70);
}

TEST_CASE("a rank that is automatic follows the width in both forms") {
  Json json = hugging_face;
  json["time_step_rank"] = "auto";
  CHECK(read(json).dt_rank == 3);
  json = original;
  json["ssm_cfg"]["dt_rank"] = "auto";
  CHECK(read(json).dt_rank == 3);
}

TEST_CASE("dense connections are read where the type says so") {
  Json json = hugging_face;
  json["dense_block_layers"] = 2;
  CHECK(read(json).dense_block_layers == 0);
  json["model_type"] = "dense_mamba";
  json["h_select_reduction"] = 4;
  CHECK(read(json).fusion == DenseFusion::readout);
  CHECK(complaint(json, "dense_fusion", "both").find("dense_fusion") != std::string::npos);
  json["dense_fusion"] = "carried";
  CHECK(read(json).fusion == DenseFusion::carried);
  CHECK(read(json).dense_block_layers == 2);
  CHECK(read(json).h_select_reduction == 4);
  CHECK(complaint(json, "h_select_reduction", 41).find("h_select_reduction") != std::string::npos);
  CHECK(complaint(json, "dense_block_layers", 0).find("dense_block_layers") != std::string::npos);
  json.erase("dense_block_layers");
  CHECK_THROWS_AS(read(json), CheckpointError);
}

TEST_CASE("a config that is written is read as it was") {
  for (const Index dense : {0, 2}) {
    MambaLanguageModelConfig config = read(hugging_face);
    config.dense_block_layers = dense;
    config.fusion = DenseFusion::carried;
    config.dt_min = 0.002;
    const Json json = write(config);
    CHECK(write(read(json)) == json);
    CHECK(read(json).dense_block_layers == dense);
    CHECK((read(json).fusion == DenseFusion::carried) == (dense > 0));
    CHECK(read(json).dt_min == 0.002);
    CHECK(json["expand"] ==
          2);  // transformers takes integers alone, and the width of intermediate_size
    CHECK(read(json).d_inner == 100);
  }
}

TEST_CASE("tokens that may occur and rows of padding are both written and read") {
  const MambaLanguageModelConfig config = read(original);
  const Json json = write(config);
  CHECK(json["vocab_size"] == 50280);
  CHECK(read(json).vocab_size == 50277);
  CHECK(read(json).padded_vocabulary() == 50280);
  CHECK(complaint(json, "unpadded_vocab_size", 50281).find("unpadded_vocab_size") !=
        std::string::npos);
}

TEST_CASE(
    "settings of training in a config are read, and what would change the numbers is refused") {
  Json json = hugging_face;
  json["embed_dropout"] = 0.25;
  json["initializer_range"] = 0.1;
  CHECK(read(json).embed_dropout == 0.25);
  CHECK(read(json).initializer_range == 0.1);
  CHECK(write(read(json))["embed_dropout"] == 0.25);
  CHECK(complaint(hugging_face, "time_step_scale", 2).find("time_step_scale") != std::string::npos);
  CHECK(complaint(original, "dt_scale", 2, "ssm_cfg").find("ssm_cfg.dt_scale") !=
        std::string::npos);
  CHECK(complaint(original, "unheard_of", 2, "ssm_cfg").find("ssm_cfg.unheard_of") !=
        std::string::npos);
}

TEST_CASE("every field is checked, and named") {
  const std::vector<std::pair<const char*, Json>> bad{
      {"hidden_size", 0},
      {"hidden_size", nullptr},
      {"hidden_size", "40"},
      {"hidden_size", 40.5},
      {"hidden_size", 18446744073709551615U},
      {"num_hidden_layers", -1},
      {"vocab_size", 1e30},
      {"intermediate_size", 0},
      {"state_size", Json::array()},
      {"conv_kernel", 0},
      {"time_step_rank", "automatic"},
      {"time_step_rank", 0},
      {"time_step_max", 1e-9},
      {"time_step_min", 0},
      {"use_bias", 1},
      {"use_conv_bias", "true"},
      {"tie_word_embeddings", 0},
      {"layer_norm_epsilon", -1},
      {"hidden_act", "gelu"},
      {"model_type", 3},
  };
  for (const auto& [field, value] : bad) {
    const std::string message = complaint(hugging_face, field, value), given = value.dump();
    CAPTURE(given);
    CHECK_MESSAGE(message.starts_with("config.json: '" + std::string(field) + "' "), message);
  }
  Json json = hugging_face;
  json.erase("intermediate_size");
  CHECK(complaint(json, "expand", 0).find("'expand'") != std::string::npos);
  CHECK(complaint(json, "expand", 0.001).find("'expand'") != std::string::npos);
}

TEST_CASE("an original config that asks for another function is refused") {
  CHECK(complaint(original, "rms_norm", false).find("'rms_norm'") != std::string::npos);
  CHECK(complaint(original, "d_intermediate", 64).find("'d_intermediate'") != std::string::npos);
  CHECK(complaint(original, "attn_layer_idx", Json::array({1})).find("'attn_layer_idx'") !=
        std::string::npos);
  CHECK(complaint(original, "attn_layer_idx", Json::array()).empty());
  CHECK(complaint(original, "ssm_cfg", 3).find("'ssm_cfg'") != std::string::npos);
  CHECK(complaint(original, "layer", "Mamba3", "ssm_cfg").find("'ssm_cfg.layer'") !=
        std::string::npos);
  CHECK(complaint(original, "expand", -1, "ssm_cfg").find("'ssm_cfg.expand'") != std::string::npos);
  CHECK(complaint(original, "dt_rank", 1.5, "ssm_cfg").find("'ssm_cfg.dt_rank'") !=
        std::string::npos);
  CHECK(complaint(original, "pad_vocab_size_multiple", 0).find("'pad_vocab_size_multiple'") !=
        std::string::npos);
}

TEST_CASE("a config is read from its file") {
  const TemporaryFolder folder;
  write_text(folder / "config.json", hugging_face.dump());
  CHECK(MambaFamily::read(read_json(folder / "config.json")).d_model == 40);
}

}  // namespace
}  // namespace ssm::test
