// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <charconv>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/json_parser.hpp"
#include "token_corpus.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm tokenize --tokenizer gpt2 --json < lines.txt              one list of numbers a line
  echo "To be" | ssm tokenize --tokenizer run
  ssm tokenize --tokenizer tokenizer.json --whole --text book.txt
  ssm tokenize --tokenizer gpt2 --decode --json < ids.jsonl     and back
  ssm tokenize --tokenizer gpt2 corpus/*.txt --out tokens.npy   for ssm train --tokens, any amount of text
  zcat pile.jsonl.gz | ssm tokenize --tokenizer gpt2 --jsonl text - --out tokens.npy

With --out, every file is a document, or --lines, --jsonl and --separator say what is one; behind each is the
token for the end of a text. The file is an array of numpy, uint16 where all tokens of the tokenizer fit, else uint32.
It is written whole or not at all.

A tokenizer is a tokenizer.json with byte pair encoding, encoder.json with vocab.bpe beside it, or vocab.json with
merges.txt; or the folder of one, such as a model's. No token is added at the beginning or the end. Bytes that are not UTF-8
count as U+FFFD.)";

struct TokenizeRequest {
  std::filesystem::path tokenizer;
  std::filesystem::path text = "-";
  bool json = false;
  bool json_input = false;
  bool whole = false;
  bool decode = false;
  CorpusRequest corpus;
};

/// The lines of a file or of standard input.
class Lines {
 public:
  explicit Lines(const std::filesystem::path& path) : name_(path.string()) {
    if (path == standard_input) {
      name_ = "standard input";
      in_ = &std::cin;
      return;
    }
    static_cast<void>(FileReader(path));  // says what is wrong with it
    file_.open(path, std::ios::binary);
    in_ = &file_;
  }
  bool next(std::string& line) {
    if (std::getline(*in_, line)) {
      ++number_;
      return true;
    }
    if (in_->bad()) throw CheckpointError(name_, "", "cannot be read");
    return false;
  }
  /// Where the last line is, for messages.
  std::string place() const { return name_ + ", line " + std::to_string(number_); }

 private:
  std::string name_;
  std::ifstream file_;
  std::istream* in_ = nullptr;
  Index number_ = 0;
};

void print(const std::string& text) {
  if (!(std::cout << text)) throw Error("standard output cannot be written");
}

std::string list_of(const std::vector<Token>& tokens, bool is_json) {
  std::string text = is_json ? "[" : "";
  std::array<char, 16> digits{};
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) text += is_json ? ", " : " ";
    const char* end = std::to_chars(digits.data(), digits.data() + digits.size(), tokens[i]).ptr;
    text.append(static_cast<const char*>(digits.data()), end);
  }
  return text + (is_json ? "]\n" : "\n");
}

std::string json_string(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string text_of(const std::string& line, const Lines& lines) {
  const nlohmann::json json = parse_json_value(line, lines.place());
  if (!json.is_string()) throw CheckpointError(lines.place(), "", "is not a JSON string");
  return json.get<std::string>();
}

/// Numbers, with or without brackets and commas.
std::vector<Token> tokens_of(const std::string& line, const Lines& lines) {
  std::vector<Token> tokens;
  const char* at = line.data();
  const char* end = at + line.size();
  const std::string_view between = " ,[]\t\r";
  while (at < end) {
    if (between.find(*at) != between.npos) {
      ++at;
      continue;
    }
    Token token = 0;
    const auto [stop, error] = std::from_chars(at, end, token);
    const bool is_number =
        error == std::errc() && token >= 0 && (stop == end || between.find(*stop) != between.npos);
    if (!is_number) throw CheckpointError(lines.place(), "", "is not a list of tokens");
    tokens.push_back(token);
    at = stop;
  }
  return tokens;
}

void decode(const TokenizeRequest& request, const Tokenizer& tokenizer) {
  Lines lines(request.text);
  for (std::string line; lines.next(line);) {
    const std::string text = tokenizer.decode(tokens_of(line, lines));
    print(request.json ? json_string(text) : text + "\n");
  }
}

void encode(const TokenizeRequest& request, const Tokenizer& tokenizer) {
  if (request.whole) return print(list_of(tokenizer.encode(read_text(request.text)), request.json));
  Lines lines(request.text);
  std::vector<Token> tokens;
  for (std::string line; lines.next(line);) {
    tokens.clear();
    tokenizer.encode(request.json_input ? text_of(line, lines) : line, tokens);
    print(list_of(tokens, request.json));
  }
}

void tokenize(const TokenizeRequest& request) {
  const Tokenizer tokenizer = load_tokenizer(request.tokenizer);
  if (!request.corpus.files.empty()) return write_corpus(tokenizer, request.corpus);
  if (request.decode)
    decode(request, tokenizer);
  else
    encode(request, tokenizer);
  if (!(std::cout << std::flush)) throw Error("standard output cannot be written");
}

/// What goes with --out, and not with the options of the other form of the command.
void add_corpus_options(CLI::App& command, CorpusRequest& request,
                        const std::vector<CLI::Option*>& others) {
  CLI::Option* files =
      command.add_option("files", request.files, "a corpus, for --out; - for standard input")
          ->type_name("FILE");
  CLI::Option* out =
      command.add_option("--out", request.out, "the tokens of the corpus, as an array of numpy")
          ->type_name("TOKENS.npy")
          ->needs(files);
  files->needs(out);
  CLI::Option* lines = command.add_flag("--lines", request.form.lines, "every line is a document");
  CLI::Option* field =
      add_word(command, "--jsonl", request.form.field,
               "every line is a JSON object with a document in the string of this name")
          ->excludes(lines)
          ->type_name("FIELD");
  CLI::Option* separator = add_word(command, "--separator", request.form.separator,
                                    "what is between two documents of a file")
                               ->excludes(lines)
                               ->excludes(field);
  CLI::Option* end = add_word(command, "--end", request.end,
                              "special token behind each document (the tokenizer's <|endoftext|>, "
                              "<|end_of_text|>, </s> or <eos>)");
  CLI::Option* no_end =
      command.add_flag("--no-end", request.has_no_end, "no token there")->excludes(end);
  CLI::Option* quiet = command.add_flag("--quiet", request.quiet, "no progress on standard error");
  for (CLI::Option* option : {lines, field, separator, end, no_end, quiet}) option->needs(out);
  for (CLI::Option* other : others) out->excludes(other);
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  auto request = std::make_shared<TokenizeRequest>();
  CLI::App* command = app.add_subcommand("tokenize", "Turn text into tokens, or back.");
  command->footer(examples);
  command->add_option("--tokenizer", request->tokenizer, "its file, or a folder that has it")
      ->required()
      ->type_name("FILE_OR_DIR");
  CLI::Option* text =
      command->add_option("--text", request->text, "the text (standard input)")->type_name("FILE");
  CLI::Option* json =
      command->add_flag("--json", request->json,
                        "a JSON list for each text; with --decode, a JSON string for each list");
  CLI::Option* decoding =
      command->add_flag("--decode", request->decode, "from lists of tokens to text");
  CLI::Option* whole = command->add_flag("--whole", request->whole, "the whole input is one text")
                           ->excludes(decoding);
  CLI::Option* json_input = command
                                ->add_flag("--json-input", request->json_input,
                                           "every line of the input is a JSON string")
                                ->excludes(decoding)
                                ->excludes(whole);
  add_corpus_options(*command, request->corpus, {text, json, decoding, whole, json_input});
  command->callback([request] { tokenize(*request); });
}

}  // namespace ssm::cli
