// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <filesystem>
#include <system_error>
#include <vector>

namespace ssm {

/// The files of a folder that say its tokenizer: tokenizer.json, or else encoder.json and
/// vocab.bpe, or else vocab.json and merges.txt; empty where there is none.
inline std::vector<std::filesystem::path> tokenizer_files(const std::filesystem::path& folder) {
  using Files = std::vector<std::filesystem::path>;
  const std::array<Files, 3> kinds{Files{"tokenizer.json"}, Files{"encoder.json", "vocab.bpe"},
                                   Files{"vocab.json", "merges.txt"}};
  for (const Files& kind : kinds) {
    Files found;
    for (const std::filesystem::path& name : kind) {
      std::error_code error;
      if (std::filesystem::exists(folder / name, error)) found.push_back(folder / name);
    }
    if (found.size() == kind.size()) return found;
  }
  return {};
}

/// The same of a model's folder. Where it is a checkpoint of a run, the files of the run stand in.
inline std::vector<std::filesystem::path> tokenizer_files_of_model(
    const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files = tokenizer_files(folder);
  const std::filesystem::path whole = std::filesystem::absolute(folder).lexically_normal();
  const std::filesystem::path named = whole.has_filename() ? whole : whole.parent_path();
  if (files.empty() && named.filename().string().starts_with("checkpoint-"))
    files = tokenizer_files(named.parent_path());
  return files;
}

}  // namespace ssm
