// SPDX-License-Identifier: Apache-2.0
// A family that the library does not have: what docs/60_models.md asks of one, and nothing besides.
#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/backend/cpu.hpp"
#include "ssm/family/families.hpp"
#include "ssm/language_model.hpp"
#include "ssm/language_model/header_only.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/stack.hpp"
#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

struct S4DNames {
  static constexpr FixedString embedding = "encoder.weight";
  static constexpr FixedString positions = "positions.weight";  // there are none
  static constexpr FixedString backbone = "backbone";
  static constexpr FixedString norm = "norm";
  static constexpr FixedString head = "decoder.weight";
  using Initialization = Gpt2Initialization;
};

struct S4DFamily {
  struct Config {
    Index d_model = 8;
    Index n_layer = 2;
    Index vocab_size = 256;
    Index d_state = 4;
  };
  using Mixer = S4D<S4DConfig{.channels = dyn, .state = dyn}>;
  using Block = Residual<RmsNorm<>, Mixer>;
  using LanguageModel = BasicLanguageModel<Stack<Block>, RmsNorm<>, S4DNames>;
  static constexpr std::string_view name = "s4d";
  static constexpr std::string_view other_embedding = "";

  static bool describes(const JsonObject& json) { return json.text("model_type", "") == "s4d"; }
  static Config read(const JsonObject& json) {
    return {.d_model = json.integer("d_model", 1),
            .n_layer = json.integer("n_layer", 1),
            .vocab_size = json.integer("vocab_size", 1),
            .d_state = json.integer("d_state", 2)};
  }
  static nlohmann::ordered_json write(const Config& config) {
    return {{"model_type", "s4d"},
            {"d_model", config.d_model},
            {"n_layer", config.n_layer},
            {"vocab_size", config.vocab_size},
            {"d_state", config.d_state}};
  }
  static LanguageModel make(const Config& config) {
    const RmsNorm<> norm({.channels = config.d_model});
    const Block block(norm, Mixer({.channels = config.d_model, .state = config.d_state}));
    return LanguageModel(
        {.vocabulary = config.vocab_size, .has_tied_head = true},
        Stack<Block>(std::vector<Block>(static_cast<std::size_t>(config.n_layer), block)), norm);
  }
  static std::optional<std::vector<Index>> extents_of_constant(const Config&, std::string_view) {
    return std::nullopt;
  }
  static Config standard() { return {}; }
  static void for_each_option(auto& config, auto&& visit) {
    visit("layers", config.n_layer, "blocks of the model");
    visit("width", config.d_model, "channels of the residual stream");
    visit("state", config.d_state, "state size of the scans");
  }
  static void derive(Config&, const ModelOptions&) {}
};

using Known = TypeList<S4DFamily>;
const std::vector<Token> prompt{3, 1, 4, 1, 5};

TEST_CASE("a family of a program's own is made, saved, opened and run like those of the library") {
  const TemporaryFolder folder;
  const auto made = fresh_language_model_on<Cpu, Known>(
      {.family = "s4d", .options = {{"width", "12"}, {"layers", "3"}}, .vocabulary = 20});
  made.save(folder.path());
  const auto opened = open_language_model_on<Cpu, Known>(folder.path());
  CHECK(opened.facts().family == "s4d");
  CHECK(opened.facts().vocabulary == 20);
  CHECK(opened.facts().parameters == made.facts().parameters);
  const auto a = made.logits(prompt), b = opened.logits(prompt);
  REQUIRE(a.extents() == b.extents());
  for (Index i = 0; i < a.size(); ++i) CHECK(a.data()[i] == b.data()[i]);

  std::vector<Token> tokens;
  for (const Token token : opened.generate(prompt, {.temperature = 0, .tokens = 7}))
    tokens.push_back(token);
  CHECK(tokens.size() == 7);

  const auto exact = [&] {
    Context<Cpu> ctx;
    return load_language_model<S4DFamily, double>(ctx, folder.path());
  }();
  CHECK(exact.layer.channels() == 12);
}

TEST_CASE("the settings and the complaints of a family of a program's own are as everywhere") {
  std::vector<std::string> names;
  for (const ModelOption& option : options_of<S4DFamily>()) names.push_back(option.name);
  CHECK(names == std::vector<std::string>{"layers", "width", "state"});
  CHECK_THROWS_WITH_AS((fresh_language_model_on<Cpu, Known>(
                           {.family = "s4d", .options = {{"heads", "2"}}, .vocabulary = 20})),
                       "--heads: models of the family s4d have no such setting", OptionError);
  CHECK_THROWS_AS((fresh_language_model_on<Cpu, Known>({.family = "mamba", .vocabulary = 20})),
                  ArgumentError);
}

}  // namespace
}  // namespace ssm::test
