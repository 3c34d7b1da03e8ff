// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/no_memory.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/io/model_tensors.hpp"
#include "ssm/io/tensor_source.hpp"

namespace ssm {
namespace detail {

/// What comes before `end` in a name that ends with it, a module path or nothing.
inline std::optional<std::string_view> module_before(std::string_view name, std::string_view end) {
  if (!name.ends_with(end)) return std::nullopt;
  const std::string_view module = name.substr(0, name.size() - end.size());
  if (!module.empty() && module.back() != '.') return std::nullopt;
  return module;
}

/// "backbone." of "backbone", and nothing of nothing.
inline std::string module_prefix(const std::string& module) {
  return module.empty() ? module : module + ".";
}

/// The first names of a source, for a message that says that one is missing.
inline std::string names_there(const std::vector<std::string>& names) {
  constexpr std::size_t limit = 8;
  std::string text = "there ";
  text +=
      names.size() == 1 ? "is 1 tensor: " : "are " + std::to_string(names.size()) + " tensors: ";
  for (std::size_t i = 0; i < names.size() && i < limit; ++i)
    text += (i > 0 ? ", " : "") + printable(names[i]);
  return text + (names.size() > limit ? ", …" : "");
}

}  // namespace detail

/// Lets files be read by one set of names, whichever program wrote them and whatever modules it put
/// around the model. Training frameworks put "_orig_mod.", "module." or "model." before every name,
/// and some publish the backbone alone.
///   whatever comes before the embedding's own name    becomes the family's prefix of the backbone
///   the head, in the backbone or in a module around it    gets the family's name of the head
/// Names    the family's names: Names::embedding, Names::backbone, Names::head
/// other_embedding    another word for the embedding, "embedding.weight" beside
///                    "embeddings.weight"; empty: there is none
/// Throws  CheckpointError  for two embeddings, or if two tensors get one name
template <class Names>
void use_family_names(ModelTensors& tensors, std::string_view other_embedding = "") {
  const std::string backbone = detail::module_prefix(Names::backbone.text());
  const std::string embedding = Names::embedding.text().substr(backbone.size());
  const std::string head = Names::head.text();
  std::optional<std::string> module;
  std::string stored_embedding;
  for (const std::string& name : tensors.names()) {
    auto before = detail::module_before(name, embedding);
    if (!before && !other_embedding.empty()) before = detail::module_before(name, other_embedding);
    if (!before) continue;
    if (module)
      throw CheckpointError(
          tensors.path_name(), detail::printable(name),
          "is a second embedding, beside '" + detail::printable(stored_embedding) + "'");
    module = *before;
    stored_embedding = name;
  }
  if (!module) return;
  tensors.rename([&](std::string_view name) {
    if (name == stored_embedding) return backbone + embedding;
    const auto around_head = detail::module_before(name, head);
    if (around_head && module->starts_with(*around_head)) return head;
    if (name.starts_with(*module)) return backbone + std::string(name.substr(module->size()));
    return std::string(name);
  });
}

/// Checks that a source has just the tensors of a layer, each with its extents, before memory is
/// allocated for them: a damaged config must not ask for more than the files hold. Names and
/// extents come from the layer itself.
/// extents_of_constant(name)    the extents of a tensor that may be there because it repeats
///                              another one or follows from the config; nothing for any other name
/// Cost    allocates names and extents alone
/// Throws  CheckpointError  if a tensor is missing, is of other extents, or is not expected
template <class L, TensorSource S, class ExtentsOfConstant>
void require_tensors_of(const L& layer, const S& source, ExtentsOfConstant&& extents_of_constant) {
  const auto require_extents_in = [&](const std::string& name, const std::vector<Index>& expected) {
    if (!source.contains(name))
      throw CheckpointError(source.path_name(), name,
                            "is missing; " + detail::names_there(source.names()));
    if (source.shape(name) != expected)
      throw CheckpointError(
          source.path_name(), name,
          "is " + shape_text(source.shape(name)) + ", config.json says " + shape_text(expected));
  };
  std::set<std::string> expected;
  const auto shapes = layer.template zero_parameters<float>(Context<ShapesOnly>());
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto& tensor) {
        if (!tensor) return;
        const auto extents = as_in_files(spec, tensor).extents().to_array();
        require_extents_in(spec.name, {extents.begin(), extents.end()});
        expected.insert(spec.name);
      },
      shapes);
  for (const std::string& name : source.names()) {
    if (expected.contains(name)) continue;
    const std::optional<std::vector<Index>> constant = extents_of_constant(name);
    if (!constant)
      throw CheckpointError(source.path_name(), detail::printable(name), "is not expected");
    require_extents_in(name, *constant);
  }
}

}  // namespace ssm
