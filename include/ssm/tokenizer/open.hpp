// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ssm/io/json_file.hpp"
#include "ssm/io/tokenizer_files.hpp"
#include "ssm/tokenizer/tokenizer_json.hpp"

namespace ssm {
namespace detail {

inline Tokenizer tokenizer_of(BpeTokenizerParts parts) {
  return Tokenizer(
      std::make_unique<BpeTokenizer>(std::make_shared<const BpeTokenizerParts>(std::move(parts))));
}

}  // namespace detail

/// A tokenizer from the text of a tokenizer.json; `file` names it in messages.
/// Throws  CheckpointError  as open_tokenizer
inline Tokenizer parse_tokenizer(std::string_view json, const std::string& file) {
  return detail::tokenizer_of(detail::TokenizerJson(parse_json(json, file)).take());
}
/// A tokenizer of GPT-2's kind from the texts of its vocabulary and its merges.
inline Tokenizer parse_gpt2_tokenizer(std::string_view vocabulary, std::string_view merges,
                                      const std::string& vocabulary_file,
                                      const std::string& merges_file) {
  return detail::tokenizer_of(
      detail::gpt2_parts(parse_json(vocabulary, vocabulary_file), merges, merges_file));
}

/// The tokenizer of a folder, or that a file says: tokenizer.json with byte pair encoding (of
/// bytes, or of characters with bytes for those it does not know), or encoder.json and vocab.bpe,
/// also named vocab.json and merges.txt, either of which may be given.
///   const Tokenizer tokenizer = open_tokenizer("gpt2/");
/// Throws  CheckpointError  if there is none, a file is damaged, or tokenizer.json has a part that
///                          is not supported, which is named
inline Tokenizer open_tokenizer(const std::filesystem::path& path) {
  constexpr std::uint64_t limit = std::uint64_t{1} << 27;
  std::error_code error;
  std::vector<std::filesystem::path> files{path};
  const std::string name = path.filename().string();
  if (std::filesystem::is_directory(path, error)) {
    files = tokenizer_files(path);
    if (files.empty() && std::filesystem::exists(path / "tokenizer.model", error))
      throw CheckpointError(path.string(), "",
                            "has a tokenizer.model alone, which is not supported: save the "
                            "tokenizer as tokenizer.json");
    if (files.empty())
      throw CheckpointError(path.string(), "",
                            "has no tokenizer: neither tokenizer.json nor encoder.json and "
                            "vocab.bpe nor vocab.json and merges.txt");
  } else if (name == "encoder.json" || name == "vocab.bpe") {
    files = {path.parent_path() / "encoder.json", path.parent_path() / "vocab.bpe"};
  } else if (name == "vocab.json" || name == "merges.txt") {
    files = {path.parent_path() / "vocab.json", path.parent_path() / "merges.txt"};
  }
  detail::BpeTokenizerParts parts =
      files.size() == 1 ? detail::TokenizerJson(read_json(files[0], limit)).take()
                        : detail::gpt2_parts(read_json(files[0], limit),
                                             read_text_file(files[1], limit), files[1].string());
  parts.files = files;
  return detail::tokenizer_of(std::move(parts));
}

}  // namespace ssm
