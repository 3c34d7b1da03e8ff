// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/tokenizer/regular_expression.hpp"
#include "ssm/tokenizer/unicode.hpp"

namespace ssm::detail {

/// The end of the piece of GPT-2's pre-tokenization that begins at `at`, in valid UTF-8: the first
/// match of
///   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
/// Cost    the length of the piece
/// Source  Radford et al. 2019 (GPT-2), the encoder published with the model
inline std::size_t gpt2_piece_end(std::string_view text, std::size_t at) {
  const auto& ascii = ascii_classes();
  const auto class_at = [&](std::size_t place, std::size_t& bytes) {
    const auto byte = static_cast<unsigned char>(text[place]);
    if (byte < 0x80) {
      bytes = 1;
      return ascii[byte];
    }
    const Character character = character_at(text, place);
    bytes = character.bytes;
    return class_of(character.code);
  };
  const auto run_end = [&](CharacterClass wanted, std::size_t place) {
    for (std::size_t bytes = 0; place < text.size(); place += bytes)
      if (class_at(place, bytes) != wanted) break;
    return place;
  };

  if (text[at] == '\'' && at + 1 < text.size()) {
    const char first = text[at + 1];
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    const std::string_view both = text.substr(at + 1, 2);
    if (both == "re" || both == "ve" || both == "ll") return at + 3;
  }
  std::size_t bytes = 0;
  CharacterClass kind = class_at(at, bytes);
  std::size_t begin = at;
  if (text[at] == ' ' && at + 1 < text.size()) {
    std::size_t next_bytes = 0;
    const CharacterClass next = class_at(at + 1, next_bytes);
    if (next != CharacterClass::space) {
      kind = next;
      bytes = next_bytes;
      begin = at + 1;
    }
  }
  const std::size_t end = run_end(kind, begin + bytes);
  if (kind != CharacterClass::space || end == text.size()) return end;
  // The last space of several goes with what follows.
  const std::size_t last = character_before(text, end);
  return last > at ? last : end;
}

/// One way of cutting a text.
struct PreTokenizerStep {
  enum class Kind { gpt2, byte_level, split, digits, metaspace };
  enum class Prepend { never, first, always };
  Kind kind = Kind::gpt2;
  bool adds_space = false;  // of gpt2 and byte_level: in front, where there is none
  std::optional<RegularExpression> pattern = {};  // of `split`: this, or else
  std::string words = {};                         // these bytes
  bool removes = false;                           // of `split`: what matches is left out
  bool inverts = false;                           // of `split`: matches are what lies between
  bool is_individual = false;                     // of `digits`: each is a piece
  std::string replacement = {};                   // of `metaspace`: what stands for a space
  Prepend prepend = Prepend::always;              // of `metaspace`
  bool splits = true;                             // of `metaspace`
};

/// The steps one after another, each cutting what the one before it left whole; keeps its memory
/// between calls.
class PreTokenizer {
 public:
  void add(PreTokenizerStep step) {
    steps_.push_back(std::move(step));
    buffers_.emplace_back();
  }
  const std::vector<PreTokenizerStep>& steps() const { return steps_; }

  /// Calls on_piece(piece) in the order of the text. `is_first`: nothing precedes the text.
  template <class OnPiece>
  void split(std::string_view text, bool is_first, OnPiece&& on_piece) {
    run(0, text, is_first, on_piece);
  }

 private:
  template <class OnPiece>
  void run(std::size_t index, std::string_view text, bool is_first, OnPiece& on_piece) {
    if (text.empty()) return;
    if (index == steps_.size()) {
      on_piece(text);
      return;
    }
    const PreTokenizerStep& step = steps_[index];
    const char* begin = text.data();
    const auto emit = [&](std::string_view part) {
      run(index + 1, part, is_first && part.data() == begin, on_piece);
    };
    switch (step.kind) {
      case PreTokenizerStep::Kind::gpt2:
      case PreTokenizerStep::Kind::byte_level:
        if (step.adds_space && text.front() != ' ') {
          text = with_front(index, " ", text);
          begin = text.data();
        }
        if (step.kind == PreTokenizerStep::Kind::byte_level) return emit(text);
        for (std::size_t at = 0; at < text.size();) {
          const std::size_t end = gpt2_piece_end(text, at);
          emit(text.substr(at, end - at));
          at = end;
        }
        return;
      case PreTokenizerStep::Kind::split:
        return split_by_pattern(step, text, emit);
      case PreTokenizerStep::Kind::digits:
        return split_digits(step, text, emit);
      case PreTokenizerStep::Kind::metaspace:
        text = replace_spaces(index, step, text, is_first);
        begin = text.data();
        if (!step.splits) return emit(text);
        for (std::size_t at = 0; at < text.size();) {
          const std::size_t end = std::min(text.find(step.replacement, at + 1), text.size());
          emit(text.substr(at, end - at));
          at = end;
        }
        return;
    }
  }

  template <class Emit>
  static void split_by_pattern(const PreTokenizerStep& step, std::string_view text,
                               const Emit& emit) {
    const auto part = [&](std::size_t begin, std::size_t end, bool is_match) {
      if (begin < end && !(step.removes && is_match != step.inverts))
        emit(text.substr(begin, end - begin));
    };
    std::size_t at = 0;
    while (at < text.size()) {
      std::optional<std::pair<std::size_t, std::size_t>> match;
      if (step.pattern) {
        match = step.pattern->find(text, at);
      } else if (const std::size_t found = text.find(step.words, at); found != text.npos) {
        match.emplace(found, found + step.words.size());
      }
      if (!match) break;
      part(at, match->first, false);
      part(match->first, match->second, true);
      at = match->second;
    }
    part(at, text.size(), false);
  }
  template <class Emit>
  static void split_digits(const PreTokenizerStep& step, std::string_view text, const Emit& emit) {
    std::size_t begin = 0;
    bool was_digit = false;
    for (std::size_t at = 0; at < text.size();) {
      const Character character = character_at(text, at);
      const bool is_digit = class_of(character.code) == CharacterClass::number;
      if (at > begin && (is_digit != was_digit || (is_digit && step.is_individual))) {
        emit(text.substr(begin, at - begin));
        begin = at;
      }
      was_digit = is_digit;
      at += character.bytes;
    }
    emit(text.substr(begin));
  }
  std::string_view with_front(std::size_t index, std::string_view front, std::string_view text) {
    std::string& out = buffers_[index];
    out = front;
    out += text;
    return out;
  }
  std::string_view replace_spaces(std::size_t index, const PreTokenizerStep& step,
                                  std::string_view text, bool is_first) {
    std::string& out = buffers_[index];
    out.clear();
    const bool is_wanted = step.prepend == PreTokenizerStep::Prepend::always ||
                           (step.prepend == PreTokenizerStep::Prepend::first && is_first);
    if (is_wanted && text.front() != ' ' && !text.starts_with(step.replacement))
      out += step.replacement;
    for (const char c : text) {
      if (c == ' ')
        out += step.replacement;
      else
        out += c;
    }
    return out;
  }

  std::vector<PreTokenizerStep> steps_;
  std::vector<std::string> buffers_;  // what a step writes that changes the text
};

}  // namespace ssm::detail
