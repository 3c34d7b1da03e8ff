// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ssm/family/families.hpp"
#include "ssm/io/checkpoint_folder.hpp"  // model_folder
#include "ssm/io/conversion.hpp"

namespace ssm {

/// What the tensors of a converted model are called.
enum class ConvertedNames {
  stored,  // as they were; config.json stays too
  family   // as the family writes them now, with its config.json; what follows from others left out
};

namespace detail {

/// config.json with the dtype that it says brought up to date.
inline std::string with_dtype(const std::string& text, const std::string& file,
                              const std::string& dtype) {
  const std::string word = dtype == "F32" ? "float32" : dtype == "F16" ? "float16" : "bfloat16";
  const JsonObject json = parse_json(text, file);
  if (dtype.empty() || (!json.has("dtype") && !json.has("torch_dtype"))) return text;
  auto changed = nlohmann::ordered_json::parse(text, nullptr, false);
  if (changed.is_discarded()) return text;  // Python's numbers
  for (const char* field : {"dtype", "torch_dtype"})
    if (json.has(field)) changed[field] = word;
  return changed.dump(2) + "\n";
}

}  // namespace detail

/// Converts weights of any kind that is read to safetensors: a file, or a folder with its
/// config.json and the files of its tokenizer. A folder whose family is known is checked first.
///   convert_model("mamba-130m/", "mamba-130m-hf/", ConvertedNames::family, {.dtype = "BF16"});
/// in     a file of weights, an index, a folder, or that of a training run, for its newest
///        checkpoint
/// out    a file that ends with .safetensors, or a folder
/// Returns  the files of weights written
/// Throws  CheckpointError  as convert_weights; for tensors that do not fit config.json; and for
///                          names of the family where there is no config.json of one
inline std::vector<std::filesystem::path> convert_model(const std::filesystem::path& in,
                                                        const std::filesystem::path& out,
                                                        ConvertedNames names,
                                                        const ConversionOptions& options = {}) {
  namespace fs = std::filesystem;
  std::error_code error;
  const bool is_run = fs::is_directory(in, error) && !CheckpointFolder::steps_in(in).empty();
  const fs::path place = is_run ? model_folder(in) : in;
  if (!fs::exists(place, error)) throw CheckpointError(in.string(), "", "does not exist");
  ModelTensors tensors(place);
  std::vector<std::string> wanted = tensors.names();
  const fs::path config_file = place / "config.json";
  const bool has_config = fs::is_directory(place, error) && fs::exists(config_file, error);
  if (names == ConvertedNames::family && !has_config)
    throw CheckpointError(in.string(), "", "has no config.json, which says the family");
  std::string config;
  if (has_config) {
    config = read_text_file(config_file, 1 << 20);
    const JsonObject json = parse_json(config, config_file.string());
    bool is_known = false;
    for_each_family([&]<class F>() {
      if (is_known || !F::describes(json)) return;
      is_known = true;
      if (names == ConvertedNames::stored) return require_fit<F>(json, ModelTensors(place));
      auto files = detail::check_files<F>(json, std::move(tensors));
      wanted.clear();
      const auto shapes = files.layer.template zero_parameters<float>(Context<ShapesOnly>());
      for_each_parameter(
          [&](const ParameterSpec& spec, const auto& tensor) {
            if (tensor) wanted.push_back(spec.name);
          },
          shapes);
      tensors = std::move(files.tensors);
      config = F::write(files.config).dump(2) + "\n";
    });
    if (!is_known && names == ConvertedNames::family) with_family(json, []<class F>() {});
    config = detail::with_dtype(config, config_file.string(), options.dtype);
  }
  auto files = convert_weights(tensors, wanted, out, options);
  if (!has_config || out.extension() == ".safetensors") return files;
  write_text_file(out / "config.json", config);
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
        "merges.txt", "tokenizer.model", "added_tokens.json", "generation_config.json"})
    if (fs::is_regular_file(place / name, error))
      write_text_file(out / name, read_text_file(place / name, std::uint64_t{1} << 28));
  return files;
}

}  // namespace ssm
