// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "model_report.hpp"
#include "ssm/family/presets.hpp"
#include "ssm/io/file.hpp"  // printable

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm inspect mamba-130m                             folder with config.json and model.safetensors, or shards of it
  ssm inspect run/checkpoint-0000100/optimizer.safetensors
  ssm inspect run --json
  ssm inspect --preset h3-125m                       the sizes and tensors of a published model, without its files

Only the headers of the files are read. Where config.json is of a family that is known, see ssm train --help, the tensors are
held against its sizes, and the first that does not fit is reported with status 1.)";

struct InspectRequest {
  std::filesystem::path model;
  std::string preset;
  bool json = false;
};

/// Columns as wide as their widest cell.
class Table {
 public:
  using Row = std::vector<std::string>;

  explicit Table(std::vector<bool> is_number) : is_number_(std::move(is_number)) {}
  void add(Row row) { rows_.push_back(std::move(row)); }

  std::string text() const {
    std::vector<std::size_t> widths(is_number_.size());
    for (const Row& row : rows_)
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
    std::string all;
    for (const Row& row : rows_) {
      std::string line;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const std::string space(widths[i] - width(row[i]), ' ');
        line += (i > 0 ? "  " : "") + (is_number_[i] ? space + row[i] : row[i] + space);
      }
      all += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    }
    return all;
  }

 private:
  /// Characters, not bytes.
  static std::size_t width(const std::string& text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;
    }));
  }

  std::vector<bool> is_number_;
  std::vector<Row> rows_;
};

std::string text_of(const ModelReport& report) {
  std::string text;
  if (!report.family.empty()) {
    Table config({false, false});
    config.add({"family", report.family});
    for (const auto& [field, value] : report.config) config.add({field, value});
    text += config.text() + "\n";
  }
  Table tensors({false, false, false, true, true});
  tensors.add({"tensor", "dtype", "shape", "parameters", "bytes"});
  for (const TensorReport& tensor : report.tensors)
    tensors.add({detail::printable(tensor.name), detail::printable(tensor.dtype),
                 shape_text(tensor.shape), std::to_string(tensor.parameters),
                 std::to_string(tensor.bytes)});
  const std::size_t files = report.files.size();
  const std::string where =
      files == 0 ? "" : " in " + std::to_string(files) + (files == 1 ? " file" : " files");
  tensors.add({std::to_string(report.tensors.size()) + " tensors" + where, "", "",
               std::to_string(report.parameters), std::to_string(report.bytes)});
  return text + tensors.text();
}

std::string json_of(const ModelReport& report) {
  nlohmann::ordered_json json;
  if (!report.family.empty()) {
    json["family"] = report.family;
    json["config"] = report.config_json;
  }
  json["files"] = report.files;
  json["parameters"] = report.parameters;
  json["bytes"] = report.bytes;
  json["tensors"] = nlohmann::json::array();
  for (const TensorReport& tensor : report.tensors)
    json["tensors"].push_back({{"name", tensor.name},
                               {"dtype", tensor.dtype},
                               {"shape", tensor.shape},
                               {"parameters", tensor.parameters},
                               {"bytes", tensor.bytes},
                               {"file", tensor.file}});
  // Names of files need not be UTF-8.
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void inspect(const InspectRequest& request) {
  if (request.model.empty() == request.preset.empty())
    throw OptionError("preset", "or a model must be named, and not both");
  const ModelReport report =
      request.preset.empty() ? model_report(request.model) : preset_report(request.preset);
  std::cout << (request.json ? json_of(report) : text_of(report)) << std::flush;
  if (!std::cout) throw Error("standard output cannot be written");
  if (!report.misfit.empty()) throw Error(report.misfit);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  auto request = std::make_shared<InspectRequest>();
  CLI::App* command =
      app.add_subcommand("inspect", "List a model's sizes and tensors without loading it.");
  command->footer(examples);
  command
      ->add_option("model", request->model,
                   "folder of a model or of a training run, file of weights, or index of shards")
      ->type_name("MODEL");
  command
      ->add_option("--preset", request->preset,
                   "a published model by its sizes alone: " + preset_names())
      ->type_name("NAME");
  command->add_flag("--json", request->json, "one JSON object on standard output");
  command->callback([request] { inspect(*request); });
}

}  // namespace ssm::cli
