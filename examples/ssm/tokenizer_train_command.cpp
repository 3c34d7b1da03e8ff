// SPDX-License-Identifier: Apache-2.0
#ifdef SSM_WITH_TOKENIZER
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/json_file.hpp"  // write_text_file
#include "ssm/tokenizer/train_bpe.hpp"
#include "status_line.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm tokenizer-train book.txt --vocabulary 4096 --out tokenizer.json
  ssm tokenizer-train corpus/*.txt --out tokenizer.json --special "<|endoftext|>" "<|user|>"
  zcat corpus.gz | ssm tokenizer-train - --out tokenizer.json

Byte pair encoding of GPT-2's kind, as the library tokenizers trains it. Every file is a text of its own.)";

struct TokenizerTrainRequest {
  std::vector<std::filesystem::path> files;
  std::filesystem::path out;
  BpeTrainingOptions options;
  bool quiet = false;
};

/// A text that may be larger than the memory: cut only where that changes no word.
void add_file(BpeTrainer& trainer, const std::filesystem::path& path, StatusLine& status) {
  constexpr std::uint64_t block = std::uint64_t{1} << 24;
  const FileReader file = open_input(path);
  std::string text;
  for (std::uint64_t at = 0; at < file.size();) {
    const std::size_t before = text.size();
    const auto count = static_cast<std::size_t>(std::min(block, file.size() - at));
    text.resize(before + count);
    file.read(at, std::as_writable_bytes(std::span(text).subspan(before)));
    at += count;
    if (at == file.size()) break;
    std::size_t cut = text.size();
    while (cut > 0 && !BpeTrainer::may_cut_behind(text, cut - 1)) --cut;
    trainer.add(std::string_view(text).substr(0, cut));
    text.erase(0, cut);
    if (status.is_due())
      status.show(file.name() + ": " + std::to_string(at) + " of " + std::to_string(file.size()) +
                  " bytes");
  }
  trainer.add(text);
}

void train_tokenizer(TokenizerTrainRequest request) {
  StatusLine status(request.quiet);
  const Index wanted = request.options.vocabulary;
  Index reached = 0;
  request.options.on_token = [&](Index tokens) {
    reached = tokens;
    if (status.is_due())
      status.show(std::to_string(tokens) + " of " + std::to_string(wanted) + " tokens");
    return true;
  };
  BpeTrainer trainer(request.options);
  for (const std::filesystem::path& file : request.files) add_file(trainer, file, status);
  write_text_file(request.out, trainer.train());
  status.say(std::to_string(reached) + " tokens in " + request.out.string());
}

}  // namespace

void add_tokenizer_train_command(CLI::App& app) {
  auto request = std::make_shared<TokenizerTrainRequest>();
  CLI::App* command =
      app.add_subcommand("tokenizer-train", "Train a tokenizer on texts: byte pair encoding.");
  command->footer(examples);
  command->add_option("files", request->files, "the texts; - for standard input")
      ->required()
      ->type_name("FILE");
  command->add_option("--out", request->out, "where it goes")
      ->required()
      ->type_name("TOKENIZER.json");
  BpeTrainingOptions& options = request->options;
  add_whole_number(*command, "--vocabulary", options.vocabulary,
                   "tokens, with the 256 bytes and the special ones", Index{1}, limit)
      ->default_str(std::to_string(options.vocabulary));
  add_whole_number(*command, "--least-count", options.least_count,
                   "pairs that occur less often stay apart", Index{1}, limit)
      ->default_str(std::to_string(options.least_count));
  command->add_option("--special", options.special, "special tokens, which have the first numbers")
      ->type_name("TEXT")
      ->capture_default_str();
  command->add_flag("--quiet", request->quiet, "no progress on standard error");
  command->callback([request] { train_tokenizer(*request); });
}

}  // namespace ssm::cli
#endif
