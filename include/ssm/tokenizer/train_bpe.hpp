// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/utf8.hpp"
#include "ssm/tokenizer/byte_alphabet.hpp"
#include "ssm/tokenizer/pre_tokenizer.hpp"

namespace ssm {

/// What a tokenizer is trained to.
struct BpeTrainingOptions {
  Index vocabulary = 8192;  // special tokens and the 256 bytes included
  Index least_count = 2;    // pairs that occur less often stay apart
  std::vector<std::string> special = {"<|endoftext|>"};
  /// Told after every merge how many tokens there are; false ends the training there.
  std::function<bool(Index)> on_token = [](Index) { return true; };
};

/// Trains byte pair encoding of GPT-2's kind on texts: of all pairs of neighboring tokens inside of
/// words, the one that occurs most often becomes a token, again and again. Of pairs that occur
/// equally often, the one whose left token has the smaller number comes first, then the one whose
/// right token has. Special tokens have the first numbers, then come the bytes in the order of
/// the characters that spell them.
///   BpeTrainer trainer({.vocabulary = 4096});
///   trainer.add(read_text("book.txt"));
///   write_text_file("tokenizer.json", trainer.train());
/// Cost    memory for the words that differ; time for the merges as often as the words that they
///         change
/// Throws  ArgumentError  for a vocabulary that does not hold the special tokens and the bytes,
///                        or special tokens that are empty or alike
/// Source  Sennrich et al. 2016; Radford et al. 2019 (GPT-2)
class BpeTrainer {
 public:
  explicit BpeTrainer(BpeTrainingOptions options = {}) : options_(std::move(options)) {
    std::vector<std::string> names = options_.special;
    std::sort(names.begin(), names.end());
    const bool are_bad = std::adjacent_find(names.begin(), names.end()) != names.end() ||
                         std::any_of(names.begin(), names.end(), [](const std::string& name) {
                           const auto bytes = detail::byte_alphabet().bytes(
                               detail::valid_utf8_prefix(name) == name.size() ? name : "");
                           return name.empty() || (bytes && bytes->size() <= 1);
                         });
    if (are_bad)
      throw ArgumentError("BPE training: special tokens must be different texts of two characters");
    const auto fixed = static_cast<Index>(names.size()) + 256;
    if (options_.vocabulary < fixed || options_.vocabulary > largest)
      throw ArgumentError(message({"BPE training: a vocabulary of ", options_.vocabulary,
                                   ", it must be from ", fixed, " to ", largest}));
  }

  /// Counts the words of a text. Bytes that are not UTF-8 count as U+FFFD.
  void add(std::string_view text) {
    std::string valid;
    if (detail::valid_utf8_prefix(text) != text.size())
      text = valid = detail::replace_invalid_utf8(text);
    std::string word;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = detail::gpt2_piece_end(text, at);
      word = text.substr(at, end - at);
      ++counts_[word];
      at = end;
    }
  }
  /// The text may be cut behind this byte without changing its words: a new line that stands alone
  /// in front of what is no space.
  static bool may_cut_behind(std::string_view text, std::size_t at) {
    if (at == 0 || at + 1 >= text.size() || text[at] != '\n') return false;
    const auto is_plain = [](char c) { return c > ' ' && c < 0x7f; };
    return is_plain(text[at - 1]) && is_plain(text[at + 1]);
  }

  /// The tokenizer.json of what was added.
  std::string train() {
    start();
    while (static_cast<Index>(spellings_.size()) < options_.vocabulary && !candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      const std::int64_t count = pairs_[best.pair].count;
      if (count != best.count) {
        if (count > 0) candidates_.push({count, best.pair});
        continue;
      }
      if (count < std::max<Index>(options_.least_count, 1)) break;
      merge(best.pair);
      if (!options_.on_token(static_cast<Index>(spellings_.size()))) break;
    }
    return json();
  }

 private:
  static constexpr Index largest = Index{1} << 24;

  struct Candidate {
    std::int64_t count;
    std::uint64_t pair;  // the left token in the upper half
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };
  struct Pair {
    std::int64_t count = 0;
    std::vector<std::uint32_t> words;  // where it may occur
  };
  struct Word {
    std::vector<std::uint32_t> tokens;
    std::int64_t count;
  };

  static std::uint64_t pair_of(std::uint32_t left, std::uint32_t right) {
    return static_cast<std::uint64_t>(left) << 32 | right;
  }
  void start() {
    spellings_ = options_.special;
    merges_.clear();
    words_.clear();
    pairs_.clear();
    numbers_.clear();
    std::map<std::string, unsigned char> alphabet;
    for (int byte = 0; byte < 256; ++byte)
      alphabet[detail::byte_alphabet().character(static_cast<unsigned char>(byte))] =
          static_cast<unsigned char>(byte);
    std::vector<std::uint32_t> token_of(256);
    for (const auto& [character, byte] : alphabet) {  // in the order of code points, as UTF-8 is
      token_of[byte] = static_cast<std::uint32_t>(spellings_.size());
      spellings_.push_back(character);
    }
    for (std::size_t i = 0; i < spellings_.size(); ++i)
      numbers_[spellings_[i]] = static_cast<std::uint32_t>(i);
    words_.reserve(counts_.size());
    for (const auto& [text, count] : counts_) {
      Word word{{}, count};
      for (const char c : text) word.tokens.push_back(token_of[static_cast<unsigned char>(c)]);
      const auto number = static_cast<std::uint32_t>(words_.size());
      for (std::size_t i = 0; i + 1 < word.tokens.size(); ++i)
        change(pair_of(word.tokens[i], word.tokens[i + 1]), count, number);
      words_.push_back(std::move(word));
    }
    candidates_ = {};
    for (const auto& [pair, what] : pairs_) candidates_.push({what.count, pair});
  }
  void change(std::uint64_t pair, std::int64_t count, std::uint32_t word) {
    Pair& entry = pairs_[pair];
    entry.count += count;
    if (count > 0 && (entry.words.empty() || entry.words.back() != word))
      entry.words.push_back(word);
  }

  void merge(std::uint64_t pair) {
    const auto left = static_cast<std::uint32_t>(pair >> 32);
    const auto right = static_cast<std::uint32_t>(pair);
    const std::string spelling = spellings_[left] + spellings_[right];
    merges_.emplace_back(left, right);
    const auto [known, is_new] =
        numbers_.emplace(spelling, static_cast<std::uint32_t>(spellings_.size()));
    if (is_new) spellings_.push_back(spelling);
    const std::uint32_t token = known->second;
    const std::vector<std::uint32_t> places = std::move(pairs_[pair].words);
    pairs_[pair].words.clear();
    grown_.clear();
    for (const std::uint32_t number : places) merge_in(number, left, right, token);
    pairs_[pair].count = 0;
    std::sort(grown_.begin(), grown_.end());
    grown_.erase(std::unique(grown_.begin(), grown_.end()), grown_.end());
    for (const std::uint64_t grown : grown_)
      if (pairs_[grown].count > 0) candidates_.push({pairs_[grown].count, grown});
  }
  void merge_in(std::uint32_t number, std::uint32_t left, std::uint32_t right,
                std::uint32_t token) {
    Word& word = words_[number];
    std::vector<std::uint32_t>& tokens = word.tokens;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < tokens.size();) {
      if (i + 1 == tokens.size() || tokens[i] != left || tokens[i + 1] != right) {
        tokens[kept++] = tokens[i++];
        continue;
      }
      if (kept > 0) {
        change(pair_of(tokens[kept - 1], left), -word.count, number);
        change(pair_of(tokens[kept - 1], token), word.count, number);
        grown_.push_back(pair_of(tokens[kept - 1], token));
      }
      if (i + 2 < tokens.size()) {
        change(pair_of(right, tokens[i + 2]), -word.count, number);
        change(pair_of(token, tokens[i + 2]), word.count, number);
        grown_.push_back(pair_of(token, tokens[i + 2]));
      }
      tokens[kept++] = token;
      i += 2;
    }
    tokens.resize(kept);
  }

  std::string json() const {
    using Json = nlohmann::ordered_json;
    Json added = Json::array();
    for (std::size_t i = 0; i < options_.special.size(); ++i)
      added.push_back({{"id", i},
                       {"content", options_.special[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    const Json bytes{{"type", "ByteLevel"},
                     {"add_prefix_space", false},
                     {"trim_offsets", true},
                     {"use_regex", true}};
    Json vocabulary = Json::object();
    for (std::size_t i = 0; i < spellings_.size(); ++i)
      vocabulary.get_ref<Json::object_t&>().emplace_back(spellings_[i], i);
    Json merges = Json::array();
    for (const auto& [left, right] : merges_)
      merges.push_back(spellings_[left] + " " + spellings_[right]);
    const Json all{{"version", "1.0"},
                   {"truncation", nullptr},
                   {"padding", nullptr},
                   {"added_tokens", added},
                   {"normalizer", nullptr},
                   {"pre_tokenizer", bytes},
                   {"post_processor", nullptr},
                   {"decoder", bytes},
                   {"model",
                    {{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr},
                     {"fuse_unk", false},
                     {"byte_fallback", false},
                     {"ignore_merges", false},
                     {"vocab", vocabulary},
                     {"merges", merges}}}};
    return all.dump(1) + "\n";
  }

  BpeTrainingOptions options_;
  std::unordered_map<std::string, std::int64_t> counts_;
  std::vector<std::string> spellings_;
  std::unordered_map<std::string, std::uint32_t> numbers_;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> merges_;
  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> candidates_;
  std::vector<std::uint64_t> grown_;
};

}  // namespace ssm
