// SPDX-License-Identifier: Apache-2.0
#include "model_report.hpp"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "ssm/family/families.hpp"
#include "ssm/family/presets.hpp"
#include "ssm/io/checkpoint_folder.hpp"
#include "ssm/io/model_tensors.hpp"

namespace ssm::cli {
namespace {

namespace fs = std::filesystem;

/// The number at the beginning of a text, taken off it, as its digits without leading zeros.
std::string_view take_number(std::string_view& text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto end = std::find_if_not(text.begin(), text.end(), is_digit);
  std::string_view digits = text.substr(0, static_cast<std::size_t>(end - text.begin()));
  text.remove_prefix(digits.size());
  while (digits.size() > 1 && digits.front() == '0') digits.remove_prefix(1);
  return digits;
}

/// Numbers within names compare as numbers.
bool is_before(std::string_view a, std::string_view b) {
  const std::string_view whole_a = a;
  const std::string_view whole_b = b;
  while (!a.empty() && !b.empty()) {
    const std::string_view number_a = take_number(a);
    const std::string_view number_b = take_number(b);
    if (!number_a.empty() && !number_b.empty()) {
      if (number_a.size() != number_b.size()) return number_a.size() < number_b.size();
      if (number_a != number_b) return number_a < number_b;
    } else if (!number_a.empty() || !number_b.empty()) {
      break;
    } else {
      if (a.front() != b.front()) return a.front() < b.front();
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  return whole_a < whole_b;
}

std::uint64_t checked_add(const fs::path& path, std::uint64_t a, std::uint64_t b) {
  if (a + b < a) throw CheckpointError(path.string(), "", "has more elements than can be counted");
  return a + b;
}

/// What a model is: its own folder, else the newest checkpoint of a training run, else every file
/// of tensors in it.
fs::path place_of(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return path;
  const bool is_model = fs::exists(path / "config.json", error) ||
                        fs::exists(path / "model.safetensors", error) ||
                        fs::exists(path / "model.safetensors.index.json", error) ||
                        fs::exists(path / "pytorch_model.bin", error) ||
                        fs::exists(path / "pytorch_model.bin.index.json", error);
  return is_model || CheckpointFolder::steps_in(path).empty() ? path : model_folder(path);
}

ModelTensors open_tensors(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) throw CheckpointError(path.string(), "", "does not exist");
  if (!fs::is_directory(path, error)) return ModelTensors(path);
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                           "pytorch_model.bin.index.json"})
    if (fs::exists(path / name, error)) return ModelTensors(path);
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->path().extension() == ".safetensors") files.push_back(entry->path());
  if (files.empty()) return ModelTensors(path);
  std::sort(files.begin(), files.end());
  return ModelTensors(path, files);
}

void add_fields(ModelReport& report, const nlohmann::json& json, const std::string& name) {
  if (json.is_object() && !json.empty()) {
    for (const auto& [field, value] : json.items())
      add_fields(report, value, name + (name.empty() ? "" : ".") + field);
  } else {
    const std::string text = json.is_string() ? json.get<std::string>() : json.dump();
    report.config.emplace_back(detail::printable(name), detail::printable(text));
  }
}

/// What is said of a config: its family, and the first thing that does not fit.
void add_config(ModelReport& report, const fs::path& file, ModelTensors tensors) {
  const JsonObject json = read_json(file);
  report.config_json = json.json();
  add_fields(report, json.json(), "");
  const std::string type = json.text("model_type", "");
  report.family =
      "unknown" + (type.empty() ? "" : " (model_type '" + detail::printable(type) + "')");
  bool is_known = false;
  for_each_family([&]<class F>() {
    if (is_known || !F::describes(json)) return;
    is_known = true;
    report.family = F::name;
    try {
      require_fit<F>(json, std::move(tensors));
    } catch (const CheckpointError& error) {
      report.misfit = error.what();
    }
  });
}

}  // namespace

ModelReport model_report(const fs::path& path) {
  const fs::path place = place_of(path);
  ModelTensors tensors = open_tensors(place);
  ModelReport report;
  std::vector<std::string> names = tensors.names();
  std::sort(names.begin(), names.end(), is_before);
  for (const std::string& name : names) {
    const auto count = static_cast<std::uint64_t>(detail::checked_size(tensors.shape(name)));
    const std::uint64_t bytes = tensors.byte_size(name);
    report.parameters = checked_add(place, report.parameters, count);
    report.bytes = checked_add(place, report.bytes, bytes);
    report.tensors.push_back({.name = name,
                              .dtype = tensors.dtype(name),
                              .shape = tensors.shape(name),
                              .parameters = count,
                              .bytes = bytes,
                              .file = tensors.file_of(name).path_name()});
  }
  for (const TensorFile& file : tensors.files()) report.files.push_back(file.path_name());
  std::error_code error;
  if (fs::is_directory(place, error) && fs::exists(place / "config.json", error))
    add_config(report, place / "config.json", std::move(tensors));
  return report;
}

ModelReport preset_report(std::string_view name) {
  ModelReport report;
  with_preset(name, [&]<class F>(const typename F::Config& config) {
    report.family = F::name;
    report.config_json = nlohmann::json(F::write(config));
    add_fields(report, report.config_json, "");
    const auto shapes = F::make(config).template zero_parameters<float>(Context<ShapesOnly>());
    for_each_parameter(
        [&](const ParameterSpec& spec, const auto& tensor) {
          if (!tensor) return;
          const auto extents = tensor.extents().to_array();
          const auto count = static_cast<std::uint64_t>(tensor.size());
          report.tensors.push_back({spec.name,
                                    "F32",
                                    {extents.begin(), extents.end()},
                                    count,
                                    count * sizeof(float),
                                    ""});
          report.parameters += count;
          report.bytes += count * sizeof(float);
        },
        shapes);
  });
  return report;
}

}  // namespace ssm::cli
