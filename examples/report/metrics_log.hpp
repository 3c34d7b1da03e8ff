// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/json_file.hpp"

namespace ssm::cli {

/// The numbers of a training run as JSON lines: one object per entry, each with its "step".
///   MetricsLog log("run/metrics.jsonl", 100);    // resumed after step 100: drops later entries
///   log.append({{"step", 110}, {"loss", 1.5}});  // in the file, whole, when this returns
/// Throws  CheckpointError  if the file cannot be read or written, or holds something else
class MetricsLog {
 public:
  using Entry = nlohmann::ordered_json;

  MetricsLog(const std::filesystem::path& path, Index resumed_step) : name_(path.string()) {
    std::error_code error;
    if (std::filesystem::exists(path, error)) {
      read(read_text_file(path, 1 << 30), resumed_step);
      std::string kept;
      for (const Entry& entry : entries_) kept += entry.dump() + "\n";
      write_text_file(path, kept);
    }
    file_ = platform::open_to_append(name_.c_str());
    if (!file_) throw CheckpointError(name_, "", ssm::detail::reason("cannot be opened"));
  }

  /// All entries so far, those of earlier runs first.
  const std::vector<Entry>& entries() const { return entries_; }

  void append(Entry entry) {
    const std::string line = entry.dump() + "\n";
    std::string_view rest = line;
    while (!rest.empty()) {
      const auto count = platform::write(file_, rest.data(), rest.size());
      if (count <= 0) throw CheckpointError(name_, "", ssm::detail::reason("cannot be written"));
      rest.remove_prefix(static_cast<std::size_t>(count));
    }
    entries_.push_back(std::move(entry));
  }

 private:
  void read(std::string_view text, Index resumed_step) {
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      if (end == std::string_view::npos) return;  // cut off when the process was killed
      Entry entry = Entry::parse(text.substr(0, end), nullptr, false);
      const bool valid =
          entry.is_object() && entry.contains("step") && entry["step"].is_number_integer();
      if (!valid)
        throw CheckpointError(
            name_, "",
            "line " + std::to_string(entries_.size() + 1) + " is not an object with a step");
      if (entry["step"].get<Index>() > resumed_step) return;
      entries_.push_back(std::move(entry));
      text.remove_prefix(end + 1);
    }
  }

  std::string name_;
  platform::File file_;
  std::vector<Entry> entries_;
};

}  // namespace ssm::cli
