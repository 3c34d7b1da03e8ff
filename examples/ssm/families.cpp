// SPDX-License-Identifier: Apache-2.0
#include "families.hpp"

#include <array>
#include <string>

#include "family_engines.hpp"
#include "h3_family.hpp"
#include "mamba_family.hpp"
#include "retnet_family.hpp"

namespace ssm::cli {
namespace {

template <class Family>
constexpr EngineFamily entry() {
  return {
      .kind = Family::kind,
      .sizes = [](const JsonObject& json) { return Family::sizes(Family::read_config(json)); },
      .load = &load_engine<Family>,
      .make =
          [](const Machine& machine, const TrainingRecipe& recipe, Index vocabulary, Seed seed) {
            return make_engine<Family>(machine, Family::config_of(recipe, vocabulary), seed);
          },
      .make_from =
          [](const Machine& machine, const JsonObject& json, Seed seed) {
            return make_engine<Family>(machine, Family::read_config(json), seed);
          }};
}

/// Every family the program runs: a new one is a header like h3_family.hpp, its two sources and a line here.
constexpr std::array families{
    entry<H3Family>(),          entry<MambaFamily>(),      entry<RetNetFamily>(),
    entry<DenseRetNetFamily>(), entry<DenseMambaFamily>(),
};

}  // namespace

const EngineFamily& engine_family(const JsonObject& config) {
  const ModelFamily kind = model_family(config);
  std::string known;
  for (const EngineFamily& family : families) {
    if (family.kind == kind) return family;
    if (!known.empty()) known += ", ";
    known += name_of(family.kind);
  }
  throw CheckpointError(config.file(), "",
                        "is of a model of the family '" + std::string(name_of(kind)) +
                            "', this program runs " + known);
}

const EngineFamily& engine_family(std::string_view name) {
  for (const EngineFamily& family : families)
    if (name_of(family.kind) == name) return family;
  throw ArgumentError("no family of models is named '" + std::string(name) + "'");
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const EngineFamily& family : families) names.emplace_back(name_of(family.kind));
  return names;
}

}  // namespace ssm::cli
