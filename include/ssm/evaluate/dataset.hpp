// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ssm/evaluate/task.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/json_parser.hpp"

namespace ssm {
namespace detail {

/// The rows of a table of comma-separated values, quoted where they hold commas, quotation marks or
/// line ends; each with the line that it begins in.
/// Source  RFC 4180
inline std::vector<std::pair<Index, std::vector<std::string>>> csv_rows(std::string_view text,
                                                                        const std::string& file) {
  std::vector<std::pair<Index, std::vector<std::string>>> rows;
  Index line = 1;
  for (std::size_t at = 0; at < text.size();) {
    rows.push_back({line, {""}});
    std::vector<std::string>& row = rows.back().second;
    bool is_quoted = false;
    for (bool is_open = true; is_open && at < text.size(); ++at) {
      const char c = text[at];
      if (c == '\n') ++line;
      if (c == '"' && is_quoted && text.substr(at + 1, 1) == "\"")
        row.back() += text[++at];
      else if (c == '"' && (is_quoted || row.back().empty()))
        is_quoted = !is_quoted;
      else if (c == ',' && !is_quoted)
        row.emplace_back();
      else if (c == '\n' && !is_quoted)
        is_open = false;
      else if (c != '\r' || is_quoted)
        row.back() += c;
    }
    if (is_quoted)
      throw CheckpointError(
          file, "",
          "line " + std::to_string(rows.back().first) + ": a quotation mark is not closed");
    if (row.size() == 1 && row.front().empty()) rows.pop_back();
  }
  return rows;
}

/// The answers that some data sets keep in a file of their own: dev-labels.lst beside dev.jsonl.
inline std::vector<std::string> labels_beside(const std::filesystem::path& path) {
  std::filesystem::path labels = path;
  labels.replace_extension();
  labels += "-labels.lst";
  std::error_code error;
  if (!std::filesystem::is_regular_file(labels, error)) return {};
  std::vector<std::string> all;
  for (const std::string& line : split(read_text(labels), "\n"))
    if (!stripped(line).empty()) all.emplace_back(stripped(line));
  return all;
}

class DataSetReader {
 public:
  DataSetReader(const EvaluationTask& task, const std::filesystem::path& path)
      : task_(task), name_(path == standard_input ? "standard input" : path.string()) {
    if (path != standard_input) labels_ = labels_beside(path);
  }

  std::vector<EvaluationItem> read(const std::string& text) {
    const std::string_view begin = left_stripped(text);
    if (name_.ends_with(".csv"))
      read_table(text);
    else if (begin.starts_with('['))
      read_list(text);
    else
      read_lines(text);
    if (items_.empty()) throw CheckpointError(name_, "", "has no items");
    if (!labels_.empty() && labels_.size() != entries_)
      throw CheckpointError(name_, "",
                            "has " + std::to_string(entries_) + " entries, its file of labels " +
                                std::to_string(labels_.size()) + " lines");
    return std::move(items_);
  }

 private:
  void read_lines(std::string_view text) {
    Index line = 0;
    for (std::string_view rest = text; !rest.empty();) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      const std::string_view one = stripped(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
      ++line;
      if (one.empty()) continue;
      const std::string place = name_ + ", line " + std::to_string(line);
      add(place, parse_json_value(one, place));
    }
  }
  void read_list(const std::string& text) {
    nlohmann::json all = parse_json_value(text, name_);
    for (nlohmann::json& value : all)
      add(name_ + ", entry " + std::to_string(entries_ + 1), std::move(value));
  }
  void read_table(std::string_view text) {
    const auto rows = csv_rows(text, name_);
    for (std::size_t i = 1; i < rows.size(); ++i) {
      const std::string place = name_ + ", line " + std::to_string(rows[i].first);
      if (rows[i].second.size() != rows[0].second.size())
        throw CheckpointError(place, "",
                              "has " + std::to_string(rows[i].second.size()) +
                                  " columns, the first line has " +
                                  std::to_string(rows[0].second.size()));
      nlohmann::json value = nlohmann::json::object();
      for (std::size_t k = 0; k < rows[i].second.size(); ++k) {
        const std::string& text_of = rows[i].second[k];
        if (valid_utf8_prefix(text_of) != text_of.size())
          throw CheckpointError(place, "", "is not UTF-8");
        value[replace_invalid_utf8(rows[0].second[k])] = text_of;
      }
      add(place, std::move(value));
    }
  }
  void add(const std::string& place, nlohmann::json value) {
    if (entries_ < labels_.size() && value.is_object() && !task_.answer.empty() &&
        !value.contains(task_.answer))
      value[task_.answer] = labels_[entries_];
    ++entries_;
    const ItemFields entry(place, std::move(value));
    if (!task_.prepare) {
      items_.push_back(item_of(task_, entry));
      return;
    }
    for (const ItemFields& prepared : task_.prepare(entry))
      items_.push_back(item_of(task_, prepared));
  }

  const EvaluationTask& task_;
  std::string name_;
  std::vector<std::string> labels_;
  std::size_t entries_ = 0;
  std::vector<EvaluationItem> items_;
};

}  // namespace detail

/// The items of a task from a file of its data set: lines of JSON, one JSON list, or a table
/// (.csv), in the layout of its authors or of the Hugging Face hub. Where entries have no answer,
/// it is the line of a file NAME-labels.lst beside NAME.jsonl.
///   const EvaluationTask& boolq = ssm::evaluation_task("boolq");
///   const auto items = ssm::read_items(boolq, "BoolQ/val.jsonl");
/// Throws  CheckpointError  naming file, line and field, for what cannot be read or is not such an
///                          entry
inline std::vector<EvaluationItem> read_items(const EvaluationTask& task,
                                              const std::filesystem::path& path) {
  return detail::DataSetReader(task, path).read(read_text(path));
}

}  // namespace ssm
