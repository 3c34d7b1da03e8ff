// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "ssm/io/json_file.hpp"
#include "ssm/tokenizer/bpe_tokenizer.hpp"

namespace ssm::detail {

/// Takes a vocabulary and its merges in, checking them.
class BpeModelReader {
 public:
  BpeModelReader(BpeModel& model, std::string file) : model_(&model), file_(std::move(file)) {}

  /// An object of spellings and numbers.
  void read_vocabulary(const nlohmann::json& json, const std::string& name) {
    if (!json.is_object()) refuse(name, "must be a JSON object");
    // A number far beyond how many there are would only be room for nothing.
    const std::uint64_t most = 4 * static_cast<std::uint64_t>(json.size()) + 1024;
    model_->vocabulary.reserve(json.size());
    for (const auto& [spelling, id] : json.items()) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= most)
        refuse(name,
               "must give '" + printable(spelling) + "' a number below " + std::to_string(most));
      const auto token = static_cast<Token>(id.get<std::uint64_t>());
      if (token >= static_cast<Token>(spelling_of_.size()))
        spelling_of_.resize(static_cast<std::size_t>(token) + 1, nullptr);
      const std::string*& place = spelling_of_[static_cast<std::size_t>(token)];
      if (place != nullptr)
        refuse(name, "has the number " + std::to_string(token) + " twice, for '" +
                         printable(*place) + "' and '" + printable(spelling) + "'");
      place = &model_->spellings.emplace_back(spelling);
      model_->vocabulary.emplace(*place, token);
    }
  }

  /// Which file messages name from now on.
  void set_file(std::string file) { file_ = std::move(file); }
  void start_merges(std::size_t count) { model_->merges.reserve(count); }
  void add_merge(std::string_view left, std::string_view right, const std::string& name) {
    const auto find = [&](std::string_view spelling) {
      const auto token = model_->find(spelling);
      if (!token)
        refuse(name, "at " + std::to_string(rank_) + " needs '" + printable(spelling) +
                         "', which is not in the vocabulary");
      return *token;
    };
    const Token first = find(left), second = find(right);
    joined_.assign(left);
    joined_ += right;
    model_->merges.add(first, second, {rank_++, find(joined_)});
    model_->joins.add(left, right);
    merges_bytes_ = merges_bytes_ || is_byte(left) || is_byte(right);
    merged_.insert(first);
    merged_.insert(second);
  }
  /// "a b" as Hugging Face and OpenAI write it.
  void add_merge(std::string_view both, const std::string& name) {
    const std::size_t space = both.find(' ');
    if (space == both.npos || both.find(' ', space + 1) != both.npos)
      refuse(name, "at " + std::to_string(rank_) + " must be two tokens with a space between: '" +
                       printable(both) + "'");
    add_merge(both.substr(0, space), both.substr(space + 1), name);
  }
  /// Decides where pieces may be cut: neither among unknown characters, which count together, nor
  /// where what stands for a character is merged by another spelling.
  void finish() {
    const bool merges_unknown = model_->unknown && merged_.contains(*model_->unknown);
    if (model_->is_byte_level || model_->ignores_merges || merges_bytes_ || merges_unknown) return;
    bool has_all_bytes = model_->has_byte_fallback;
    for (int byte = 0; byte < 256; ++byte)
      has_all_bytes = has_all_bytes && model_->find(byte_token(static_cast<unsigned char>(byte)));
    for (std::size_t right = 0; right < CharacterJoins::kinds && !has_all_bytes; ++right)
      if (!model_->find(CharacterJoins::character_of(right)))
        for (std::size_t left = 0; left < CharacterJoins::kinds; ++left)
          model_->joins.add(left, right);
    model_->joins.allow_cuts();
  }

  /// By number; null where no token has it.
  const std::vector<const std::string*>& spelling_of() const { return spelling_of_; }

 private:
  static bool is_byte(std::string_view spelling) {
    return spelling.size() == 6 && spelling.starts_with("<0x") && spelling.ends_with('>');
  }
  [[noreturn]] void refuse(const std::string& name, const std::string& what) const {
    throw CheckpointError(file_, "", (name.empty() ? "" : "'" + name + "' ") + what);
  }

  BpeModel* model_;
  std::string file_;
  std::vector<const std::string*> spelling_of_;
  std::string joined_;
  std::uint32_t rank_ = 0;
  std::unordered_set<Token> merged_;
  bool merges_bytes_ = false;
};

/// How tokens become text.
struct TokenDecoder {
  bool is_byte_level = false;
  bool has_bytes = false;                                     // <0xE2> is a byte
  std::vector<std::pair<std::string, std::string>> replaced;  // in each token
  Index leading_spaces = 0;
  std::string front;  // of every token

  std::string text(std::string_view spelling) const {
    if (is_byte_level)
      if (auto bytes = byte_alphabet().bytes(spelling)) return *std::move(bytes);
    std::string text = front + std::string(spelling);
    for (const auto& [from, to] : replaced)
      for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size()))
        text.replace(at, from.size(), to);
    if (has_bytes && text.size() == 6 && text.starts_with("<0x") && text.back() == '>') {
      const auto digit = [](char c) {
        return c >= '0' && c <= '9'   ? c - '0'
               : c >= 'A' && c <= 'F' ? c - 'A' + 10
               : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                      : -1;
      };
      const int high = digit(text[3]), low = digit(text[4]);
      if (high >= 0 && low >= 0) return std::string(1, static_cast<char>(16 * high + low));
    }
    return text;
  }
};

/// Fills in what tokens there are and what they say.
inline void set_texts(BpeTokenizerParts& parts, const BpeModelReader& reader,
                      const TokenDecoder& decoder, const std::vector<AddedToken>& added) {
  Token last = static_cast<Token>(reader.spelling_of().size()) - 1;
  for (const AddedToken& token : added) last = std::max(last, token.id);
  parts.texts.resize(last + 1);
  for (Token token = 0; token < static_cast<Token>(reader.spelling_of().size()); ++token)
    if (const std::string* spelling = reader.spelling_of()[static_cast<std::size_t>(token)])
      parts.texts.set(token, decoder.text(*spelling), false);
  parts.leading_spaces = decoder.leading_spaces;
  for (const AddedToken& token : added) {
    const bool changes = token.is_normalized && !parts.normalizer.is_empty();
    const std::string content(changes ? parts.normalizer(token.content) : token.content);
    parts.texts.set(token.id, decoder.text(content), token.is_special);
    (token.is_normalized ? parts.after_normalization : parts.before_normalization)
        .add(content, token);
  }
}

/// Reads a tokenizer.json of the library tokenizers.
/// Throws  CheckpointError  for what is damaged, and for parts that are not supported
class TokenizerJson {
 public:
  explicit TokenizerJson(const JsonObject& json) : json_(json) {
    for (const char* part : {"truncation", "padding"})
      if (json.has(part)) json.refuse(part, "is not supported: it would change texts");
    read_model();  // but for what the pre-tokenizer decides
    read_added_tokens();
    if (json.has("normalizer")) read_normalizer(json.object("normalizer"));
    if (json.has("pre_tokenizer")) read_pre_tokenizer(json.object("pre_tokenizer"));
    check_pre_tokenizer();
    if (json.has("post_processor")) check_post_processor(json.object("post_processor"));
    if (json.has("decoder"))
      read_decoder(json.object("decoder"));
    else
      decoder_ = {.replaced = {}, .leading_spaces = 1, .front = " "};
    reader_->finish();
    set_texts(parts_, *reader_, decoder_, added_);
  }
  TokenizerJson(const TokenizerJson&) = delete;
  TokenizerJson& operator=(const TokenizerJson&) = delete;
  BpeTokenizerParts take() { return std::move(parts_); }

 private:
  static constexpr std::size_t longest_list = 64;

  /// The objects of a list, under their full names.
  static std::vector<JsonObject> objects(const JsonObject& owner, const std::string& name,
                                         const std::string& field) {
    std::vector<JsonObject> all;
    if (!owner.has(field)) owner.refuse(field, "is missing");
    const nlohmann::json& list = owner.json().at(field);
    if (!list.is_array()) owner.refuse(field, "must be a list");
    if (list.size() > longest_list)
      owner.refuse(field, "has more than " + std::to_string(longest_list) + " entries");
    for (std::size_t i = 0; i < list.size(); ++i)
      all.emplace_back(owner.file(), list[i],
                       (name.empty() ? "" : name + ".") + field + "[" + std::to_string(i) + "]");
    return all;
  }
  static std::string type_of(const JsonObject& part) {
    if (!part.has("type")) part.refuse("type", "is missing");
    return part.text("type", "");
  }
  [[noreturn]] static void refuse_type(const JsonObject& part) {
    part.refuse("type", "'" + printable(type_of(part)) + "' is not supported");
  }

  void read_model() {
    if (!json_.has("model")) json_.refuse("model", "is missing");
    const JsonObject model = json_.object("model");
    if (model.text("type", "BPE") != "BPE") refuse_type(model);
    for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!model.text(field, "").empty()) model.refuse(field, "is not supported");
    if (model.number("dropout", 0, 0, 1) != 0) model.refuse("dropout", "is not supported");
    BpeModel& bpe = parts_.model;
    reader_.emplace(bpe, json_.file());
    for (const char* field : {"vocab", "merges"})
      if (!model.has(field)) model.refuse(field, "is missing");
    reader_->read_vocabulary(model.json().at("vocab"), "model.vocab");
    const nlohmann::json& merges = model.json().at("merges");
    if (!merges.is_array()) model.refuse("merges", "must be a list");
    reader_->start_merges(merges.size());
    for (const nlohmann::json& merge : merges) {
      if (merge.is_string())
        reader_->add_merge(merge.get_ref<const std::string&>(), "model.merges");
      else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string())
        reader_->add_merge(merge[0].get_ref<const std::string&>(),
                           merge[1].get_ref<const std::string&>(), "model.merges");
      else
        model.refuse("merges", "must be a list of pairs of tokens");
    }
    if (model.has("unk_token")) {
      const std::string unknown = model.text("unk_token", "");
      bpe.unknown = bpe.find(unknown);
      if (!bpe.unknown)
        model.refuse("unk_token", "'" + printable(unknown) + "' is not in the vocabulary");
    }
    bpe.fuses_unknown = model.boolean("fuse_unk", false);
    bpe.has_byte_fallback = model.boolean("byte_fallback", false);
    bpe.ignores_merges = model.boolean("ignore_merges", false);
  }

  void read_added_tokens() {
    if (!json_.has("added_tokens")) return;
    const nlohmann::json& list = json_.json().at("added_tokens");
    if (!list.is_array()) json_.refuse("added_tokens", "must be a list");
    const auto most =
        static_cast<std::int64_t>(4 * (reader_->spelling_of().size() + list.size()) + 1024);
    std::map<Token, std::string> names;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const JsonObject entry(json_.file(), list[i], "added_tokens[" + std::to_string(i) + "]");
      AddedToken token;
      token.content = entry.text("content", "");
      if (token.content.empty() || token.content.size() > 1024)
        entry.refuse("content", "must be 1 to 1024 bytes");
      token.id = static_cast<Token>(entry.integer("id", 0, most));
      token.is_special = entry.boolean("special", false);
      token.is_single_word = entry.boolean("single_word", false);
      token.takes_left = entry.boolean("lstrip", false);
      token.takes_right = entry.boolean("rstrip", false);
      token.is_normalized = entry.boolean("normalized", !token.is_special);
      const auto known = parts_.model.find(token.content);
      const auto& spellings = reader_->spelling_of();
      const auto place = static_cast<std::size_t>(token.id);
      const bool is_taken = place < spellings.size() && spellings[place] != nullptr;
      if ((known && *known != token.id) || (!known && is_taken) ||
          !names.emplace(token.id, token.content).second)
        entry.refuse("id", std::to_string(token.id) + " contradicts the vocabulary");
      added_.push_back(std::move(token));
    }
  }

  void read_normalizer(const JsonObject& part, const std::string& name = "normalizer") {
    const std::string type = type_of(part);
    using Kind = NormalizerStep::Kind;
    static const std::map<std::string, NormalForm> forms{{"NFC", NormalForm::nfc},
                                                         {"NFD", NormalForm::nfd},
                                                         {"NFKC", NormalForm::nfkc},
                                                         {"NFKD", NormalForm::nfkd}};
    if (const auto form = forms.find(type); form != forms.end()) {
      parts_.normalizer.add({.kind = Kind::form, .form = form->second});
    } else if (type == "Prepend") {
      parts_.normalizer.add({.kind = Kind::prepend, .content = part.text("prepend", "")});
    } else if (type == "Replace") {
      parts_.normalizer.add({.kind = Kind::replace,
                             .pattern = literal_pattern(part),
                             .content = part.text("content", "")});
    } else if (type == "Sequence") {
      std::size_t i = 0;
      for (const JsonObject& step : objects(part, name, "normalizers"))
        read_normalizer(step, name + ".normalizers[" + std::to_string(i++) + "]");
    } else {
      refuse_type(part);
    }
  }
  /// {"String": "…"}
  static std::string literal_pattern(const JsonObject& part) {
    const JsonObject pattern = part.object("pattern");
    const std::string words = pattern.text("String", "");
    if (words.empty())
      part.refuse("pattern", "must be {\"String\": \"…\"}, others are not supported");
    return words;
  }

  void read_pre_tokenizer(const JsonObject& part, const std::string& name = "pre_tokenizer") {
    const std::string type = type_of(part);
    using Kind = PreTokenizerStep::Kind;
    PreTokenizerStep step;
    if (type == "Sequence") {
      std::size_t i = 0;
      for (const JsonObject& inner : objects(part, name, "pretokenizers"))
        read_pre_tokenizer(inner, name + ".pretokenizers[" + std::to_string(i++) + "]");
      return;
    }
    if (type == "ByteLevel") {
      step.kind = part.boolean("use_regex", true) ? Kind::gpt2 : Kind::byte_level;
      step.adds_space = part.boolean("add_prefix_space", true);
      parts_.model.is_byte_level = true;
    } else if (type == "Split") {
      step.kind = Kind::split;
      const JsonObject pattern = part.object("pattern");
      if (pattern.has("Regex")) {
        try {
          step.pattern.emplace(pattern.text("Regex", ""));
        } catch (const ArgumentError& error) {
          part.refuse("pattern", error.what());
        }
      } else {
        step.words = literal_pattern(part);
      }
      const std::string behavior = part.text("behavior", "");
      if (behavior != "Isolated" && behavior != "Removed")
        part.refuse("behavior", "'" + printable(behavior) + "' is not supported");
      step.removes = behavior == "Removed";
      step.inverts = part.boolean("invert", false);
    } else if (type == "Digits") {
      step.kind = Kind::digits;
      step.is_individual = part.boolean("individual_digits", false);
    } else if (type == "Metaspace") {
      step.kind = Kind::metaspace;
      step.replacement = part.text("replacement", "\u2581");
      const std::string scheme =
          part.text("prepend_scheme", part.boolean("add_prefix_space", true) ? "always" : "never");
      if (scheme != "always" && scheme != "first" && scheme != "never")
        part.refuse("prepend_scheme", "'" + printable(scheme) + "' is not supported");
      step.prepend = scheme == "always"  ? PreTokenizerStep::Prepend::always
                     : scheme == "first" ? PreTokenizerStep::Prepend::first
                                         : PreTokenizerStep::Prepend::never;
      step.splits = part.boolean("split", true);
      if (step.replacement.empty() || step.replacement.size() > 4)
        part.refuse("replacement", "must be one character");
    } else {
      refuse_type(part);
    }
    parts_.pre_tokenizer.add(std::move(step));
    if (parts_.pre_tokenizer.steps().size() > longest_list)
      part.refuse("type", "is one of more than " + std::to_string(longest_list));
  }
  /// Bytes are spelled by characters only at the end here.
  void check_pre_tokenizer() const {
    const auto& steps = parts_.pre_tokenizer.steps();
    for (std::size_t i = 0; i + 1 < steps.size(); ++i)
      if (steps[i].kind == PreTokenizerStep::Kind::gpt2 ||
          steps[i].kind == PreTokenizerStep::Kind::byte_level)
        json_.refuse("pre_tokenizer", "has ByteLevel before the end, which is not supported");
  }
  /// They add tokens that `encode` does not add, or change what is not told: all that are known do
  /// nothing here.
  static void check_post_processor(const JsonObject& part) {
    const std::string type = type_of(part);
    if (type == "Sequence") {
      for (const JsonObject& inner : objects(part, "post_processor", "processors"))
        check_post_processor(inner);
      return;
    }
    if (type != "ByteLevel" && type != "TemplateProcessing" && type != "RobertaProcessing" &&
        type != "BertProcessing")
      refuse_type(part);
  }

  void read_decoder(const JsonObject& part, const std::string& name = "decoder") {
    const std::string type = type_of(part);
    if (type == "Sequence") {
      std::size_t i = 0;
      for (const JsonObject& inner : objects(part, name, "decoders"))
        read_decoder(inner, name + ".decoders[" + std::to_string(i++) + "]");
    } else if (type == "ByteLevel") {
      decoder_.is_byte_level = true;
    } else if (type == "ByteFallback") {
      decoder_.has_bytes = true;
    } else if (type == "Fuse") {
      is_fused_ = true;
    } else if (type == "Replace" && !is_fused_) {
      decoder_.replaced.emplace_back(literal_pattern(part), part.text("content", ""));
    } else if (type == "Metaspace" && !is_fused_) {
      decoder_.replaced.emplace_back(part.text("replacement", "\u2581"), " ");
      if (decoder_.replaced.back().first.empty()) part.refuse("replacement", "is empty");
      const bool adds = part.boolean("add_prefix_space", true);
      decoder_.leading_spaces = part.text("prepend_scheme", adds ? "always" : "never") != "never";
    } else if (type == "Strip" && is_fused_ && part.text("content", "") == " " &&
               part.integer("stop", 0) == 0) {
      decoder_.leading_spaces = part.integer("start", 0, 1024);
    } else {
      part.refuse("type", "'" + printable(type) + "' is not supported here");
    }
  }

  const JsonObject& json_;
  BpeTokenizerParts parts_;
  std::optional<BpeModelReader> reader_;
  std::vector<AddedToken> added_;
  TokenDecoder decoder_;
  bool is_fused_ = false;
};

/// A tokenizer from GPT-2's two files. <|endoftext|> is a special token, if the vocabulary has it.
/// Throws  CheckpointError  for what is damaged
inline BpeTokenizerParts gpt2_parts(const JsonObject& vocabulary, std::string_view merges,
                                    const std::string& merges_file) {
  BpeTokenizerParts parts;
  parts.model.is_byte_level = true;
  BpeModelReader reader(parts.model, vocabulary.file());
  reader.read_vocabulary(vocabulary.json(), "");
  reader.set_file(merges_file);
  reader.start_merges(static_cast<std::size_t>(std::count(merges.begin(), merges.end(), '\n')) + 1);
  while (!merges.empty()) {
    const std::size_t end = std::min(merges.find('\n'), merges.size());
    std::string_view line = merges.substr(0, end);
    merges.remove_prefix(std::min(end + 1, merges.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    reader.add_merge(line, "");
  }
  reader.finish();
  parts.pre_tokenizer.add({});
  std::vector<AddedToken> added;
  if (const auto end = parts.model.find("<|endoftext|>"))
    added.push_back(
        {.content = "<|endoftext|>", .id = *end, .is_special = true, .is_normalized = false});
  set_texts(parts, reader, {.is_byte_level = true, .replaced = {}, .front = {}}, added);
  return parts;
}

}  // namespace ssm::detail
