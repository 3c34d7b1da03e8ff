// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "ssm/io/json_file.hpp"

namespace ssm::api {

/// read(object) of the options of a call, a JSON text; null is {}.
/// Throws  ArgumentError  for text that is no JSON object, fields of another kind, and fields that
///                        are not among `known`
template <class Read>
auto read_options(const char* text, const char* whose,
                  std::initializer_list<std::string_view> known, Read&& read) {
  try {
    const JsonObject object = parse_json(text == nullptr ? "{}" : text, whose);
    for (const auto& [field, value] : object.json().items()) {
      bool is_known = false;
      for (const std::string_view name : known) is_known = is_known || field == name;
      if (!is_known) object.refuse(field, "is no option");
    }
    return std::forward<Read>(read)(object);
  } catch (const CheckpointError& error) {  // what reads files reads this too
    throw ArgumentError(error.what());
  }
}

/// A size that is left out where it is not there.
inline Index size_option(const JsonObject& options, std::string_view field) {
  return options.has(field) ? static_cast<Index>(options.integer(field, 1)) : dyn;
}

/// One of several words.
/// Throws  CheckpointError  for another one
template <class Value>
Value word_option(const JsonObject& options, std::string_view field, std::string_view otherwise,
                  std::initializer_list<std::pair<std::string_view, Value>> words) {
  const std::string text = options.text(field, otherwise);
  std::string all;
  for (const auto& [word, value] : words) {
    if (word == text) return value;
    all += (all.empty() ? "" : ", ") + std::string(word);
  }
  options.refuse(field, "must be one of " + all);
}

/// Where a layer or a primitive computes.
/// Throws  CheckpointError  for another word, and for what this library was not built with
inline std::string backend_option(const JsonObject& options) {
  if (options.text("backend", "") != "cuda")
    return word_option<std::string>(options, "backend", "cpu",
                                    {{"cpu", "cpu"}, {"reference", "reference"}});
#if !defined(SSM_API_WITH_CUDA)
  options.refuse("backend", "is cuda, and this library was built without SSM_BUILD_CUDA");
#endif
  return "cuda";
}

}  // namespace ssm::api
