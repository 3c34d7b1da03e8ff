// SPDX-License-Identifier: Apache-2.0
#include "ssm/family/families.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "support/watched_heap.hpp"

namespace ssm::test {
namespace {

using Json = nlohmann::ordered_json;

std::filesystem::path folder_of(const std::string& name) {
  return std::filesystem::path(SSM_TEST_DATA) / "conformance/cases" / name;
}
const std::vector<std::string> folders{"model_h3_hybrid",       "model_h3_hybrid_rotary",
                                       "model_h3_pure_n64",     "model_attention_positions",
                                       "model_mamba_hf",        "model_mamba_original",
                                       "model_dense_mamba_m1",  "model_dense_mamba_m2",
                                       "model_retnet",          "model_dense_retnet_m1",
                                       "model_dense_retnet_m2", "model_gpt2",
                                       "model_gpt2_bare"};

std::string family_of(const JsonObject& json) {
  std::string family;
  with_family(json, [&]<class F>() { family = F::name; });
  return family;
}

/// What is wrong with a model whose config or tensors were changed; without the name of the file.
template <class Change, class Rename>
std::string complaint(const std::string& name, Change&& change, Rename&& rename) {
  Json config = Json::parse(read_text_file(folder_of(name) / "config.json", 1 << 20));
  change(config);
  const JsonObject json = parse_json(config.dump(), "config.json");
  ModelTensors tensors(folder_of(name));
  const std::string file = tensors.path_name();
  tensors.rename(rename);
  try {
    with_family(json, [&]<class F>() { require_fit<F>(json, std::move(tensors)); });
  } catch (const CheckpointError& error) {
    const std::string text = error.what();
    return text.starts_with(file) ? text.substr(file.size()) : text;
  }
  return "";
}
std::string as_it_is(std::string_view name) { return std::string(name); }
void nothing(Json&) {}

template <class Change>
std::string complaint_of_config(const std::string& name, Change&& change) {
  return complaint(name, change, as_it_is);
}
template <class Rename>
std::string complaint_of_names(const std::string& name, Rename&& rename) {
  return complaint(name, nothing, rename);
}

TEST_CASE("every checkpoint at hand has just the tensors of its config") {
  for (const std::string& name : folders) {
    CAPTURE(name);
    CHECK(complaint_of_names(name, as_it_is) == "");
  }
}

TEST_CASE("the family of every model at hand is known from its config") {
  const auto family = [](const std::string& name) {
    return family_of(read_json(folder_of(name) / "config.json"));
  };
  CHECK(family("model_h3_hybrid") == "h3");
  CHECK(family("model_h3_pure_n64") == "h3");
  CHECK(family("model_mamba_hf") == "mamba");
  CHECK(family("model_mamba_original") == "mamba");
  CHECK(family("model_dense_mamba_m2") == "dense-mamba");
  CHECK(family("model_retnet") == "retnet");
  CHECK(family("model_dense_retnet_m1") == "dense-retnet");
  CHECK(family("model_gpt2_bare") == "gpt2");
}

TEST_CASE("a model_type that no family has is named, with the families there are") {
  const JsonObject json =
      parse_json(R"({"model_type": "falcon_mamba", "d_model": 8, "n_layer": 1})", "config.json");
  CHECK_THROWS_WITH_AS(
      family_of(json),
      "config.json: describes a model of the type 'falcon_mamba'; known families are "
      "h3, mamba, mamba2, retnet, dense-retnet, dense-mamba, gpt2",
      CheckpointError);
}

TEST_CASE("every family reads what it writes, and describes it alone") {
  for_each_family([]<class F>() {
    CAPTURE(std::string(F::name));
    auto standard = F::standard();
    standard.vocab_size = 300;
    const auto config = with_options<F>(standard, {});
    const Json written = F::write(config);
    const JsonObject json = parse_json(written.dump(), "config.json");
    CHECK(F::write(F::read(json)) == written);
    CHECK(family_of(json) == F::name);
  });
}

TEST_CASE("names that training frameworks put around a model load in every family") {
  for (const std::string& name : folders) {
    for (const std::string prefix : {"_orig_mod.", "module.", "model.", "module._orig_mod."}) {
      CAPTURE(name);
      CAPTURE(prefix);
      CHECK(complaint_of_names(
                name, [&](std::string_view tensor) { return prefix + std::string(tensor); }) == "");
    }
  }
}

TEST_CASE("a backbone that is published alone loads where the head is the embedding") {
  CHECK(complaint_of_names("model_mamba_hf", [](std::string_view name) {
          return std::string(name.starts_with("backbone.") ? name.substr(9) : name);
        }) == "");
}

TEST_CASE("a decoder is found whatever modules hold it") {
  const auto under = [](const std::string& decoder, const std::string& head) {
    return complaint_of_names("model_dense_retnet_m2", [&](std::string_view name) {
      if (name == "lm_head.weight") return head + "lm_head.weight";
      return decoder + std::string(name.substr(std::string_view("model.").size()));
    });
  };
  CHECK(under("model.", "") == "");
  CHECK(under("", "") == "");
  CHECK(under("decoder.", "") == "");
  CHECK(under("transformer.model.", "transformer.") == "");
  CHECK(under("module.model.", "module.") == "");
  CHECK(under("model.", "model.") == "");
  CHECK(under("model.", "other.").starts_with(": tensor 'lm_head.weight': is missing; there are "));
}

TEST_CASE(
    "a checkpoint without an embedding, with two, or with parts elsewhere is refused by name") {
  const std::string name = "model_dense_retnet_m2";
  const std::string text = complaint_of_names(name, [](std::string_view tensor) {
    return std::string(tensor == "model.embed_tokens.weight" ? "model.wte.weight" : tensor);
  });
  CAPTURE(text);
  CHECK(
      text.starts_with(": tensor 'model.embed_tokens.weight': is missing; there are 51 tensors: "
                       "lm_head.weight, "));
  CHECK(complaint_of_names(name,
                           [](std::string_view tensor) {
                             return std::string(tensor == "model.norm.weight"
                                                    ? "encoder.embed_tokens.weight"
                                                    : tensor);
                           }) ==
        ": tensor 'model.embed_tokens.weight': is a second embedding, beside "
        "'encoder.embed_tokens.weight'");
  CHECK(complaint_of_names(name, [](std::string_view tensor) {
          return std::string(tensor == "model.norm.weight" ? "norm.weight" : tensor);
        }).starts_with(": tensor 'model.norm.weight': is missing"));
}

/// Scalars of a model of a config, counted without making it.
template <class F>
Index parameters_of(const typename F::Config& config) {
  return parameter_count(F::make(config).template zero_parameters<float>(Context<ShapesOnly>()));
}

TEST_CASE("the sizes of published models give their parameter counts, and no memory is taken") {
  largest_allocation = 0;
  const auto mamba = [](Index d_model, Index n_layer) {
    return parameters_of<MambaFamily>({.d_model = d_model,
                                       .n_layer = n_layer,
                                       .vocab_size = 50277,
                                       .pad_vocab_size_multiple = 8,
                                       .d_inner = 2 * d_model,
                                       .dt_rank = d_model / 16});
  };
  CHECK(mamba(768, 24) == 129'135'360);
  CHECK(mamba(1024, 48) == 371'516'416);
  CHECK(mamba(2560, 64) == 2'768'345'600);
  const auto h3 = [](Index d_model, Index n_layer, std::vector<Index> attention, Index heads) {
    return parameters_of<H3Family>({.d_model = d_model,
                                    .n_layer = n_layer,
                                    .d_inner = 4 * d_model,
                                    .vocab_size = 50257,
                                    .pad_vocab_size_multiple = 8,
                                    .attn_layer_idx = std::move(attention),
                                    .num_heads = heads});
  };
  CHECK(h3(768, 12, {6}, 12) == 126'387'456);
  CHECK(h3(1024, 24, {8, 16}, 16) == 361'058'304);
  CHECK(h3(2048, 24, {8, 16}, 16) == 1'326'096'384);
  CHECK(h3(2560, 32, {8, 16, 24}, 20) == 2'670'307'840);
  CHECK(h3(2560, 32, {10, 21}, 20) == 2'671'134'720);
  const auto dense = [](Index d_model, Index n_layer, Index heads, Index vocabulary, Index k,
                        Index v) {
    return parameters_of<DenseRetNetFamily>({.d_model = d_model,
                                             .n_layer = n_layer,
                                             .vocab_size = vocabulary,
                                             .num_heads = heads,
                                             .d_key = d_model / 2,
                                             .d_value = 2 * d_model,
                                             .k_select_reduction = k,
                                             .v_select_reduction = v});
  };
  CHECK(dense(1536, 16, 2, 32000, 32, 32) == 367'965'696);
  CHECK(dense(2560, 25, 4, 32000, 32, 32) == 1'334'018'560);
  CHECK(dense(1536, 16, 2, 32001, 8, 32) == 373'277'184);
  CHECK(dense(2560, 25, 4, 32001, 16, 8) == 1'387'783'680);
  CHECK(largest_allocation < 1 << 20);
}

TEST_CASE("no tensor of a family has the name of another") {
  for_each_family([]<class F>() {
    std::multiset<std::string> names;
    auto standard = F::standard();
    standard.n_layer = 2;
    const auto shapes = F::make(with_options<F>(standard, {}))
                            .template zero_parameters<float>(Context<ShapesOnly>());
    for_each_parameter([&](const ParameterSpec& spec, const auto&) { names.insert(spec.name); },
                       shapes);
    for (const std::string& name : names) CHECK_MESSAGE(names.count(name) == 1, name);
  });
}

TEST_CASE("a size that the tensors do not have is refused before memory is taken") {
  constexpr Index huge = (Index{1} << 31) - 1;
  const std::string block = ": tensor 'backbone.layers.0.mixer.";
  const auto refuses = [&](const char* field, Index value, const std::string& words) {
    largest_allocation = 0;
    const std::string text =
        complaint_of_config("model_dense_mamba_m1", [&](Json& json) { json[field] = value; });
    CAPTURE(field);
    CAPTURE(text);
    return text.starts_with(words) && largest_allocation < 1 << 20;
  };
  CHECK(refuses("hidden_size", huge, ": tensor 'backbone.embeddings.weight"));
  CHECK(refuses("vocab_size", huge, ": tensor 'backbone.embeddings.weight"));
  CHECK(refuses("num_hidden_layers", huge, "config.json: says 2147483647 layers"));
  CHECK(refuses("num_hidden_layers", 4, ": tensor 'backbone.layers.3.norm.weight': is missing"));
  CHECK(refuses("intermediate_size", 2000, block + "in_proj.weight"));
  CHECK(refuses("state_size", 100, block + "x_proj.weight"));
  CHECK(refuses("conv_kernel", 9, block + "conv1d.weight"));
  CHECK(refuses("time_step_rank", 100, block + "x_proj.weight"));
  CHECK(refuses("h_select_reduction", 2, block + "h_select.fc1.weight"));
  CHECK(refuses("num_hidden_layers", 2, ": tensor 'backbone.layers.2."));
  for (const char* field : {"intermediate_size", "state_size", "conv_kernel", "time_step_rank"})
    CHECK(refuses(field, huge, ""));
}

TEST_CASE("a head that is not tied must be there, a tied one may be") {
  const auto untie = [](Json& json) { json["tie_word_embeddings"] = false; };
  CHECK(complaint_of_config("model_mamba_hf", untie)
            .starts_with(": tensor 'lm_head.weight': is missing"));
  CHECK(complaint_of_config("model_mamba_original",
                            [](Json& json) { json["tie_embeddings"] = false; }) == "");
}

TEST_CASE("a tensor that may be absent must have its extents where it is present") {
  CHECK(complaint_of_names("model_retnet", [](std::string_view name) {
          return std::string(name == "retnet_rel_pos.angle"   ? "retnet_rel_pos.decay"
                             : name == "retnet_rel_pos.decay" ? "retnet_rel_pos.angle"
                                                              : name);
        }) == ": tensor 'retnet_rel_pos.angle': is [2], config.json says [8]");
}

TEST_CASE("a tensor that no config asks for is refused by name") {
  CHECK(complaint_of_config("model_mamba_hf", [](Json& json) { json["use_conv_bias"] = false; }) ==
        ": tensor 'backbone.layers.0.mixer.conv1d.bias': is not expected");
}

TEST_CASE("settings of a fresh model are read strictly, and one without effect is a mistake") {
  const auto said = [](const ModelOptions& given) -> std::string {
    try {
      with_options<H3Family>(H3Family::standard(), given);
    } catch (const OptionError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(said({{"width", "64"}, {"attention-layers", "1,3"}, {"heads", "2"}}) == "");
  CHECK(said({{"width", "6x"}}) == "--width: '6x' is no whole number");
  CHECK(said({{"width", "99999999999999999999"}}) ==
        "--width: '99999999999999999999' is not between 0 and 1073741824");
  CHECK(said({{"dropout", "much"}}) == "--dropout: 'much' is no number");
  CHECK(said({{"heads", "2"}}) == "--heads: has no effect without --attention-layers");
  CHECK(said({{"attention-layers", "4"}}) == "--attention-layers: 4 is not one of 4 layers");
  CHECK(said({{"attention-layers", "0"}, {"heads", "3"}}) ==
        "--heads: 3 heads do not divide a width of 128");
  CHECK(said({{"head-dim", "3"}}) == "--head-dim: 3 does not divide a width of 128");
  CHECK(said({{"sources", "2"}}) == "--sources: models of the family h3 have no such setting");
  CHECK_THROWS_AS(with_options<RetNetFamily>(RetNetFamily::standard(), {{"heads", "3"}}),
                  OptionError);
}

TEST_CASE("attention in every block is told positions") {
  const auto config = with_options<H3Family>(
      H3Family::standard(), {{"layers", "2"}, {"attention-layers", "0,1"}, {"heads", "4"}});
  CHECK(config.rotary_emb_dim == 32);
  CHECK(with_options<H3Family>(H3Family::standard(), {{"layers", "2"}, {"attention-layers", "0"}})
            .rotary_emb_dim == 0);
}

TEST_CASE("an option that a model has already is no change") {
  const auto config = with_options<H3Family>(H3Family::standard(), {{"width", "64"}});
  CHECK(!changed_option<H3Family>(config, {{"width", "64"}, {"inner", "0"}, {"inner", "256"}}));
  CHECK(changed_option<H3Family>(config, {{"layers", "4"}, {"width", "128"}}) == "width");
}

}  // namespace
}  // namespace ssm::test
