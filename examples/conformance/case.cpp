// SPDX-License-Identifier: Apache-2.0
#include "case.hpp"

#include <cstring>
#include <utility>

#include "ssm/io/safetensors.hpp"

namespace ssm::conformance {
namespace {

const std::string& metadata(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) throw CaseError("metadata has no '" + key + "'");
  return found->second;
}

nlohmann::json parsed(const SafetensorsFile& file, const std::string& key) {
  constexpr int deepest = 32;
  bool too_deep = false;
  const auto keep = [&](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    too_deep = too_deep || depth > deepest;
    return depth <= deepest;
  };
  nlohmann::json json = nlohmann::json::parse(metadata(file, key), keep, false);
  if (json.is_discarded() || too_deep) throw CaseError("metadata '" + key + "' is not JSON");
  return json;
}

std::vector<Index> splits_of(const SafetensorsFile& file) {
  const nlohmann::json json = parsed(file, "splits");
  std::vector<Index> splits;
  for (const nlohmann::json& length : json) {
    const bool is_length = json.is_array() && length.is_number_unsigned() &&
                           length <= std::uint64_t{JsonObject::largest};
    if (!is_length) throw CaseError("metadata 'splits' is not a list of lengths");
    splits.push_back(length.get<Index>());
  }
  return splits;
}

Values values_of(const SafetensorsFile& file, const std::string& name) {
  Values values;
  values.shape = file.shape(name);
  values.is_integral = file.dtype(name) == "I64";
  if (!values.is_integral && file.dtype(name) != "F64")
    throw CaseError("tensor '" + name + "' is " + file.dtype(name) + ", not F64 or I64");
  for (const Index extent : values.shape)
    if (extent > JsonObject::largest) throw CaseError("tensor '" + name + "' has a huge axis");
  const auto read = [&](auto& elements) {
    const std::vector<std::byte> bytes = file.bytes(name);
    elements.resize(bytes.size() / sizeof(elements[0]));
    if (!bytes.empty()) std::memcpy(elements.data(), bytes.data(), bytes.size());
  };
  if (values.is_integral)
    read(values.integers);
  else
    read(values.numbers);
  return values;
}

const nlohmann::json& at(const JsonObject& options, const std::string& name) {
  if (!options.has(name)) options.refuse(name, "is missing");
  return options.json().at(name);
}

const nlohmann::json& list_at(const JsonObject& options, const std::string& name) {
  const nlohmann::json& list = at(options, name);
  if (!list.is_array()) options.refuse(name, "must be a list");
  return list;
}

}  // namespace

double number_in(const JsonObject& options, const std::string& name) {
  const nlohmann::json& value = at(options, name);
  if (!value.is_number()) options.refuse(name, "must be a number");
  return value.get<double>();
}

double number_in(const JsonObject& options, const std::string& name, double otherwise) {
  return options.has(name) ? number_in(options, name) : otherwise;
}

std::vector<double> numbers_in(const JsonObject& options, const std::string& name) {
  std::vector<double> numbers;
  for (const nlohmann::json& value : list_at(options, name)) {
    if (!value.is_number()) options.refuse(name, "must be a list of numbers");
    numbers.push_back(value.get<double>());
  }
  return numbers;
}

std::vector<std::string> texts_in(const JsonObject& options, const std::string& name) {
  std::vector<std::string> texts;
  for (const nlohmann::json& value : list_at(options, name)) {
    if (!value.is_string()) options.refuse(name, "must be a list of texts");
    texts.push_back(value.get<std::string>());
  }
  return texts;
}

std::vector<JsonObject> objects_in(const JsonObject& options, const std::string& name) {
  std::vector<JsonObject> objects;
  for (const nlohmann::json& value : list_at(options, name))
    objects.emplace_back(options.file(), value, name);
  return objects;
}

bool is_model_folder(const std::filesystem::path& path) {
  return std::filesystem::exists(path / "expect.safetensors") ||
         std::filesystem::exists(path / "config.json") ||
         path.filename().string().starts_with("model_");
}

Case read_case(const std::filesystem::path& path) {
  const bool is_model = std::filesystem::is_directory(path);
  const SafetensorsFile file(is_model ? path / "expect.safetensors" : path);
  if (const std::string& format = metadata(file, "format"); format != "ssm-conformance-1")
    throw CaseError("format is '" + format + "', not 'ssm-conformance-1'");
  Case result{.op = "",
              .config = JsonObject("config", parsed(file, "config")),
              .splits = splits_of(file),
              .tensors = {},
              .folder = is_model ? path : std::filesystem::path()};
  result.op = result.config.text("op", "");
  if (result.op.empty()) throw CaseError("config names no op");
  for (const std::string& name : file.names()) result.tensors.emplace(name, values_of(file, name));
  return result;
}

}  // namespace ssm::conformance
