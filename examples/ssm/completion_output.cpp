// SPDX-License-Identifier: Apache-2.0
#include "completion_output.hpp"

#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "ssm/io/detokenizer.hpp"
#include "ssm/io/number.hpp"

namespace ssm::cli {
namespace {

std::string joined(const Tokens& tokens) {
  std::string text;
  for (const Token token : tokens) text += (text.empty() ? "" : " ") + std::to_string(token);
  return text;
}
const char* name_of(CompletionEnd end) {
  switch (end) {
    case CompletionEnd::tokens:
      return "tokens";
    case CompletionEnd::end_token:
      return "end_token";
    case CompletionEnd::stop_string:
      return "stop_string";
    case CompletionEnd::positions:
      return "positions";
    case CompletionEnd::visitor:
      return "interrupt";
  }
  return "";
}
/// A prompt from a file may hold anything; JSON is UTF-8.
std::string line_of(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

Tokens ids_of(const std::string& text) {
  Tokens tokens;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) {
    const auto token = parse_whole_number<Token>(word, 0);
    if (!token) throw ArgumentError("--ids: " + token.complaint);
    tokens.push_back(token.value);
  }
  return tokens;
}

std::string unescaped(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    if (next == 'n' || next == 't' || next == '\\') ++i;
    result += next == 'n' ? '\n' : next == 't' ? '\t' : text[i];
  }
  return result;
}

void print(std::string_view text) {
  if (!(std::cout << text << std::flush)) throw Error("standard output cannot be written");
}

CompletionOutput::CompletionOutput(Options options, TokenTextMaker text)
    : options_(std::move(options)), text_(std::move(text)) {
  const std::string& log = options_.log_probabilities;
  told_.resize(options_.prompts.size() * static_cast<std::size_t>(options_.continuations), 0);
  if (log == "-") {
    log_ = &std::cout;
  } else if (!log.empty()) {
    file_.open(log);
    log_ = &file_;
    if (!file_) throw Error("--logprobs: " + log + " cannot be written");
  }
  if (!text_)  // ids are printed as what they are
    text_ = [] {
      return TokenText{.push = [](Token) { return std::string(); },
                       .finish = [] { return std::string(); }};
    };
  if (is_streamed() && options_.echo) print(options_.prompts.front());
  is_begun_ = is_streamed() && options_.echo && !options_.prompts.front().empty();
}

bool CompletionOutput::is_streamed() const {
  return told_.size() == 1 && !options_.json && log_ != &std::cout;
}

bool CompletionOutput::piece(const CompletionPiece& piece) {
  if (log_ != nullptr && piece.token) {
    const auto row =
        static_cast<std::size_t>(piece.request * options_.continuations + piece.continuation);
    nlohmann::ordered_json json{{"prompt", piece.request}, {"continuation", piece.continuation},
                                {"index", told_[row]++},   {"token", *piece.token},
                                {"text", piece.text},      {"logprob", piece.log_probability}};
    if (!piece.likeliest.empty()) {
      auto& top = json["top"] = nlohmann::ordered_json::array();
      for (const TokenProbability& likely : piece.likeliest)
        top.push_back({{"token", likely.token}, {"logprob", likely.log_probability}});
    }
    if (!(*log_ << line_of(json)))
      throw Error("--logprobs: " + options_.log_probabilities + " cannot be written");
  }
  if (!is_streamed()) return true;
  if (!options_.ids) {
    print(piece.text);
  } else if (piece.token) {
    print((is_begun_ ? " " : "") + std::to_string(*piece.token));
    is_begun_ = true;
  }
  return true;
}

void CompletionOutput::finish(const std::vector<Completion>& texts) {
  if (log_ != nullptr && !log_->flush())
    throw Error("--logprobs: " + options_.log_probabilities + " cannot be written");
  if (is_streamed()) return print("\n");
  if (log_ == &std::cout) return;
  for (std::size_t row = 0; row < texts.size(); ++row) {
    const Completion& text = texts[row];
    const auto count = static_cast<std::size_t>(options_.continuations);
    const std::string& prompt = options_.prompts[row / count];
    if (options_.json) {
      nlohmann::ordered_json json{{"prompt", prompt}, {"continuation", row % count}};
      if (!options_.ids) json["text"] = text.text;
      json["tokens"] = text.tokens;
      json["end"] = name_of(text.end);
      if (text.stop) json["stop"] = *text.stop;
      print(line_of(json));
      continue;
    }
    if (row > 0) print("\n");
    print("==> prompt " + std::to_string(row / count + 1) +
          (count > 1 ? ", continuation " + std::to_string(row % count + 1) : "") + " <==\n");
    const std::string space = options_.ids && options_.echo && !prompt.empty() ? " " : "";
    print((options_.echo ? prompt : "") + space + (options_.ids ? joined(text.tokens) : text.text) +
          "\n");
  }
}

}  // namespace ssm::cli
