// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "progress.hpp"
#include "ranks.hpp"
#include "ssm/family/families.hpp"
#include "ssm/io/bare_tokens.hpp"
#include "ssm/io/json_file.hpp"  // read_text_file, write_text_file
#include "ssm/io/npy_tokens.hpp"
#include "ssm/io/tokenizer_files.hpp"
#include "ssm/language_model/training_run.hpp"
#include "status_line.hpp"
#include "stop_signal.hpp"
#include "token_corpus.hpp"
#include "tokenized_text.hpp"
#include "training_report.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm train --text book.txt --out run                        five minutes, the default model
  ssm train --text book.txt --out run --minutes 30 --width 256
  ssm train --text book.txt --out run --steps 2000 --seed 7  the same weights every time
  ssm train --text book.txt --out run --model dense-mamba --layers 8
  ssm train --text book.txt --out run --tokenizer gpt2       tokens of byte pair encoding in place of bytes
  ssm train --text book.txt --out run --resume               go on after Ctrl-C, kill or a crash
  zcat book.gz | ssm train --text - --out run
  mpirun -n 4 ssm train --text book.txt --out run            four ranks share every update
  mpirun -n 4 ssm train --text book.txt --out run --sequence-parallel 4   and every window
  ssm train --tokens tokens.npy --tokenizer gpt2 --out run --order shuffled --documents separate --steps 100000

--out gets checkpoint-STEP/ (config.json, model.safetensors, and what --resume needs), metrics.jsonl and
loss.svg. The last tenth of the text is held out. Ctrl-C saves a checkpoint and exits with status 0.
--tokens is a corpus from ssm tokenize --out, or another array of numpy; it stays in its file, mapped into memory.
A run bounded by --steps and resumed after any interruption ends with the same weights, bit for bit, as one that
was never interrupted, on the same backend and number of threads. Ranks that a launcher starts together share the
rows of a batch, or with --sequence-parallel the windows; losses are those of one, and any number resumes. One bounded by --minutes goes on for the minutes
that are left; its learning rate follows the clock.)";

struct TrainCommand {
  std::filesystem::path text;
  std::filesystem::path tokens;  // in place of the text
  std::string bare;              // what they are, where their file does not say
  Index vocabulary = 0;          // of tokens without a tokenizer
  std::string end;               // the special token behind a document
  std::filesystem::path tokenizer;
  TrainingRequest request;
  bool quiet = false;
};

/// A setting of the model as some families have it.
struct SharedOption {
  ModelOption option;
  std::vector<std::string> families;
};

/// "h3", or "h3 and mamba"
std::string list_of(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
  return text;
}

/// The settings of all families by name; a name that means different things has an entry for each.
std::vector<std::vector<SharedOption>> model_options() {
  std::vector<std::vector<SharedOption>> all;
  for_each_family([&]<class F>() {
    for (ModelOption& option : options_of<F>()) {
      auto same_name = std::find_if(all.begin(), all.end(), [&](const auto& entries) {
        return entries.front().option.name == option.name;
      });
      if (same_name == all.end()) same_name = all.insert(all.end(), std::vector<SharedOption>());
      const auto same = std::find_if(same_name->begin(), same_name->end(), [&](const auto& entry) {
        return entry.option.help == option.help && entry.option.standard == option.standard;
      });
      if (same != same_name->end())
        same->families.emplace_back(F::name);
      else
        same_name->push_back({std::move(option), {std::string(F::name)}});
    }
  });
  return all;
}

void add_model_options(CLI::App& command, TrainingRequest& request) {
  std::size_t families = 0;
  for_each_family([&]<class F>() { ++families; });
  for (const std::vector<SharedOption>& entries : model_options()) {
    std::string help;
    for (const SharedOption& entry : entries) {
      const bool is_general = entry.families.size() == families;
      help += (help.empty() ? "" : "; ") + (is_general ? "" : list_of(entry.families) + ": ") +
              entry.option.help + " [" + entry.option.standard + "]";
    }
    const std::string name = entries.front().option.name;
    command
        .add_option_function<std::string>(
            "--" + name,
            [&request, name](const std::string& text) { request.model.options[name] = text; }, help)
        ->type_name(entries.front().option.form)
        ->take_last()
        ->group("Model");
  }
}

void add_settings(CLI::App& command, TrainingRequest& request) {
  for_each_setting(request.recipe, [&](const std::string& name, auto& value, const char* help) {
    using Value = std::remove_reference_t<decltype(value)>;
    const std::string flag = "--" + name;
    CLI::Option* option = nullptr;
    if constexpr (std::is_same_v<Value, bool>) {
      option = command.add_flag(flag, value, help);
    } else if constexpr (std::is_same_v<Value, double>) {
      const bool is_part = name == "warmup" || name == "held-out";
      const bool is_memory = name == "beta1" || name == "beta2";
      const bool is_above_zero = name == "rate" || name == "eps";
      option = add_number(command, flag, value, help, is_above_zero ? 1e-30 : 0,
                          is_part     ? 0.999
                          : is_memory ? 0.9999999
                                      : 1e6);
      option->default_str(detail::option_text(value));
    } else if constexpr (std::is_same_v<Value, std::string>) {
      using Words = std::vector<std::string>;
      const Words words = name == "numbers" ? Words{"float", "bf16", "f16"}
                          : name == "order" ? Words{"streams", "shuffled"}
                          : name == "documents"
                              ? Words{"joined", "separate"}
                              : Words{"constant", "linear", "polynomial", "cosine", "cosine_timm"};
      option = add_word(command, flag, value, help, words)->capture_default_str();
    } else {
      option = add_whole_number<Value>(
          command, flag, value, help, name == "seed" || name == "end-token" ? 0 : 1,
          name == "seed" ? std::numeric_limits<Value>::max() : Value{1} << 30);
      option->default_str(name == "end-token" ? "the tokenizer's" : std::to_string(value));
    }
    option->group("Training")->each([&request, name](const std::string&) {
      request.given.insert(name);
    });
  });
}

void add_limits(CLI::App& command, TrainingRequest& request) {
  TrainingLimits& limits = request.limits;
  CLI::Option* minutes = add_number(command, "--minutes", limits.minutes,
                                    "train this long (5, unless --steps is given)", 1e-3, 1e6);
  add_whole_number(command, "--steps", limits.steps, "train for this many updates", Index{1}, limit)
      ->excludes(minutes);
  add_whole_number(command, "--evaluate-every,--eval-every", limits.evaluate_every,
                   "steps (else ten times in a run)", Index{1}, limit);
  add_whole_number(command, "--save-every", limits.save_every,
                   "steps (else after the first, and once a minute)", Index{1}, limit);
  add_whole_number(command, "--log-every", limits.log_every, "steps (else 10)", Index{1}, limit);
  add_whole_number(command, "--keep", limits.keep, "checkpoints (else 2)", Index{1}, limit);
  add_backend_options(command, limits.backend, request.backend.threads);
  add_whole_number(command, "--sequence-parallel", request.sequence_parallel,
                   "ranks that share every window, of those that mpirun, srun or torchrun starts",
                   Index{1}, Index{1} << 20)
      ->capture_default_str();
  command.add_flag("--shard-optimizer", request.shards_optimizer,
                   "each rank keeps the optimizer's moments of its part of the parameters");
  command.add_flag("--recompute", request.recompute,
                   "run blocks forward once more in the backward pass instead of keeping what they "
                   "computed: less memory, a sixth to a third more time");
}

std::string count_text(Index count) { return quantity_text(static_cast<double>(count)); }

void announce(const TrainingRun& run, TrainingReport& report, const Communicator* ranks) {
  const LanguageModelFacts& facts = run.model().facts();
  report.say(facts.family + " model of " + count_text(facts.parameters) + " parameters; " +
             std::to_string(run.training_text().size()) + " tokens to train on, " +
             std::to_string(run.held_out_text().size()) + " held out; " + facts.backend + ", " +
             std::to_string(facts.threads) + " threads" +
             (ranks == nullptr ? "" : " on each of " + std::to_string(ranks->size()) + " ranks"));
  if (run.is_resumed()) report.say("resuming after step " + std::to_string(run.step()));
  if (run.length() < run.recipe().length)
    report.say("the text is short: windows of " + std::to_string(run.length()) + " tokens");
}

/// What is asked for, or what the run in the folder was started with, or bytes.
Tokenizer tokenizer_of(const TrainCommand& command) {
  if (!command.tokenizer.empty()) return load_tokenizer(command.tokenizer);
  const auto files = tokenizer_files(command.request.folder);
  return command.request.resume && !files.empty() ? load_tokenizer(files.front()) : Tokenizer();
}

/// What a run is trained on.
struct TrainingText {
  std::string name;
  TokenView tokens;
  double bytes_per_token = 0;           // on the average; 0: not known
  std::unique_ptr<TokenizedText> text;  // what it is kept in
  std::unique_ptr<TokenSource> file;
};

/// Bytes of text behind a token, on the average; 0 where a token is not one of the tokenizer's.
double bytes_per_token(TokenView tokens, const Tokenizer& tokenizer) {
  std::vector<std::uint32_t> lengths(static_cast<std::size_t>(tokenizer.vocabulary()));
  std::vector<bool> is_known(lengths.size());
  std::vector<Token> block(1 << 16);
  std::uint64_t sum = 0;
  for (Index begin = 0; begin < tokens.size();) {
    const Index count = std::min(static_cast<Index>(block.size()), tokens.size() - begin);
    const std::span<Token> part = std::span(block).first(static_cast<std::size_t>(count));
    tokens.read(begin, part);
    for (const Token token : part) {
      const auto i = static_cast<std::size_t>(token);
      if (token < 0 || i >= lengths.size()) return 0;
      if (!is_known[i] && !tokenizer.is_special(token))
        lengths[i] = static_cast<std::uint32_t>(tokenizer.bytes(token).size());
      is_known[i] = true;
      sum += lengths[i];
    }
    begin += count;
  }
  return tokens.empty() ? 0 : static_cast<double>(sum) / static_cast<double>(tokens.size());
}

TrainingText text_of(const TrainCommand& command, const Tokenizer& tokenizer) {
  TrainingText result;
  if (command.tokens.empty()) {
    result.text = std::make_unique<TokenizedText>(command.text, tokenizer);
    result.name = result.text->name();
    result.tokens = result.text->tokens();
    result.bytes_per_token = result.text->bytes_per_token();
  } else {
    FileReader file = open_input(command.tokens);
    result.name = file.name();
    if (command.bare.empty())
      result.file = std::make_unique<NpyTokens>(std::move(file));
    else
      result.file = std::make_unique<BareTokens>(std::move(file), command.bare == "uint16" ? 2 : 4);
    result.tokens = *result.file;
    if (!tokenizer.files().empty())
      result.bytes_per_token = bytes_per_token(result.tokens, tokenizer);
  }
  if (result.tokens.empty()) throw ArgumentError(result.name + ": the text is empty");
  return result;
}

/// Settles what tokens may be, and which of them ends a document.
void set_tokens(TrainCommand& command, const Tokenizer& tokenizer) {
  TrainingRequest& request = command.request;
  const bool has_tokenizer = !tokenizer.files().empty();
  const bool is_new = CheckpointFolder::steps_in(request.folder).empty();
  const bool has_config = !request.model.config.empty() || !request.model.preset.empty();
  if (command.vocabulary > 0 && (has_tokenizer || has_config))
    throw OptionError("vocabulary", has_tokenizer ? "cannot be given beside a tokenizer"
                                                  : "cannot be given beside --config or --preset");
  if (!command.tokens.empty() && is_new && !has_tokenizer && !has_config && command.vocabulary == 0)
    throw OptionError("tokens", "needs --tokenizer, or else --vocabulary");
  request.model.vocabulary = command.vocabulary > 0 ? command.vocabulary : tokenizer.vocabulary();
  const bool is_numbered = request.given.contains("end-token");
  if (!command.end.empty() && is_numbered)
    throw OptionError("end", "cannot be given beside --end-token");
  if (!command.end.empty() && !has_tokenizer)
    throw OptionError("end", "needs a tokenizer; without one there is --end-token");
  if (!command.end.empty() && request.recipe.documents == "joined" && is_new)
    throw OptionError("end", "has no effect without --documents separate");
  if (has_tokenizer && !is_numbered &&
      (!command.end.empty() || request.recipe.documents == "separate")) {
    request.recipe.end_token = end_token(tokenizer, command.end);
    request.given.insert("end-token");
  }
}

/// Puts a copy of a tokenizer's files where `ssm generate` looks for them.
void keep_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  const std::vector<std::filesystem::path> files = tokenizer.files();
  for (const std::filesystem::path& file : files) {
    const std::filesystem::path to =
        folder / (files.size() == 1 ? std::filesystem::path("tokenizer.json") : file.filename());
    std::error_code error;
    if (std::filesystem::equivalent(file, to, error)) continue;
    write_text_file(to, read_text_file(file, std::uint64_t{1} << 27));
  }
}

/// Of a run that is resumed, the one it was started on.
std::string backend_of(const TrainingRequest& request) {
  if (!request.limits.backend.empty()) return request.limits.backend;
  const std::vector<Index> steps = CheckpointFolder::steps_in(request.folder);
  if (!request.resume || steps.empty()) return "cpu";
  return read_record(CheckpointFolder::at(request.folder, steps.back()) / "trainer.json")
      .limits.backend;
}

/// What a rank does that leaves the telling to the first.
void train_silently(TrainingRun& run) {
  const StopSignal stop;
  run.is_stop_wanted = [&] { return stop.is_received(); };
  if (run.run()) run.evaluate();
}

void train_together(TrainCommand command) {
  if (command.text.empty() && command.tokens.empty())
    throw OptionError("text", "is required, or else --tokens");
  const bool is_first = command.request.ranks == nullptr || command.request.ranks->rank() == 0;
  command.quiet = command.quiet || !is_first;
  std::optional<StatusLine> status(command.quiet);  // until the report has its own
  status->hint("reading the text");
  const Tokenizer tokenizer = tokenizer_of(command);
  set_tokens(command, tokenizer);
  const TrainingText text = text_of(command, tokenizer);
  status->hint("making the model");
  TrainingRun run(command.request, text.tokens, text.name);
  status.reset();
  if (!is_first) return train_silently(run);
  keep_tokenizer(tokenizer, run.folder());
  TrainingReport report(run.folder(), run.step(), run.tokens_per_step(), run.limits().log_every,
                        command.quiet, text.bytes_per_token);
  announce(run, report, command.request.ranks);
  report.begin();
  const StopSignal stop;
  run.on_update = [&](const auto& moment, const auto& step) { report.add(moment, step); };
  run.on_evaluation = [&](const auto& moment, const auto& loss) { report.add(moment, loss); };
  run.is_stop_wanted = [&] { return stop.is_received(); };
  if (!run.run()) {
    report.say("stopped at step " + std::to_string(run.step()) + "; continue with --resume");
    return;
  }
  report.say(std::to_string(run.step()) + " steps, " +
             count_text(run.step() * run.tokens_per_step()) + " tokens in " +
             duration_text(run.seconds()) + "; the model is in " + run.checkpoint().string());
  if (const auto loss = run.evaluate()) {
    if (text.bytes_per_token > 0)
      std::printf("held-out bits per byte: %.4f\n", bits_per_byte(*loss, text.bytes_per_token));
    else
      std::printf("held-out bits per token: %.4f\n", bits_per_byte(*loss));
    std::fflush(stdout);
  }
}

void train(TrainCommand command) {
  BackendOptions& backend = command.request.backend;
  backend.backend = backend_of(command.request);
  run_on_ranks(backend, [&](Communicator* ranks) {
    command.request.ranks = ranks;
    command.request.across_ranks = &backends_across_ranks();
    train_together(std::move(command));
  });
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto state = std::make_shared<TrainCommand>();
  TrainingRequest& request = state->request;
  CLI::App* command = app.add_subcommand("train", "Train a language model on a text.");
  command->footer(examples);
  CLI::Option* text = command->add_option("--text", state->text, "the text; - for standard input")
                          ->type_name("FILE");
  CLI::Option* tokens =
      command
          ->add_option("--tokens", state->tokens,
                       "in place of --text, a corpus as tokens: an array of numpy, such as ssm "
                       "tokenize --out writes")
          ->type_name("TOKENS.npy");
  tokens->excludes(text);
  add_word(*command, "--bare", state->bare, "--tokens is uint16 or uint32 numbers and nothing else",
           {"uint16", "uint32"})
      ->needs(tokens);
  add_whole_number(*command, "--vocabulary", state->vocabulary,
                   "how many tokens there are, where --tokens come without a tokenizer", Index{1},
                   Index{1} << 30)
      ->needs(tokens);
  add_word(*command, "--end", state->end,
           "with --documents separate, the special token behind each document, if it is not one of "
           "those that ssm tokenize takes");
  command->add_option("--out", request.folder, "folder for checkpoints, metrics and the loss curve")
      ->required()
      ->type_name("DIR");
  command
      ->add_option(
          "--config", request.model.config,
          "a config.json in place of --model and the sizes; its vocabulary holds all tokens")
      ->type_name("FILE");
  command
      ->add_option(
          "--preset", request.model.preset,
          "the sizes of a published model in place of --model and the sizes: " + preset_names())
      ->type_name("NAME");
  command
      ->add_option("--tokenizer", state->tokenizer,
                   "its file, or a folder that has it, copied into --out; without one, and without "
                   "one that --resume finds there, tokens are bytes")
      ->type_name("FILE_OR_DIR");
  command->add_flag("--resume", request.resume,
                    "go on from the newest checkpoint in --out, if there is one");
  command->add_flag("--quiet", state->quiet, "no progress on standard error");
  add_limits(*command, request);
  std::vector<std::string> families;
  for_each_family([&]<class F>() { families.emplace_back(F::name); });
  add_word(*command, "--model", request.model.family, "family: " + list_of(families), families)
      ->capture_default_str()
      ->group("Model")
      ->each([&request](const std::string&) { request.given.insert("model"); });
  add_model_options(*command, request);
  add_settings(*command, request);
  command->callback([state] { train(*state); });
}

}  // namespace ssm::cli
