// SPDX-License-Identifier: Apache-2.0
#include "scored_text.hpp"

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "ssm/io/input.hpp"
#include "ssm/io/json_parser.hpp"

namespace ssm::cli {
namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TextSize size_of(const WordCount& count, Index bytes) {
  return {.bytes = bytes, .words = count.words(), .pieces = count.pieces()};
}

/// Calls visit(line, number) for each line of a file, the first being number 1.
template <class Visit>
void for_each_line(const FileReader& file, Visit&& visit) {
  std::string line;
  Index number = 0;
  file.for_each_block([&](std::span<const std::byte> bytes) {
    std::string_view block = text_of(bytes);
    for (std::size_t end = block.find('\n'); end != block.npos; end = block.find('\n')) {
      line += block.substr(0, end);
      block.remove_prefix(end + 1);
      visit(line, ++number);
      line.clear();
    }
    line += block;
  });
  if (!line.empty()) visit(line, ++number);
}

/// The text of {"text": …}.
std::string document_of(std::string_view line, const std::string& place) {
  nlohmann::json json = parse_json_value(line, place);
  if (!json.is_object()) throw CheckpointError(place, "", "is not a JSON object");
  const auto text = json.find("text");
  if (text == json.end() || !text->is_string())
    throw CheckpointError(place, "", "has no string \"text\"");
  return std::move(text->get_ref<std::string&>());
}

}  // namespace

ScoredText::ScoredText(const ScoredInput& input, std::optional<Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {
  const bool is_kept = input.is_json_lines || input.before || input.after ||
                       (tokenizer_ && !tokenizer_->files().empty());
  if (!input.tokens.empty()) {
    npy_.emplace(input.tokens);
    name_ = npy_->file().name();
    documents_.push_back(npy_->size());
    if (tokenizer_) size_ = size_from(0);
    return;
  }
  FileReader file = open_input(input.text);
  name_ = file.name();
  if (input.is_json_lines) {
    for_each_line(file, [&](const std::string& line, Index number) {
      if (line.find_first_not_of(" \t\r") == line.npos) return;
      add_document(document_of(line, name_ + ", line " + std::to_string(number)), input);
    });
  } else if (is_kept) {
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    file.read(0, std::as_writable_bytes(std::span(text.data(), text.size())));
    add_document(text, input);
  } else {
    WordCount words;
    file.for_each_block([&](std::span<const std::byte> bytes) { words.add(text_of(bytes)); });
    size_ = size_of(words, static_cast<Index>(file.size()));
    bytes_.emplace(std::move(file));
    documents_.push_back(bytes_->size());
  }
}

void ScoredText::add_document(std::string_view text, const ScoredInput& input) {
  if (input.before) kept_.push_back(*input.before);
  tokenizer_->encode(text, kept_);
  if (input.after) kept_.push_back(*input.after);
  documents_.push_back(static_cast<Index>(kept_.size()));
  WordCount words;
  words.add(text);
  size_ += size_of(words, static_cast<Index>(text.size()));
}

TokenView ScoredText::tokens() const {
  if (npy_) return TokenView(*npy_);
  return bytes_ ? TokenView(*bytes_) : TokenView(kept_);
}

TextSize ScoredText::size_from(Index begin) const {
  const TokenView text = tokens();
  std::vector<Token> block(1 << 16);
  WordCount words;
  Index bytes = 0;
  while (begin < text.size()) {
    const Index count = std::min(static_cast<Index>(block.size()), text.size() - begin);
    const std::span<Token> part = std::span(block).first(static_cast<std::size_t>(count));
    text.read(begin, part);
    for (const Token token : part) {
      if (tokenizer_->is_special(token)) continue;
      const std::string_view of_token = tokenizer_->bytes(token);
      words.add(of_token);
      bytes += static_cast<Index>(of_token.size());
    }
    begin += count;
  }
  return size_of(words, bytes);
}

Index ScoredText::bytes_at(Index position) const {
  Token token = 0;
  tokens().read(position, std::span(&token, 1));
  if (tokenizer_->is_special(token)) return 0;
  return static_cast<Index>(tokenizer_->bytes(token).size());
}

}  // namespace ssm::cli
