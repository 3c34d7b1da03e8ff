// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/core/scalar.hpp"  // Token
#include "ssm/tokenizer/byte_alphabet.hpp"

namespace ssm::detail {

/// Which pairs of tokens become one, and which of two pairs first.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank;  // smaller ones first
    Token token;
  };
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  void reserve(std::size_t count) {
    entries_.assign(std::bit_ceil(std::max<std::size_t>(16, count * 2 + 2)), Entry{});
  }
  /// A pair that is there already gets the new rank and token.
  void add(Token left, Token right, Merge merge) {
    const std::uint64_t key = key_of(left, right);
    std::size_t slot = slot_of(key);
    while (entries_[slot].merge.rank != none && entries_[slot].key != key)
      slot = (slot + 1) & (entries_.size() - 1);
    entries_[slot] = {key, merge};
  }
  /// Rank `none` where the pair does not become one token.
  Merge find(Token left, Token right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t slot = slot_of(key);; slot = (slot + 1) & (entries_.size() - 1)) {
      const Entry& entry = entries_[slot];
      if (entry.key == key || entry.merge.rank == none) return entry.merge;
    }
  }

 private:
  struct Entry {
    std::uint64_t key = ~std::uint64_t{0};
    Merge merge{none, 0};
  };
  static std::uint64_t key_of(Token left, Token right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t slot_of(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15U) >> 20) & (entries_.size() - 1);
  }
  std::vector<Entry> entries_ = std::vector<Entry>(16);
};

/// <0xE2>: how vocabularies of characters spell a byte.
inline std::string byte_token(unsigned char byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
}

/// Which characters may stand side by side in a token that merges make. Between any others a piece
/// may be cut: no merge reaches over the cut, so that the parts are encoded on their own. Told
/// apart are the characters of ASCII and U+2581, the mark of a space; all others count as one.
class CharacterJoins {
 public:
  static constexpr std::string_view mark = "\u2581";
  static constexpr std::size_t kinds = 130;

  static std::size_t kind_of(std::string_view text, std::size_t at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x80) return byte;
    return text.substr(at).starts_with(mark) ? 128 : 129;
  }
  /// One character of a kind, if there is only one.
  static std::string character_of(std::size_t kind) {
    if (kind < 128) return std::string(1, static_cast<char>(kind));
    return kind == 128 ? std::string(mark) : std::string();
  }
  void add(std::string_view left, std::string_view right) {
    if (left.empty() || right.empty()) return;
    add(kind_of(left, character_before(left, left.size())), kind_of(right, 0));
  }
  void add(std::size_t left, std::size_t right) { all_[left].set(right); }
  void allow_cuts() { may_cut_ = true; }
  bool may_cut() const { return may_cut_; }

  /// Calls visit(part) for the parts of a piece.
  template <class Visit>
  void split(std::string_view piece, Visit&& visit) const {
    std::size_t begin = 0;
    std::size_t previous = kinds;
    for (std::size_t at = 0; at < piece.size();) {
      const std::size_t kind = kind_of(piece, at);
      if (previous < kinds && !all_[previous].test(kind)) {
        visit(piece.substr(begin, at - begin));
        begin = at;
      }
      previous = kind;
      at += kind < 128 ? 1 : character_at(piece, at).bytes;
    }
    if (begin < piece.size()) visit(piece.substr(begin));
  }

 private:
  std::array<std::bitset<kinds>, kinds> all_{};
  bool may_cut_ = false;
};

/// The vocabulary and merges of byte pair encoding, as a file says them; see BpeEncoder for what
/// they do.
struct BpeModel {
  std::deque<std::string> spellings;  // stay where they are
  std::unordered_map<std::string_view, Token> vocabulary;
  MergeTable merges;
  bool is_byte_level = false;      // pieces are bytes, which ByteAlphabet spells in the vocabulary
  bool has_byte_fallback = false;  // characters outside the vocabulary become tokens <0xE2>
  bool fuses_unknown = false;      // several unknown characters in a row are one unknown token
  bool ignores_merges = false;     // a piece that is a token is that token
  std::optional<Token> unknown;
  CharacterJoins joins;  // where pieces of characters may be cut

  std::optional<Token> find(std::string_view spelling) const {
    const auto found = vocabulary.find(spelling);
    if (found == vocabulary.end()) return std::nullopt;
    return found->second;
  }
};

/// Byte pair encoding of one piece at a time: characters become tokens, and the pair of neighbors
/// that the merges list first becomes one, until none is listed; of several places the first.
/// Cost    O(n log n) for a piece of n characters
/// Source  Sennrich et al. 2016; Gage 1994
class BpeEncoder {
 public:
  /// The model must outlive it.
  explicit BpeEncoder(const BpeModel& model) : model_(&model) {
    if (model.is_byte_level)
      for (std::size_t byte = 0; byte < 256; ++byte) {
        begin_symbols();
        add_character(byte_alphabet().character(static_cast<unsigned char>(byte)));
        end_symbols();
        is_plain_ = is_plain_ && symbols_.size() == 1 && symbols_.front() != unknown();
        if (is_plain_) of_byte_[byte] = symbols_.front();
      }
    for (std::size_t code = 0; code < ascii_.size(); ++code)
      ascii_[code] = model.find(std::string(1, static_cast<char>(code))).value_or(gone);
  }
  BpeEncoder(const BpeEncoder&) = default;
  BpeEncoder& operator=(const BpeEncoder&) = delete;

  /// Appends the tokens of a piece.
  /// Throws  ArgumentError  for a piece of 4 GiB
  void append(std::string_view piece, std::vector<Token>& tokens) {
    if (piece.size() >= gone_place)
      throw ArgumentError("tokenizer: a piece of text without a break has 4 GiB");
    if (model_->ignores_merges) {
      const auto whole =
          model_->find(model_->is_byte_level ? byte_alphabet().spelled(piece) : std::string(piece));
      if (whole) {
        tokens.push_back(*whole);
        return;
      }
    }
    set_symbols(piece);
    if (symbols_.size() <= few)
      merge_few();
    else
      merge_many();
    tokens.insert(tokens.end(), symbols_.begin(), symbols_.end());
  }

 private:
  static constexpr std::size_t few = 32;
  static constexpr std::size_t gone_place = ~std::uint32_t{0};

  Token unknown() const { return model_->unknown.value_or(-1); }

  void set_symbols(std::string_view piece) {
    begin_symbols();
    if (model_->is_byte_level && is_plain_) {
      for (const char c : piece) symbols_.push_back(of_byte_[static_cast<unsigned char>(c)]);
    } else if (model_->is_byte_level) {
      for (const char c : piece)
        add_character(byte_alphabet().character(static_cast<unsigned char>(c)));
    } else {
      for (std::size_t at = 0; at < piece.size();) {
        const auto byte = static_cast<unsigned char>(piece[at]);
        if (byte < 0x80 && ascii_[byte] != gone) {
          end_symbols();
          symbols_.push_back(ascii_[byte]);
          ++at;
          continue;
        }
        const std::size_t bytes = character_at(piece, at).bytes;
        add_character(piece.substr(at, bytes));
        at += bytes;
      }
    }
    end_symbols();
  }
  void begin_symbols() {
    symbols_.clear();
    is_unknown_held_ = false;
  }
  /// An unknown character waits, so that the next one can join it; bytes do not end the wait.
  void end_symbols() {
    if (is_unknown_held_) symbols_.push_back(unknown());
    is_unknown_held_ = false;
  }
  void add_character(std::string_view character) {
    if (const auto token = model_->find(character)) {
      end_symbols();
      symbols_.push_back(*token);
      return;
    }
    if (model_->has_byte_fallback && add_bytes(character)) return;
    if (!model_->unknown) return;
    if (!model_->fuses_unknown) end_symbols();
    is_unknown_held_ = true;
  }
  bool add_bytes(std::string_view character) {
    const std::size_t before = symbols_.size();
    for (const char c : character) {
      const auto token = model_->find(byte_token(static_cast<unsigned char>(c)));
      if (!token) {
        symbols_.resize(before);
        return false;
      }
      symbols_.push_back(*token);
    }
    return true;
  }

  /// Looks at all pairs for each merge.
  void merge_few() {
    std::array<MergeTable::Merge, few> pairs;  // of a symbol and the next
    std::size_t count = symbols_.size();
    if (count < 2) return;
    for (std::size_t i = 0; i + 1 < count; ++i)
      pairs[i] = model_->merges.find(symbols_[i], symbols_[i + 1]);
    for (;;) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < count; ++i)
        if (pairs[i].rank < pairs[best].rank) best = i;
      if (count < 2 || pairs[best].rank == MergeTable::none) break;
      symbols_[best] = pairs[best].token;
      for (std::size_t i = best + 1; i + 1 < count; ++i) {
        symbols_[i] = symbols_[i + 1];
        pairs[i - 1] = pairs[i];
      }
      --count;
      if (best > 0) pairs[best - 1] = model_->merges.find(symbols_[best - 1], symbols_[best]);
      if (best + 1 < count) pairs[best] = model_->merges.find(symbols_[best], symbols_[best + 1]);
    }
    symbols_.resize(count);
  }

  struct Candidate {
    std::uint32_t rank;
    std::uint32_t place;
    Token left, right;
    Token token;

    /// Of a heap whose top comes first.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : place > other.place;
    }
  };
  void add_candidate(std::uint32_t left, std::uint32_t right) {
    const auto merge = model_->merges.find(symbols_[left], symbols_[right]);
    if (merge.rank == MergeTable::none) return;
    candidates_.push_back({merge.rank, left, symbols_[left], symbols_[right], merge.token});
  }
  /// Keeps all pairs in a heap.
  void merge_many() {
    const auto count = static_cast<std::uint32_t>(symbols_.size());
    next_.resize(count);
    previous_.resize(count);
    candidates_.clear();
    for (std::uint32_t i = 0; i < count; ++i) {
      next_[i] = i + 1;
      previous_[i] = i - 1;
      if (i + 1 < count) add_candidate(i, i + 1);
    }
    std::make_heap(candidates_.begin(), candidates_.end());
    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end());
      const Candidate best = candidates_.back();
      candidates_.pop_back();
      const std::uint32_t left = best.place;
      // What has been merged since is out of date.
      if (symbols_[left] != best.left || next_[left] >= count) continue;
      const std::uint32_t right = next_[left];
      if (symbols_[right] != best.right) continue;
      symbols_[left] = best.token;
      symbols_[right] = gone;
      next_[left] = next_[right];
      if (next_[left] < count) previous_[next_[left]] = left;
      const auto add = [&](std::uint32_t a, std::uint32_t b) {
        const std::size_t before = candidates_.size();
        add_candidate(a, b);
        if (candidates_.size() > before) std::push_heap(candidates_.begin(), candidates_.end());
      };
      if (left > 0) add(previous_[left], left);
      if (next_[left] < count) add(left, next_[left]);
    }
    std::size_t kept = 0;
    for (std::uint32_t i = 0; i < count; i = next_[i]) symbols_[kept++] = symbols_[i];
    symbols_.resize(kept);
  }
  static constexpr Token gone = -1;

  const BpeModel* model_;
  std::vector<Token> symbols_;
  bool is_unknown_held_ = false;
  bool is_plain_ = true;  // every byte begins as one token, whatever precedes
  std::array<Token, 256> of_byte_{};
  std::array<Token, 128> ascii_{};  // `gone` where the vocabulary has no such token
  std::vector<std::uint32_t> next_, previous_;
  std::vector<Candidate> candidates_;
};

/// The tokens of words that occurred lately. Bounded: when it is full it begins anew.
class WordCache {
 public:
  static constexpr std::size_t longest_word = 128;  // bytes; longer ones seldom come back

  /// The tokens of a word, made by encode(word, tokens) where they are not remembered.
  template <class Encode>
  void append(std::string_view word, std::vector<Token>& tokens, Encode&& encode) {
    if (word.size() > longest_word) return encode(word, tokens);
    if (entries_.empty()) clear();
    const std::uint64_t hash = hash_of(word);
    std::size_t slot = static_cast<std::size_t>(hash) & (slots - 1);
    for (; entries_[slot].hash != 0; slot = (slot + 1) & (slots - 1)) {
      const Entry& entry = entries_[slot];
      if (entry.hash == hash && entry.bytes == word.size() &&
          std::string_view(words_).substr(entry.word, entry.bytes) == word) {
        const Token* first = tokens_.data() + entry.tokens;
        tokens.insert(tokens.end(), first, first + entry.count);
        return;
      }
    }
    const std::size_t before = tokens.size();
    encode(word, tokens);
    if (count_ == slots / 2) {
      clear();
      return;
    }
    ++count_;
    entries_[slot] = {hash, static_cast<std::uint32_t>(words_.size()),
                      static_cast<std::uint32_t>(tokens_.size()),
                      static_cast<std::uint16_t>(word.size()),
                      static_cast<std::uint16_t>(tokens.size() - before)};
    words_ += word;
    tokens_.insert(tokens_.end(), tokens.begin() + static_cast<std::ptrdiff_t>(before),
                   tokens.end());
  }

 private:
  static constexpr std::size_t slots = std::size_t{1} << 16;
  struct Entry {
    std::uint64_t hash = 0;  // 0: free
    std::uint32_t word = 0;
    std::uint32_t tokens = 0;
    std::uint16_t bytes = 0;
    std::uint16_t count = 0;
  };

  static std::uint64_t hash_of(std::string_view word) {
    std::uint64_t hash = word.size() * 0x9e3779b97f4a7c15U;
    const char* at = word.data();
    std::size_t left = word.size();
    const auto mix = [&](std::uint64_t block) {
      hash = (hash ^ block) * 0xff51afd7ed558ccdU;
      hash ^= hash >> 32;
    };
    for (; left >= 8; at += 8, left -= 8) {
      std::uint64_t block = 0;
      std::memcpy(&block, at, 8);
      mix(block);
    }
    std::uint64_t block = 0;
    for (std::size_t i = 0; i < left; ++i)
      block |= static_cast<std::uint64_t>(static_cast<unsigned char>(at[i])) << (8 * i);
    mix(block);
    return hash | 1;
  }
  void clear() {
    entries_.assign(slots, Entry{});
    words_.clear();
    tokens_.clear();
    count_ = 0;
  }

  std::vector<Entry> entries_;
  std::string words_;
  std::vector<Token> tokens_;
  std::size_t count_ = 0;
};

}  // namespace ssm::detail
