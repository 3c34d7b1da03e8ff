// SPDX-License-Identifier: Apache-2.0
#include "ssm/family/mamba2.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/family/families.hpp"

namespace ssm::test {
namespace {

using Json = nlohmann::ordered_json;

const Json hugging_face{{"model_type", "mamba2"},
                        {"hidden_size", 40},
                        {"num_hidden_layers", 3},
                        {"state_size", 8},
                        {"num_heads", 12},
                        {"head_dim", 10},
                        {"n_groups", 4},
                        {"expand", 3},
                        {"conv_kernel", 3},
                        {"use_bias", true},
                        {"use_conv_bias", false},
                        {"hidden_act", "silu"},
                        {"layer_norm_epsilon", 1e-6},
                        {"time_step_limit", {0.01, 0.5}},
                        {"chunk_size", 64},
                        {"residual_in_fp32", true},
                        {"norm_before_gate", true},
                        {"rms_norm", true},
                        {"tie_word_embeddings", true},
                        {"vocab_size", 70}};
const Json original{{"d_model", 64},
                    {"d_intermediate", 0},
                    {"n_layer", 3},
                    {"vocab_size", 50277},
                    {"ssm_cfg",
                     {{"layer", "Mamba2"},
                      {"d_state", 32},
                      {"expand", 3},
                      {"headdim", 32},
                      {"ngroups", 2},
                      {"chunk_size", 128},
                      {"rmsnorm", true},
                      {"norm_before_gate", false},
                      {"D_has_hdim", false},
                      {"A_init_range", {2, 8}},
                      {"dt_limit", {0.0, 0.25}}}},
                    {"attn_layer_idx", Json::array()},
                    {"rms_norm", true},
                    {"residual_in_fp32", true},
                    {"fused_add_norm", true},
                    {"pad_vocab_size_multiple", 16}};

Mamba2LanguageModelConfig read(const Json& json) {
  const JsonObject object = parse_json(json.dump(), "config.json");
  Mamba2LanguageModelConfig config;
  bool known = false;
  with_family(object, [&]<class F>() {
    if constexpr (std::is_same_v<typename F::Config, Mamba2LanguageModelConfig>) {
      config = F::read(object);
      known = true;
    }
  });
  CHECK(known);
  return config;
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
  const Mamba2LanguageModelConfig config = read(hugging_face);
  CHECK(config.d_model == 40);
  CHECK(config.n_layer == 3);
  CHECK(config.vocab_size == 70);
  CHECK(config.padded_vocabulary() == 70);
  CHECK(config.d_inner == 120);
  CHECK(config.head_dim == 10);
  CHECK(config.n_groups == 4);
  CHECK(config.d_state == 8);
  CHECK(config.d_conv == 3);
  CHECK(config.has_bias);
  CHECK(!config.has_conv_bias);
  CHECK(config.has_tied_head);
  CHECK(config.norm_epsilon == 1e-6);
  CHECK(config.dt_limit_min == 0.01);
  CHECK(config.dt_limit_max == 0.5);
}

TEST_CASE("what Hugging Face's config leaves out is as its code has it") {
  const Mamba2LanguageModelConfig config = read({{"model_type", "mamba2"},
                                                 {"hidden_size", 256},
                                                 {"num_hidden_layers", 3},
                                                 {"vocab_size", 9}});
  CHECK(config.d_inner == 512);
  CHECK(config.head_dim == 64);
  CHECK(config.n_groups == 8);
  CHECK(config.d_state == 128);
  CHECK(config.d_conv == 4);
  CHECK(!config.has_bias);
  CHECK(config.has_conv_bias);
  CHECK(!config.has_tied_head);
  CHECK(config.norm_epsilon == 1e-5);
  CHECK(config.initializer_range == 0.1);
  CHECK(config.dt_limit_min == 0);
  CHECK(std::isinf(config.dt_limit_max));
}

TEST_CASE("every size is read from the published constructor's fields") {
  const Mamba2LanguageModelConfig config = read(original);
  CHECK(config.d_model == 64);
  CHECK(config.n_layer == 3);
  CHECK(config.vocab_size == 50277);
  CHECK(config.padded_vocabulary() == 50288);
  CHECK(config.d_inner == 192);
  CHECK(config.head_dim == 32);
  CHECK(config.n_groups == 2);
  CHECK(config.d_state == 32);
  CHECK(config.d_conv == 4);
  CHECK(!config.has_bias);
  CHECK(config.has_conv_bias);
  CHECK(config.has_tied_head);
  CHECK(config.A_min == 2);
  CHECK(config.A_max == 8);
  CHECK(config.dt_limit_min == 0);
  CHECK(config.dt_limit_max == 0.25);
}

TEST_CASE("what the published constructor leaves out is as its code has it") {
  Json json = original;
  json["ssm_cfg"] = {{"layer", "Mamba2"}};
  const Mamba2LanguageModelConfig config = read(json);
  CHECK(config.d_inner == 128);
  CHECK(config.head_dim == 64);
  CHECK(config.n_groups == 1);
  CHECK(config.d_state == 128);
  CHECK(config.A_min == 1);
  CHECK(config.A_max == 16);
  CHECK(std::isinf(config.dt_limit_max));
}

TEST_CASE("Mamba's and Mamba-2's folders are told apart in both forms") {
  const auto family = [](const Json& json) {
    std::string name;
    with_family(parse_json(json.dump(), "config.json"), [&]<class F>() { name = F::name; });
    return name;
  };
  CHECK(family(hugging_face) == "mamba2");
  CHECK(family(original) == "mamba2");
  Json json = hugging_face;
  json["model_type"] = "mamba";
  CHECK(family(json) == "mamba");
  json = original;
  json["ssm_cfg"]["layer"] = "Mamba1";
  CHECK(family(json) == "mamba");
  json["ssm_cfg"].erase("layer");
  CHECK(family(json) == "mamba");
}

TEST_CASE("the width of the heads is their number times theirs, or follows from expand") {
  Json json = hugging_face;
  CHECK(complaint(json, "expand", 2) ==
        "config.json: 'expand' gives 80 channels, but num_heads · head_dim is 120");
  json.erase("expand");
  CHECK(read(json).d_inner == 120);
  json.erase("num_heads");
  CHECK(read(json).d_inner == 80);
}

TEST_CASE("limits without an upper bound are read in every form that programs write") {
  Json json = hugging_face;
  json["time_step_limit"] = {0.5, {{"__float__", "Infinity"}}};
  CHECK(read(json).dt_limit_min == 0.5);
  CHECK(std::isinf(read(json).dt_limit_max));
  json.erase("time_step_limit");
  std::string text = json.dump();
  text.back() = ',';
  const JsonObject bare =
      parse_json(text + R"("time_step_limit": [0.5, Infinity]})", "config.json");
  CHECK(Mamba2Family::read(bare).dt_limit_min == 0.5);
  CHECK(std::isinf(Mamba2Family::read(bare).dt_limit_max));
}

TEST_CASE("a config that is written is read as it was") {
  for (const Json& from : {hugging_face, original}) {
    Mamba2LanguageModelConfig config = read(from);
    config.dt_min = 0.002;
    config.embed_dropout = 0.25;
    for (const double limit : {config.dt_limit_max, HUGE_VAL}) {
      config.dt_limit_max = limit;
      const Json json = Mamba2Family::write(config);
      const Mamba2LanguageModelConfig again = read(json);
      CHECK(Mamba2Family::write(again) == json);
      CHECK(again.vocab_size == config.vocab_size);
      CHECK(again.padded_vocabulary() == config.padded_vocabulary());
      CHECK(again.d_inner == config.d_inner);
      CHECK(again.head_dim == config.head_dim);
      CHECK(again.n_groups == config.n_groups);
      CHECK(again.dt_limit_min == config.dt_limit_min);
      CHECK(again.dt_limit_max == limit);
      CHECK(again.dt_min == 0.002);
      CHECK(again.embed_dropout == 0.25);
      CHECK(again.initializer_range == config.initializer_range);
      CHECK(again.A_min == config.A_min);
      CHECK(again.A_max == config.A_max);
      CHECK(again.has_tied_head == config.has_tied_head);
      CHECK(json["expand"] == 3);
    }
  }
  Mamba2LanguageModelConfig config = read(hugging_face);
  config.d_inner = 100;  // no multiple of the width
  CHECK(read(Mamba2Family::write(config)).d_inner == 100);
}

TEST_CASE("every field is checked, and named") {
  const std::vector<std::pair<const char*, Json>> bad{
      {"hidden_size", 0},
      {"hidden_size", nullptr},
      {"num_hidden_layers", -1},
      {"vocab_size", 1e30},
      {"num_heads", 0},
      {"num_heads", 2147483647},
      {"num_heads", "12"},
      {"head_dim", 0},
      {"n_groups", 0},
      {"n_groups", 1.5},
      {"state_size", Json::array()},
      {"conv_kernel", 0},
      {"expand", 0},
      {"rms_norm", false},
      {"hidden_act", "gelu"},
      {"use_bias", 1},
      {"tie_word_embeddings", 0},
      {"layer_norm_epsilon", -1},
      {"time_step_min", 0},
      {"time_step_max", 1e-9},
      {"time_step_limit", 0.5},
      {"time_step_limit", {0.5}},
      {"time_step_limit", {0.5, "Infinity"}},
      {"time_step_limit", {0.5, nullptr}},
      {"time_step_limit", {0.5, 0.25}},
      {"time_step_limit", {-1, 0.25}},
      {"time_step_limit", {0, 1, 2}},
      {"A_init_range", {0, 1}},
      {"A_init_range", {1, {{"__float__", "Infinity"}}}},
  };
  for (const auto& [field, value] : bad) {
    const std::string message = complaint(hugging_face, field, value);
    const std::string text = value.dump();  // clang 14 captures no binding
    CAPTURE(text);
    CHECK_MESSAGE(message.starts_with("config.json: '" + std::string(field) + "' "), message);
  }
}

TEST_CASE("an original config that asks for another function is refused") {
  CHECK(complaint(original, "rms_norm", false).find("'rms_norm'") != std::string::npos);
  CHECK(complaint(original, "d_intermediate", 64).find("'d_intermediate'") != std::string::npos);
  CHECK(complaint(original, "attn_layer_idx", Json::array({1})).find("'attn_layer_idx'") !=
        std::string::npos);
  const std::vector<std::pair<const char*, Json>> bad{
      {"rmsnorm", false},    {"norm_before_gate", true},
      {"D_has_hdim", true},  {"d_ssm", 64},
      {"headdim", 0},        {"ngroups", 0},
      {"expand", -1},        {"dt_limit", {1, 0}},
      {"dt_limit", "none"},  {"A_init_range", {2, 1}},
      {"conv_init", 0.1},    {"unheard_of", 2},
      {"dt_init", "random"},
  };
  for (const auto& [field, value] : bad) {
    const std::string message = complaint(original, field, value, "ssm_cfg");
    const std::string text = value.dump();  // clang 14 captures no binding
    CAPTURE(text);
    CHECK_MESSAGE(message.starts_with("config.json: 'ssm_cfg." + std::string(field) + "' "),
                  message);
  }
  CHECK(complaint(original, "d_ssm", 192, "ssm_cfg").empty());
  CHECK(complaint(original, "conv_init", nullptr, "ssm_cfg").empty());
}

TEST_CASE("a fresh model's heads and groups must come out even, and the option says so") {
  const auto made = [](const ModelOptions& given) {
    return with_options<Mamba2Family>(Mamba2Family::standard(), given);
  };
  CHECK(made({}).d_inner == 256);
  CHECK(made({}).head_dim == 64);
  CHECK(made({{"width", "20"}}).head_dim == 8);
  CHECK(made({{"inner", "96"}, {"head-dim", "16"}, {"groups", "3"}}).n_groups == 3);
  const auto says = [&](const ModelOptions& given) {
    try {
      made(given);
    } catch (const OptionError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(says({{"head-dim", "48"}}) == "--head-dim: 48 does not divide 256 channels of scans");
  CHECK(says({{"groups", "3"}}) == "--groups: 3 groups do not divide 4 heads");
  CHECK(says({{"groups", "0"}}).starts_with("--groups: "));
  CHECK(says({{"state", "0"}}).starts_with("--state: "));
}

TEST_CASE("the sizes of published models give their parameter counts") {
  const auto of = [](Index d_model, Index n_layer) {
    Json json{{"d_model", d_model},
              {"n_layer", n_layer},
              {"vocab_size", 50277},
              {"ssm_cfg", {{"layer", "Mamba2"}}},
              {"pad_vocab_size_multiple", 16}};
    return parameter_count(
        Mamba2Family::make(read(json)).zero_parameters<float>(Context<ShapesOnly>()));
  };
  CHECK(of(768, 24) == 128'989'632);
  CHECK(of(2560, 64) == 2'702'599'680);
}

}  // namespace
}  // namespace ssm::test
