// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "ssm/io/file.hpp"
#include "ssm/io/input.hpp"  // standard_input
#include "ssm/io/tokenizer.hpp"
#include "ssm/io/utf8.hpp"
#include "ssm/language_model/score_text.hpp"

namespace ssm::cli {

/// What a model thought of each token, a line of JSON each; "-" is standard output. A file is there
/// when all is written, or not at all.
/// Throws  CheckpointError  naming the file, as AtomicFile
class TokenLog {
 public:
  TokenLog(const std::string& path, const std::optional<Tokenizer>& tokenizer)
      : tokenizer_(tokenizer) {
    if (path != standard_input) file_.emplace(path);
  }

  /// document   which of several, where each is a text of its own
  void add(const ScoredToken& scored, std::optional<Index> document) {
    nlohmann::ordered_json json;
    if (document) json["document"] = *document;
    json["position"] = scored.position;
    json["token"] = scored.token;
    if (tokenizer_ && scored.token < tokenizer_->vocabulary())
      add_text(json, tokenizer_->bytes(scored.token));
    json["logprob"] = scored.log_probability;
    json["rank"] = scored.rank;
    if (!scored.likeliest.empty()) {
      auto& top = json["top"] = nlohmann::ordered_json::array();
      for (const TokenProbability& likely : scored.likeliest)
        top.push_back({{"token", likely.token}, {"logprob", likely.log_probability}});
    }
    lines_ += json.dump() + "\n";
    if (lines_.size() > block) write();
  }
  void finish() {
    write();
    if (file_) file_->commit();
  }

 private:
  static constexpr std::size_t block = 1 << 16;

  /// JSON is UTF-8; a token need not be.
  static void add_text(nlohmann::ordered_json& json, std::string_view bytes) {
    json["text"] = detail::replace_invalid_utf8(bytes);
    if (detail::valid_utf8_prefix(bytes) == bytes.size()) return;
    auto& numbers = json["bytes"] = nlohmann::ordered_json::array();
    for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
  }
  void write() {
    if (file_)
      file_->write(std::as_bytes(std::span(lines_.data(), lines_.size())));
    else if (!(std::cout << lines_ << std::flush))
      throw Error("standard output cannot be written");
    lines_.clear();
  }

  const std::optional<Tokenizer>& tokenizer_;
  std::optional<AtomicFile> file_;
  std::string lines_;
};

}  // namespace ssm::cli
