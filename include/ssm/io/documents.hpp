// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"
#include "ssm/io/json_parser.hpp"
#include "ssm/io/tokenizer.hpp"

namespace ssm {

/// What the documents of a file are. At most one field is set; none: the file is one document.
struct DocumentForm {
  bool lines = false;          // every line
  std::string field = {};      // the string of that name in the JSON object that every line is
  std::string separator = {};  // what is between two texts like this
};

/// Turns the documents of files into tokens, a piece at a time: files and documents may be larger
/// than the memory.
///   DocumentTokens documents(tokenizer, {.lines = true});
///   documents.on_tokens = [&](std::span<const Token> tokens) { out.write(tokens); };
///   documents.on_end = [&] { out.write(std::array{end}); };  // of a document
///   documents.read(open_input("corpus.txt"));
/// Line ends, separators and documents without a byte are left out. The tokens of a document are
/// those of its whole text: it is cut between two lines only, where both are encoded to the same
/// tokens apart and together, and the characters around the line end are no spaces. A document of
/// which no line end is like that, as with tokenizers that put a space in front of each text, is
/// encoded in one piece.
/// Cost    memory for 16 MiB of text, or for the largest piece or line
/// Throws  CheckpointError  if a file cannot be read, a line is not such a JSON object, or what
///                          must be in memory at once is larger than `largest` bytes
class DocumentTokens {
 public:
  DocumentTokens(Tokenizer tokenizer, DocumentForm form, std::size_t piece = std::size_t{1} << 24,
                 std::size_t largest = std::size_t{1} << 30)
      : tokenizer_(std::move(tokenizer)), form_(std::move(form)), piece_(piece), largest_(largest) {
    if (form_.lines + !form_.field.empty() + !form_.separator.empty() > 1)
      throw ArgumentError("documents: lines, a field or a separator, not several of them");
    if (piece < 1) throw ArgumentError("documents: pieces must be of at least one byte");
  }

  std::function<void(std::span<const Token>)> on_tokens = [](auto) {};
  std::function<void()> on_end = [] {};
  /// After every part of a file, with the bytes that have been read of it; false: stop there.
  std::function<bool(std::uint64_t)> on_progress = [](auto) { return true; };

  /// Returns whether the whole file was read.
  bool read(const FileReader& file) {
    name_ = file.name();
    text_.clear();
    line_ = 0;
    has_text_ = false;
    next_cut_ = piece_;
    const std::size_t block = std::min<std::size_t>(piece_, std::size_t{1} << 20);
    for (std::uint64_t at = 0; at < file.size();) {
      const std::size_t before = text_.size();
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(block, file.size() - at));
      text_.resize(before + count);
      file.read(at, std::as_writable_bytes(std::span(text_).subspan(before)));
      at += count;
      take_documents(before);
      if (!on_progress(at)) return false;
    }
    end_document(text_);
    text_.clear();
    return true;
  }

 private:
  static constexpr std::size_t cut_attempts = 64;
  static constexpr std::size_t around_cut = 4096;  // bytes on either side

  /// Documents that end in what was read, of which all from `seen` on is new; and pieces of one
  /// that does not.
  void take_documents(std::size_t seen) {
    const std::string_view end = is_of_lines() ? std::string_view("\n") : form_.separator;
    std::size_t begin = 0;
    if (!end.empty()) {
      const std::size_t overlap = end.size() - 1;
      std::size_t from = seen < overlap ? 0 : seen - overlap;
      for (std::size_t at; (at = text_.find(end, from)) != std::string::npos; from = begin) {
        end_document(std::string_view(text_).substr(begin, at - begin));
        begin = at + end.size();
      }
    }
    text_.erase(0, begin);
    // What may be the beginning of a separator is kept back.
    if (!is_of_lines() && text_.size() >= next_cut_) {
      take_pieces(end.empty() ? 0 : end.size() - 1);
      next_cut_ = std::max(piece_, 2 * text_.size());  // where nothing could be cut
    }
    if (text_.size() > largest_)
      throw CheckpointError(name_, "",
                            "has a " + std::string(is_of_lines() ? "line" : "document") +
                                " of more than " + std::to_string(largest_) +
                                " bytes that can only be encoded as a whole");
  }
  void take_pieces(std::size_t kept_back) {
    std::size_t attempts = 0;
    for (std::size_t cut = text_.size() - std::min(text_.size(), kept_back); cut > 1; --cut) {
      if (!is_candidate(cut)) continue;
      if (is_safe(cut)) {
        encode(std::string_view(text_).substr(0, cut));
        text_.erase(0, cut);
        return;
      }
      if (++attempts == cut_attempts) return;
    }
  }
  /// Behind the end of a line, between characters that are no spaces.
  bool is_candidate(std::size_t cut) const {
    if (cut < 2 || cut >= text_.size() || text_[cut - 1] != '\n') return false;
    std::size_t before = cut - 2;
    while (before > 0 && is_continuation(text_[before])) --before;
    return is_no_space(before) && is_no_space(cut);
  }
  static bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0U) == 0x80U; }
  /// False also for some characters near the spaces of Unicode, which are U+0085, U+00A0, U+1680,
  /// between U+2000 and U+205F, and U+3000.
  bool is_no_space(std::size_t at) const {
    const auto c = static_cast<unsigned char>(text_[at]);
    if (c < 0x80) return c > ' ' && c != 0x7f;
    return c > 0xc2 && c != 0xe1 && c != 0xe2 && text_.compare(at, 3, "\xe3\x80\x80") != 0;
  }
  /// Whether the lines before and behind are encoded alike apart and together.
  bool is_safe(std::size_t cut) const {
    const std::string_view text = text_;
    const std::size_t line = text.rfind('\n', cut - 2);
    const std::size_t begin =
        std::max(line == text.npos ? 0 : line + 1, cut - std::min(cut, around_cut));
    const std::size_t end = std::min(
        {text.size(), cut + around_cut, std::min(text.find('\n', cut), text.size() - 1) + 1});
    std::vector<Token> apart = tokenizer_.encode(text.substr(begin, cut - begin));
    tokenizer_.encode(text.substr(cut, end - cut), apart);
    return apart == tokenizer_.encode(text.substr(begin, end - begin));
  }

  bool is_of_lines() const { return form_.lines || !form_.field.empty(); }
  void end_document(std::string_view text) {
    if (is_of_lines()) {
      ++line_;
      if (text.ends_with('\r')) text.remove_suffix(1);
    }
    if (text.empty() && !has_text_) return;
    if (form_.field.empty())
      encode(text);
    else
      encode(field_of(text));
    if (has_text_) on_end();
    has_text_ = false;
  }
  std::string field_of(std::string_view line) const {
    const std::string place = name_ + ", line " + std::to_string(line_);
    const nlohmann::json json = parse_json_value(line, place);
    if (!json.is_object() || !json.contains(form_.field) || !json.at(form_.field).is_string())
      throw CheckpointError(
          place, "", "is no JSON object with a string '" + detail::printable(form_.field) + "'");
    return json.at(form_.field).get<std::string>();
  }
  void encode(std::string_view text) {
    if (text.empty()) return;
    has_text_ = true;
    tokens_.clear();
    tokenizer_.encode(text, tokens_);
    on_tokens(tokens_);
  }

  Tokenizer tokenizer_;
  DocumentForm form_;
  std::size_t piece_;
  std::size_t largest_;
  std::string name_;
  std::string text_;  // read, and not yet encoded
  std::vector<Token> tokens_;
  std::size_t next_cut_ = 0;  // bytes of text_ at which it is cut
  Index line_ = 0;
  bool has_text_ = false;  // of the document that has not ended
};

}  // namespace ssm
