// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/expected_tensors.hpp"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

#include "ssm/io/dense_retnet_tensors.hpp"
#include "ssm/io/h3_tensors.hpp"
#include "ssm/io/mamba_tensors.hpp"
#include "ssm/io/model_family.hpp"
#include "ssm/io/retnet_tensors.hpp"
#include "support/largest_allocation.hpp"

namespace ssm::test {
namespace {

std::filesystem::path model(const std::string& name) {
  return std::filesystem::path(SSM_TEST_DATA) / "conformance/cases" / name;
}
void check_mamba(const ModelTensors& tensors, const MambaLanguageModelConfig& config) {
  require_tensors(tensors, [&](auto&& visit) { for_each_mamba_tensor(config, visit); });
}
void check_retnet(const ModelTensors& tensors, const RetNetLanguageModelConfig& config) {
  require_tensors(tensors, [&](auto&& visit) { for_each_retnet_tensor(config, visit); });
}
void check_dense_retnet(const ModelTensors& tensors, const DenseRetNetLanguageModelConfig& config) {
  require_tensors(tensors, [&](auto&& visit) { for_each_dense_retnet_tensor(config, visit); });
}

struct MambaFolder {
  explicit MambaFolder(const std::string& name)
      : tensors(model(name)), config(read_mamba_config(model(name) / "config.json")) {
    use_mamba_names(tensors);
  }
  std::string complaint() const {
    try {
      check_mamba(tensors, config);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  }
  bool complains_of(const std::string& words) const {
    const std::string message = complaint();
    CAPTURE(message);
    return message.starts_with(tensors.path_name() + ": tensor '" + words);
  }

  ModelTensors tensors;
  MambaLanguageModelConfig config;
};

/// Counted from the lists of names and shapes; tensors that may be absent do not count.
template <class ForEach>
Index expected_parameters(ForEach&& for_each) {
  Index count = 0;
  for_each([&](const ExpectedTensor& tensor) {
    if (!tensor.may_be_absent) count += detail::checked_size(tensor.shape);
  });
  return count;
}
Index parameters_of(const MambaLanguageModelConfig& config) {
  return expected_parameters([&](auto&& visit) { for_each_mamba_tensor(config, visit); });
}
Index parameters_of(const DenseRetNetLanguageModelConfig& config) {
  return expected_parameters([&](auto&& visit) { for_each_dense_retnet_tensor(config, visit); });
}

TEST_CASE("every H3 checkpoint at hand has just the tensors of its config") {
  for (const char* name : {"model_h3_hybrid", "model_h3_hybrid_rotary", "model_h3_pure_n64",
                           "model_attention_positions"}) {
    CAPTURE(name);
    const H3LanguageModelConfig config = read_h3_config(model(name) / "config.json");
    CHECK_NOTHROW(require_tensors(ModelTensors(model(name)),
                                  [&](auto&& visit) { for_each_h3_tensor(config, visit); }));
  }
}

TEST_CASE("every Mamba checkpoint at hand has just the tensors of its config") {
  for (const char* name :
       {"model_mamba_hf", "model_mamba_original", "model_dense_mamba_m1", "model_dense_mamba_m2"}) {
    CAPTURE(name);
    CHECK(MambaFolder(name).complaint() == "");
  }
}

TEST_CASE("every RetNet checkpoint at hand has just the tensors of its config") {
  ModelTensors tensors(model("model_retnet"));
  use_retnet_names(tensors);
  CHECK_NOTHROW(check_retnet(tensors, read_retnet_config(model("model_retnet") / "config.json")));
  tensors.rename([](std::string_view name) { return "decoder." + std::string(name); });
  use_retnet_names(tensors);
  CHECK_NOTHROW(check_retnet(tensors, read_retnet_config(model("model_retnet") / "config.json")));
  for (const char* name : {"model_dense_retnet_m1", "model_dense_retnet_m2"}) {
    CAPTURE(name);
    CHECK_NOTHROW(check_dense_retnet(ModelTensors(model(name)),
                                     read_dense_retnet_config(model(name) / "config.json")));
  }
}

/// What is wrong with a DenseRetNet checkpoint whose tensors are called otherwise.
template <class Rename>
std::string dense_retnet_complaint(Rename&& rename) {
  ModelTensors tensors(model("model_dense_retnet_m2"));
  tensors.rename(rename);
  try {
    use_dense_retnet_names(tensors);
    auto config = read_dense_retnet_config(model("model_dense_retnet_m2") / "config.json");
    use_gate_widths(tensors, config);
    check_dense_retnet(tensors, config);
  } catch (const CheckpointError& error) {
    return std::string(error.what()).substr(tensors.path_name().size());
  }
  return "";
}

TEST_CASE("a DenseRetNet decoder is found whatever modules hold it") {
  const auto under = [](const std::string& decoder, const std::string& head) {
    return dense_retnet_complaint([&](std::string_view name) {
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
  CHECK(under("model.", "other.") == ": tensor 'lm_head.weight': is missing");
}

TEST_CASE(
    "a DenseRetNet checkpoint without a decoder, with two, or with parts elsewhere is refused by "
    "name") {
  CHECK(dense_retnet_complaint([](std::string_view name) {
          return std::string(name == "model.embed_tokens.weight" ? "model.wte.weight" : name);
        }) == ": tensor 'model.embed_tokens.weight': is missing");
  CHECK(dense_retnet_complaint([](std::string_view name) {
          return std::string(name == "model.norm.weight" ? "encoder.embed_tokens.weight" : name);
        }) ==
        ": tensor 'model.embed_tokens.weight': is a second embedding, beside "
        "'encoder.embed_tokens.weight'");
  CHECK(dense_retnet_complaint([](std::string_view name) {
          return std::string(name == "model.norm.weight" ? "norm.weight" : name);
        }) == ": tensor 'model.norm.weight': is missing");
}

TEST_CASE("the sizes of published models give their parameter counts") {
  const auto mamba = [](Index d_model, Index n_layer) {
    return parameters_of(MambaLanguageModelConfig{.d_model = d_model,
                                                  .n_layer = n_layer,
                                                  .vocab_size = 50277,
                                                  .pad_vocab_size_multiple = 8,
                                                  .d_inner = 2 * d_model,
                                                  .dt_rank = d_model / 16});
  };
  CHECK(mamba(768, 24) == 129'135'360);
  CHECK(mamba(1024, 48) == 371'516'416);
  CHECK(mamba(2560, 64) == 2'768'345'600);
  const auto dense = [](Index d_model, Index n_layer, Index heads, Index vocabulary, Index k,
                        Index v) {
    return parameters_of(DenseRetNetLanguageModelConfig{.d_model = d_model,
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
}

TEST_CASE("no tensor is expected twice") {
  std::multiset<std::string> names;
  const auto count = [&](const ExpectedTensor& tensor) { names.insert(tensor.name); };
  for_each_mamba_tensor({.n_layer = 2, .has_bias = true, .dense_block_layers = 1}, count);
  for (const std::string& name : names) CHECK_MESSAGE(names.count(name) == 1, name);
  names.clear();
  for_each_retnet_tensor({.n_layer = 2}, count);
  for (const std::string& name : names) CHECK_MESSAGE(names.count(name) == 1, name);
  names.clear();
  for_each_dense_retnet_tensor({.n_layer = 2}, count);
  for (const std::string& name : names) CHECK_MESSAGE(names.count(name) == 1, name);
}

TEST_CASE("a size that the tensors do not have is refused before memory is taken") {
  constexpr Index huge = (Index{1} << 31) - 1;
  const std::string block = "backbone.layers.0.mixer.";
  const auto refuses = [&](auto member, Index value, const std::string& name) {
    MambaFolder folder("model_dense_mamba_m1");
    folder.config.*member = value;
    largest_allocation = 0;
    const bool refused = folder.complains_of(name);
    return refused && largest_allocation < 1 << 20;
  };
  using Config = MambaLanguageModelConfig;
  CHECK(refuses(&Config::d_model, huge, "backbone.embeddings.weight"));
  CHECK(refuses(&Config::vocab_size, huge, "backbone.embeddings.weight"));
  CHECK(refuses(&Config::n_layer, huge, "backbone.layers.3.norm.weight': is missing"));
  CHECK(refuses(&Config::d_inner, huge, block + "in_proj.weight"));
  CHECK(refuses(&Config::d_state, huge, block + "x_proj.weight"));
  CHECK(refuses(&Config::d_conv, huge, block + "conv1d.weight"));
  CHECK(refuses(&Config::dt_rank, huge, block + "x_proj.weight"));
  CHECK(refuses(&Config::h_select_reduction, 2, block + "h_select.fc1.weight"));
  CHECK(refuses(&Config::n_layer, 2, "backbone.layers.2."));
}

TEST_CASE("a head that is not tied must be there, a tied one may be") {
  MambaFolder absent("model_mamba_hf");
  CHECK(absent.complaint() == "");
  absent.config.has_tied_head = false;
  CHECK(absent.complains_of("lm_head.weight': is missing"));
  MambaFolder present("model_mamba_original");
  present.config.has_tied_head = false;
  CHECK(present.complaint() == "");
}

TEST_CASE("a tensor that may be absent must have its shape where it is present") {
  ModelTensors tensors(model("model_retnet"));
  tensors.rename([](std::string_view name) {
    return std::string(name == "retnet_rel_pos.angle"   ? "retnet_rel_pos.decay"
                       : name == "retnet_rel_pos.decay" ? "retnet_rel_pos.angle"
                                                        : name);
  });
  CHECK_THROWS_WITH_AS(
      check_retnet(tensors, read_retnet_config(model("model_retnet") / "config.json")),
      (tensors.path_name() + ": tensor 'retnet_rel_pos.angle': is [2], config.json says [8]")
          .c_str(),
      CheckpointError);
}

TEST_CASE("a tensor that no config asks for is refused by name") {
  MambaFolder folder("model_mamba_hf");
  folder.config.has_conv_bias = false;
  CHECK(folder.complains_of("backbone.layers.0.mixer.conv1d.bias': is not expected"));
}

TEST_CASE("the family of every model at hand is known from its config") {
  const auto family = [](const std::string& name) {
    return name_of(model_family(read_json(model(name) / "config.json")));
  };
  CHECK(family("model_h3_hybrid") == "h3");
  CHECK(family("model_h3_pure_n64") == "h3");
  CHECK(family("model_mamba_hf") == "mamba");
  CHECK(family("model_mamba_original") == "mamba");
  CHECK(family("model_dense_mamba_m2") == "dense-mamba");
  CHECK(family("model_retnet") == "retnet");
  CHECK(family("model_dense_retnet_m1") == "dense-retnet");
  CHECK(family("model_gpt2") == "other");
}

}  // namespace
}  // namespace ssm::test
