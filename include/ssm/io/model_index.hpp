// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "ssm/io/json_file.hpp"

namespace ssm {

/// Which file of a folder holds each tensor of a model that is stored in several.
struct ModelIndex {
  std::map<std::string, std::string, std::less<>> file_of;  // tensor to plain file name
  std::optional<std::uint64_t> total_size;  // bytes, as whoever wrote the index counted them
};

namespace detail {

inline constexpr std::uint64_t longest_model_index = std::uint64_t{1} << 26;  // bytes

/// A file in the same folder and nothing else: no separators, no "..", no control characters.
inline bool is_plain_file_name(std::string_view name) {
  constexpr std::size_t longest = 255;
  const bool is_weights = name.ends_with(".safetensors") || name.ends_with(".bin");
  const bool has_separator =
      std::any_of(name.begin(), name.end(), [](char c) { return c == '/' || c == '\\'; });
  const bool has_control = std::any_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  return is_weights && name.front() != '.' && name.size() <= longest && !has_separator &&
         !has_control;
}

/// Older writers have it as a fraction; it is informative, so only what cannot be a size is
/// refused.
inline std::optional<std::uint64_t> read_total_size(const JsonObject& metadata) {
  if (!metadata.has("total_size")) return std::nullopt;
  const nlohmann::json& value = metadata.json().at("total_size");
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  constexpr double exact = 9007199254740992.0;  // 2^53
  const double size = value.is_number_float() ? value.get<double>() : -1.0;
  if (!(size >= 0 && size <= exact && std::floor(size) == size))
    metadata.refuse("total_size", "must be a number of bytes");
  return static_cast<std::uint64_t>(size);
}

}  // namespace detail

/// Reads a model.safetensors.index.json or pytorch_model.bin.index.json:
///   {"metadata": {"total_size": …}, "weight_map": {tensor: file, …}}
/// Whether the files hold what it says is checked by ModelTensors.
/// Throws  CheckpointError  if it is not of this form, lists no tensor, lists one twice, or names
///                          anything but a .safetensors or .bin file beside it
/// Source  huggingface_hub, split_torch_state_dict_into_shards
inline ModelIndex read_model_index(const std::filesystem::path& path) {
  const JsonObject json = read_json(path, detail::longest_model_index);
  ModelIndex index;
  index.total_size = detail::read_total_size(json.object("metadata"));
  if (!json.has("weight_map")) json.refuse("weight_map", "is missing");
  const nlohmann::json& map = json.json().at("weight_map");
  if (!map.is_object()) json.refuse("weight_map", "must be a JSON object");
  for (const auto& [tensor, value] : map.items()) {
    if (!value.is_string())
      throw CheckpointError(path.string(), detail::printable(tensor), "must have a file's name");
    const std::string file = value.get<std::string>();
    if (!detail::is_plain_file_name(file))
      throw CheckpointError(path.string(), detail::printable(tensor),
                            "is in '" + detail::printable(file) +
                                "', which is not a .safetensors or .bin file in the folder");
    index.file_of.emplace(tensor, file);
  }
  if (index.file_of.empty()) json.refuse("weight_map", "lists no tensors");
  return index;
}

}  // namespace ssm
