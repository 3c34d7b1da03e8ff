// SPDX-License-Identifier: Apache-2.0
#include "scored_text.hpp"

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "ssm/io/bare_tokens.hpp"
#include "ssm/io/byte_tokens.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/json_parser.hpp"
#include "ssm/io/npy_tokens.hpp"

namespace ssm::cli {
namespace {

std::string_view characters(std::span<const std::byte> bytes) {
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
    std::string_view block = characters(bytes);
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

/// A field that is a string; nothing where there is none.
const std::string* string_in(const nlohmann::json& json, const std::string& name) {
  const auto field = json.find(name);
  return field == json.end() ? nullptr : field->get_ptr<const std::string*>();
}

}  // namespace

ScoredText::ScoredText(const ScoredInput& input, std::optional<Tokenizer> tokenizer,
                       Index vocabulary)
    : tokenizer_(std::move(tokenizer)) {
  read(input);
  require_known(vocabulary);
  if (!input.tokens.empty() && tokenizer_) size_ = size_from(0);
}

void ScoredText::read(const ScoredInput& input) {
  const bool is_kept = !input.field.empty() || input.before || input.after ||
                       (tokenizer_ && !tokenizer_->files().empty());
  if (!input.tokens.empty()) {
    FileReader file = open_input(input.tokens);
    name_ = file.name();
    if (input.bare.empty())
      source_ = std::make_unique<NpyTokens>(std::move(file));
    else
      source_ = std::make_unique<BareTokens>(std::move(file), input.bare == "uint16" ? 2 : 4);
    documents_.push_back(source_->size());
    return;
  }
  FileReader file = open_input(input.text);
  name_ = file.name();
  if (!input.field.empty()) {
    for_each_line(file, [&](const std::string& line, Index number) {
      if (line.find_first_not_of(" \t\r") == line.npos) return;
      add_line(line, name_ + ", line " + std::to_string(number), input);
    });
  } else if (is_kept) {
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    file.read(0, std::as_writable_bytes(std::span(text.data(), text.size())));
    add_document(text, text, input);
  } else {
    WordCount words;
    file.for_each_block([&](std::span<const std::byte> bytes) { words.add(characters(bytes)); });
    size_ = size_of(words, static_cast<Index>(file.size()));
    source_ = std::make_unique<ByteTokens>(std::move(file));
    documents_.push_back(source_->size());
  }
}

void ScoredText::add_line(std::string_view line, const std::string& place,
                          const ScoredInput& input) {
  const nlohmann::json json = parse_json_value(line, place);
  if (!json.is_object()) throw CheckpointError(place, "", "is not a JSON object");
  const std::string* text = string_in(json, input.field);
  if (text == nullptr)
    throw CheckpointError(place, "", "has no string '" + detail::printable(input.field) + "'");
  const std::string* original = string_in(json, "original");
  if (original == nullptr && json.contains("original"))
    throw CheckpointError(place, "", "has an 'original' that is no string");
  add_document(*text, original == nullptr ? *text : *original, input);
}

void ScoredText::add_document(std::string_view text, std::string_view original,
                              const ScoredInput& input) {
  if (input.before) kept_.push_back(*input.before);
  tokenizer_->encode(text, kept_);
  if (input.after) kept_.push_back(*input.after);
  documents_.push_back(static_cast<Index>(kept_.size()));
  WordCount words;
  words.add(original);
  size_ += size_of(words, static_cast<Index>(original.size()));
}

TokenView ScoredText::tokens() const { return source_ ? TokenView(*source_) : TokenView(kept_); }

template <class Visit>
void ScoredText::for_each_token(Index begin, Visit&& visit) const {
  const TokenView text = tokens();
  std::vector<Token> block(1 << 16);
  while (begin < text.size()) {
    const Index count = std::min(static_cast<Index>(block.size()), text.size() - begin);
    const std::span<Token> part = std::span(block).first(static_cast<std::size_t>(count));
    text.read(begin, part);
    for (const Token token : part) visit(token, begin++);
  }
}

void ScoredText::require_known(Index vocabulary) const {
  for_each_token(0, [&](Token token, Index position) {
    if (token < 0 || token >= vocabulary)
      throw ArgumentError(name_ + ": has token " + std::to_string(token) + " at " +
                          std::to_string(position) + ", the model knows 0 to " +
                          std::to_string(vocabulary - 1));
  });
}

TextSize ScoredText::size_from(Index begin) const {
  WordCount words;
  Index bytes = 0;
  for_each_token(begin, [&](Token token, Index) {
    const std::string_view text = text_of(token);
    words.add(text);
    bytes += static_cast<Index>(text.size());
  });
  return size_of(words, bytes);
}

std::string_view ScoredText::text_of(Token token) const {
  if (token >= tokenizer_->vocabulary() || tokenizer_->is_special(token)) return {};
  return tokenizer_->bytes(token);
}

Index ScoredText::bytes_at(Index position) const {
  Token token = 0;
  tokens().read(position, std::span(&token, 1));
  return static_cast<Index>(text_of(token).size());
}

}  // namespace ssm::cli
