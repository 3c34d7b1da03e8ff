// SPDX-License-Identifier: Apache-2.0
#include "ssm/family/h3.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "ssm/backend/reference.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/family/families.hpp"
#include "support/temporary_folder.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

using Json = nlohmann::ordered_json;

const H3LanguageModelConfig sizes{.d_model = 8,
                                  .n_layer = 3,
                                  .d_inner = 12,
                                  .vocab_size = 9,
                                  .pad_vocab_size_multiple = 4,
                                  .d_state = 6,
                                  .head_dim = 2,
                                  .max_position_embeddings = 16,
                                  .attn_layer_idx = {1},
                                  .num_heads = 2,
                                  .rotary_emb_dim = 4,
                                  .layer_norm_epsilon = 1e-6,
                                  .embed_dropout = 0.1};

/// A folder with a small hybrid model.
struct SavedModel {
  SavedModel() { save_language_model<H3Family>(folder.path(), sizes, model.parameters); }

  void change_config(const std::function<void(Json&)>& change) {
    Json json = Json::parse(file_text(folder / "config.json"));
    change(json);
    write_text(folder / "config.json", json.dump());
  }
  /// Saves the weights again, with what `change` adds.
  void change_weights(const std::function<void(SafetensorsWriter&)>& change) {
    SafetensorsWriter writer(folder / "model.safetensors");
    save_parameters(writer, model.parameters);
    change(writer);
    writer.finish();
  }
  std::string complaint() {
    try {
      load_language_model<H3Family>(ctx, folder.path());
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  }
  bool complains_of(const std::string& words) {
    CAPTURE(words);
    const std::string text = complaint();
    CAPTURE(text);
    return text.find(words) != std::string::npos && text.find(folder.path().string()) == 0;
  }

  TemporaryFolder folder;
  Context<Reference> ctx;
  Model<H3LanguageModel::Parameters<float>> model = tiny_model<float>(sizes);
};

TEST_CASE("a saved model loads bit for bit, with all its sizes") {
  SavedModel saved;
  const auto loaded = load_language_model<H3Family>(saved.ctx, saved.folder.path());
  CHECK(distance(loaded.parameters, saved.model.parameters) == 0);
  const H3LanguageModelConfig config = H3Family::read(read_json(saved.folder / "config.json"));
  CHECK(H3Family::write(config) == H3Family::write(sizes));
  CHECK(config.layer_norm_epsilon == 1e-6);
  CHECK(config.embed_dropout == 0.1);
}

TEST_CASE("weights in single precision load into double and back without loss") {
  SavedModel saved;
  const auto loaded = load_language_model<H3Family, double>(saved.ctx, saved.folder.path());
  save_language_model<H3Family>(saved.folder.path(), sizes, loaded.parameters);
  const auto again = load_language_model<H3Family, float>(saved.ctx, saved.folder.path());
  CHECK(distance(again.parameters, saved.model.parameters) == 0);
}

TEST_CASE("a model in two files with an index loads bit for bit") {
  SavedModel saved;
  SafetensorsWriter first(saved.folder / "first.safetensors");
  SafetensorsWriter second(saved.folder / "second.safetensors");
  Json map;
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto& tensor) {
        const bool is_second = spec.name.find("mixer") != std::string::npos;
        map[spec.name] = is_second ? "second.safetensors" : "first.safetensors";
        (is_second ? second : first).add(spec.name, tensor);
      },
      saved.model.parameters);
  first.finish();
  second.finish();
  std::filesystem::remove(saved.folder / "model.safetensors");
  write_text(saved.folder / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  CHECK(distance(load_language_model<H3Family>(saved.ctx, saved.folder.path()).parameters,
                 saved.model.parameters) == 0);
  std::filesystem::remove(saved.folder / "second.safetensors");
  CHECK(saved.complains_of("'second.safetensors', which does not exist"));
}

/// The names that the oldest published files have: other words, a norm before all blocks, and each
/// block's norms behind its mixers.
std::string oldest_name(std::string name) {
  const auto replace = [&](const std::string& now, const std::string& old) {
    if (name.starts_with(now)) name = old + name.substr(now.size());
  };
  replace("backbone.layers.0.norm1.", "backbone.norm.");
  for (int layer = 0; layer < 3; ++layer) {
    const std::string block = "backbone.layers." + std::to_string(layer);
    replace(block + ".norm2.", block + ".OLD1.");
    if (layer > 0)
      replace(block + ".norm1.", "backbone.layers." + std::to_string(layer - 1) + ".OLD2.");
  }
  replace("backbone.ln_f.", "backbone.layers.2.OLD2.");
  if (const auto at = name.find("OLD"); at != std::string::npos) name.replace(at, 3, "norm");
  replace("backbone.embeddings.word_embeddings.", "embedding.");
  replace("backbone.layers.", "s4seq.encoder.layers.");
  return name;
}

TEST_CASE("the oldest names load, their norms moved on by half a block") {
  SavedModel saved;
  SafetensorsWriter writer(saved.folder / "model.safetensors");
  for_each_parameter(
      [&](const ParameterSpec& spec, auto& tensor) {
        // Norms begin alike, and a mistaken one must show.
        if (spec.role == ParameterRole::norm)
          fill_normal(tensor, Seed{5}.fork(spec.name), 0.0, 1.0);
        writer.add("model." + oldest_name(spec.name), tensor);
      },
      saved.model.parameters);
  writer.finish();
  const std::string complaint = saved.complaint();
  CAPTURE(complaint);
  REQUIRE(complaint.empty());
  CHECK(distance(load_language_model<H3Family>(saved.ctx, saved.folder.path()).parameters,
                 saved.model.parameters) == 0);
}

TEST_CASE("tensors that follow from others may be there or not") {
  SavedModel saved;
  DynamicTensor<float, 1> frequencies({2});
  saved.change_weights([&](SafetensorsWriter& writer) {
    writer.add("lm_head.weight", saved.model.parameters.embedding);
    writer.add("backbone.layers.1.mixer.rotary_emb.inv_freq", frequencies);
  });
  CHECK(saved.complaint().empty());
}

TEST_CASE("a head that differs from the embedding is refused") {
  SavedModel saved;
  auto head = saved.model.parameters.embedding.clone();
  head(3, 4) += 1;
  saved.change_weights([&](SafetensorsWriter& writer) { writer.add("lm_head.weight", head); });
  CHECK(saved.complains_of("lm_head.weight"));
}

TEST_CASE("a tensor that does not belong to the model is refused by name") {
  SavedModel saved;
  DynamicTensor<float, 1> stray({2});
  saved.change_weights([&](SafetensorsWriter& writer) { writer.add("backbone.stray", stray); });
  CHECK(saved.complains_of("backbone.stray"));
}

TEST_CASE("a tensor that is missing is named") {
  SavedModel saved;
  SafetensorsWriter writer(saved.folder / "model.safetensors");
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto& tensor) {
        if (spec.name != "backbone.layers.2.mlp.fc2.bias") writer.add(spec.name, tensor);
      },
      saved.model.parameters);
  writer.finish();
  CHECK(saved.complains_of("backbone.layers.2.mlp.fc2.bias"));
}

TEST_CASE("sizes of the config that the weights do not have are refused before memory is taken") {
  for (const auto& bad :
       std::initializer_list<std::pair<const char*, int>>{{"d_model", 1 << 30},
                                                          {"d_inner", 1 << 30},
                                                          {"n_layer", 1 << 30},
                                                          {"vocab_size", 1 << 30},
                                                          {"max_position_embeddings", 1 << 30}}) {
    SavedModel saved;
    saved.change_config([&](Json& json) { json[bad.first] = bad.second; });
    CAPTURE(bad.first);
    CHECK(saved.complains_of(""));
  }
  SavedModel saved;
  saved.change_config([](Json& json) { json["ssm_cfg"]["d_state"] = 1 << 30; });
  CHECK(saved.complains_of("model.safetensors"));
}

TEST_CASE("every field of the config is checked") {
  const std::initializer_list<std::pair<const char*, Json>> bad{{"d_model", 0},
                                                                {"d_model", -8},
                                                                {"d_model", "8"},
                                                                {"d_model", 8.5},
                                                                {"n_layer", nullptr},
                                                                {"vocab_size", 1e30},
                                                                {"d_inner", Json::array()},
                                                                {"pad_vocab_size_multiple", 0},
                                                                {"layer_norm_epsilon", -1},
                                                                {"layer_norm_epsilon", "x"},
                                                                {"embed_dropout", 1.5},
                                                                {"ssm_cfg", 3},
                                                                {"attn_layer_idx", 1},
                                                                {"attn_layer_idx", {3}},
                                                                {"attn_layer_idx", {-1}},
                                                                {"attn_cfg", nullptr},
                                                                {"d_model", 18446744073709551615U}};
  for (const auto& entry : bad) {
    SavedModel saved;
    saved.change_config([&](Json& json) { json[entry.first] = entry.second; });
    CAPTURE(entry.first);
    CAPTURE(entry.second.dump());
    CHECK(saved.complains_of("config.json"));
  }
}

TEST_CASE("a config that asks for another function is refused") {
  const auto refused = [](const char* part, const char* field, const Json& value) {
    SavedModel saved;
    saved.change_config([&](Json& json) { json[part][field] = value; });
    return saved.complains_of("config.json") && saved.complains_of(field);
  };
  CHECK(refused("ssm_cfg", "mode", "nplr"));
  CHECK(refused("ssm_cfg", "measure", "legt"));
  CHECK(refused("ssm_cfg", "disc", "dss"));
  CHECK(refused("ssm_cfg", "bandlimit", 1.0));
  CHECK(refused("ssm_cfg", "force_real", true));
  CHECK(refused("ssm_cfg", "real_type", "relu"));
  CHECK(refused("ssm_cfg", "n_ssm", 3));
  CHECK(refused("ssm_cfg", "lr", 0.001));
  CHECK(refused("ssm_cfg", "dt_max", 1e-9));
  CHECK(refused("attn_cfg", "causal", false));
  CHECK(refused("attn_cfg", "softmax_scale", 0.5));
  CHECK(refused("attn_cfg", "num_heads", 0));
}

TEST_CASE("every setting that the published code has for the SSMs is used or refused") {
  SavedModel saved;
  saved.change_config([](Json& json) {
    json["resid_dropout"] = 0.2;
    json["ssm_cfg"] = {{"mode", "diag"},       {"measure", "diag-inverse"},
                       {"d_state", 6},         {"head_dim", 2},
                       {"disc", "zoh"},        {"dt_min", 0.01},
                       {"dt_max", 0.5},        {"n_ssm", 4},
                       {"bandlimit", nullptr}, {"real_type", "exp"}};
  });
  const H3LanguageModelConfig config = H3Family::read(read_json(saved.folder / "config.json"));
  CHECK(config.resid_dropout == 0.2);
  CHECK(config.measure == DiagonalMeasure::inv);
  CHECK(config.discretization == Discretization::zero_order_hold);
  CHECK(config.dt_min == 0.01);
  CHECK(config.dt_max == 0.5);
  CHECK(saved.complaint().empty());
  // The discretization changes the numbers.
  const auto logits_of = [&] {
    const auto loaded = load_language_model<H3Family>(saved.ctx, saved.folder.path());
    DynamicTensor<Token, 2> tokens({1, 5});
    for (Index t = 0; t < 5; ++t) tokens(0, t) = static_cast<Token>(t);
    DynamicTensor<float, 3> logits({1, 5, loaded.layer.padded_vocabulary()});
    loaded.layer.forward(saved.ctx, loaded.parameters, tokens, logits);
    return logits;
  };
  const auto held = logits_of();
  saved.change_config([](Json& json) { json["ssm_cfg"]["disc"] = "bilinear"; });
  CHECK(largest_difference(held, logits_of()).value > 0);
}

TEST_CASE("every published word for a measure is read, and the first of each is written") {
  const std::initializer_list<std::pair<const char*, const char*>> words{
      {"diag-lin", "diag-lin"},     {"diag-linear", "diag-lin"},     {"diag-inv", "diag-inv"},
      {"diag-inverse", "diag-inv"}, {"diag-inv2", "diag-inv2"},      {"diag-inverse2", "diag-inv2"},
      {"diag-quad", "diag-quad"},   {"diag-quadratic", "diag-quad"}, {"diag-legs", "diag-legs"},
      {"diag-real", "diag-real"},   {"diag-random", "diag-random"},  {"diag-rand", "diag-random"}};
  for (const auto& [read, written] : words) {
    Json json = H3Family::write(sizes);
    json["ssm_cfg"]["measure"] = read;
    const auto config = H3Family::read(parse_json(json.dump(), "config.json"));
    CHECK(H3Family::write(config)["ssm_cfg"]["measure"] == written);
  }
}

TEST_CASE("an H3 config without d_inner is told what it lacks, not taken for another family") {
  Json json = H3Family::write(sizes);
  json.erase("d_inner");
  const JsonObject object = parse_json(json.dump(), "config.json");
  std::string family;
  with_family(object, [&]<class F>() { family = F::name; });
  CHECK(family == "h3");
  CHECK_THROWS_WITH_AS(H3Family::read(object), "config.json: 'd_inner' is missing",
                       CheckpointError);
}

TEST_CASE("sizes that do not fit together are refused in the config's name") {
  SavedModel saved;
  saved.change_config([](Json& json) { json["attn_cfg"]["num_heads"] = 3; });
  CHECK(saved.complains_of("config.json"));
}

TEST_CASE("a config that is no JSON, is cut off, or nested without end is refused") {
  SavedModel saved;
  for (const std::string& text :
       {std::string(), std::string("{\"d_model\": 8"), std::string("[]"), std::string(100000, '['),
        std::string("{\"a\":") + std::string(100000, '[')}) {
    write_text(saved.folder / "config.json", text);
    CHECK(saved.complains_of("config.json"));
  }
}

TEST_CASE("a folder without its files is refused") {
  SavedModel saved;
  std::filesystem::remove(saved.folder / "model.safetensors");
  CHECK(saved.complains_of("model.safetensors"));
  std::filesystem::remove(saved.folder / "config.json");
  CHECK(saved.complains_of("config.json"));
}

}  // namespace
}  // namespace ssm::test
