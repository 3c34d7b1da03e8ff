// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "progress.hpp"
#include "ranks.hpp"
#include "scored_text.hpp"
#include "ssm/family/options.hpp"  // OptionError
#include "ssm/io/checkpoint_folder.hpp"
#include "ssm/io/end_of_text.hpp"
#include "ssm/language_model/score_text.hpp"
#include "ssm/language_model/training_record.hpp"
#include "status_line.hpp"
#include "stop_signal.hpp"
#include "token_log.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm perplexity run --text book.txt                      the whole text, the state carried along
  ssm perplexity run --text book.txt --held-out           its end, which the training run held out
  ssm perplexity gpt2 --text book.txt --window 1024 --stride 512
  ssm perplexity mamba-130m --text book.txt --tokenizer gpt-neox-20b --logprobs tokens.jsonl
  mpirun -n 4 ssm perplexity run --text book.txt --separate   four ranks share the documents
  ssm perplexity h3-125m --text wiki.test.raw --protocol wikitext-103 --json
  ssm perplexity h3-125m --text pile_val.jsonl --jsonl text --protocol pile
  zcat book.gz | ssm perplexity run --text -

How the text is read. Every token but the first is scored once.
  (nothing)                the state is carried from beginning to end; models with attention start afresh every 1024 tokens
  --window N               windows of N tokens side by side: each reads N tokens and scores the N that are one further
  --window N --stride S    windows of N tokens at every S-th: each scores its last S tokens, the first one all
  --stateful               the state is carried, attention or not; --batch B: in B parts of the text side by side
Protocols, whose parts other options replace:
  wikitext-103   --window 1024
  openwebtext    --window 1024 --append-eos
  pile           --window 2048 --append-eos
  lm-eval        as lm-evaluation-harness: --separate --prepend-eos, windows as long as the model has learned positions (or
                 2048), the last one filled up with what came before; an empty word counts where whitespace is at an end)";

struct PerplexityRequest {
  std::filesystem::path model;
  ScoredInput input;
  std::filesystem::path tokenizer;
  std::string protocol;
  std::optional<Index> window, stride;
  bool is_stateful = false;
  Index batch = 0;
  bool appends_end = false, prepends_end = false, is_separate = false;
  std::optional<Token> end_token;
  double from = 0;
  bool held_out = false;
  std::string log;
  Index likeliest = 0;
  bool json = false;
  bool quiet = false;
  std::string weights = "fp32";
  BackendOptions backend;
};

/// A protocol that has a name.
struct NamedProtocol {
  std::string_view name;
  Index window;  // 0: what the model has learned
  bool appends_end = false;
  bool is_rolling = false;  // each document by itself, behind an end-of-text
};
constexpr std::array<NamedProtocol, 4> named_protocols{{
    {.name = "wikitext-103", .window = 1024},
    {.name = "openwebtext", .window = 1024, .appends_end = true},
    {.name = "pile", .window = 2048, .appends_end = true},
    {.name = "lm-eval", .window = 0, .is_rolling = true},
}};

/// What was asked for, told in the words of the options.
struct ChosenProtocol {
  ScoringProtocol protocol{};
  std::string kind{};
  Index window = 0;  // as the option has it
  bool counts_pieces = false;
};

ChosenProtocol choose(PerplexityRequest& request, const LanguageModelFacts& facts) {
  std::optional<Index> window = request.window;
  bool is_rolling = false;
  for (const NamedProtocol& named : named_protocols) {
    if (named.name != request.protocol) continue;
    is_rolling = named.is_rolling;
    const Index longest = facts.positions > 0 ? facts.positions : 2048;
    if (!window) window = named.window > 0 ? named.window : longest;
    request.appends_end |= named.appends_end;
    request.prepends_end |= is_rolling;
    request.is_separate |= is_rolling;
  }
  if (request.is_stateful) window = 0;
  ChosenProtocol chosen;
  chosen.counts_pieces = is_rolling;
  if (is_rolling && (request.held_out || request.from > 0))
    throw OptionError("protocol", "lm-eval is of whole documents, without --from and --held-out");
  if (request.stride && !window) throw OptionError("stride", "needs --window");
  if (!window) {
    chosen.protocol = default_protocol(facts);
  } else if (request.stride) {
    if (*request.stride > *window)
      throw OptionError("stride", "is at most --window, which is " + std::to_string(*window));
    chosen.protocol = ScoringProtocol::strided(*window, *request.stride);
    chosen.protocol.fills_last_window = is_rolling;
  } else if (*window > 0) {
    chosen.protocol =
        is_rolling ? ScoringProtocol::rolling(*window) : ScoringProtocol::windows(*window);
  } else {
    chosen.protocol = ScoringProtocol::carried(std::max<Index>(1, request.batch));
  }
  const ScoringProtocol& protocol = chosen.protocol;
  const bool is_strided = protocol.stride > 0;
  chosen.kind = protocol.context == 0 ? "stateful"
                : is_strided          ? "strided"
                : is_rolling          ? "rolling"
                                      : "windows";
  chosen.window = protocol.context + (is_strided ? 1 : 0);
  if (facts.positions > 0 && protocol.context == 0)
    throw ArgumentError(request.model.string() + ": the model has learned " +
                        std::to_string(facts.positions) +
                        " positions, its state cannot be carried on; say --window N of at most "
                        "that many");
  if (facts.positions > 0 && protocol.context > facts.positions)
    throw ArgumentError(request.model.string() + ": the model has learned " +
                        std::to_string(facts.positions) + " positions, a window of " +
                        std::to_string(chosen.window) + " tokens is too long; say --window " +
                        std::to_string(facts.positions));
  return chosen;
}

/// The token behind a document.
Token end_token_of(const PerplexityRequest& request, const AnyLanguageModel& model,
                   const Tokenizer& tokenizer) {
  if (request.end_token) return *request.end_token;
  if (const auto token = end_of_text(tokenizer)) return *token;
  if (!model.facts().end_tokens.empty()) return model.facts().end_tokens.front();
  throw ArgumentError(request.model.string() +
                      ": neither the tokenizer nor config.json has an end-of-text token; say "
                      "--eos ID");
}

/// That of a token file is only needed to know its text.
std::optional<Tokenizer> tokenizer_of(const PerplexityRequest& request,
                                      const AnyLanguageModel& model) {
  if (request.input.tokens.empty()) return model.tokenizer();
  try {
    return model.tokenizer();
  } catch (const ArgumentError&) {  // there is none
    return std::nullopt;
  }
}

/// Where the part to be measured begins. What was held out is what the record of the run says.
Index begin_of(const PerplexityRequest& request, const ScoredText& scored) {
  const TokenView text = scored.tokens();
  const auto size = static_cast<std::size_t>(text.size());
  if (!request.held_out) return static_cast<Index>(held_out_begin(size, 1 - request.from));
  const std::filesystem::path file = model_folder(request.model) / "trainer.json";
  std::error_code error;
  if (!std::filesystem::exists(file, error))
    throw ArgumentError("--held-out: " + request.model.string() +
                        " has no record of a training run; say --from FRACTION");
  const TrainingRecord record = read_record(file);
  if (record.text_tokens != text.size() || record.text_digest != digest_of(text))
    throw ArgumentError("--held-out: " + scored.name() +
                        " is not the text that the model was trained on; say --from FRACTION, or "
                        "nothing for the whole text");
  return static_cast<Index>(held_out_begin(size, record.recipe.held_out));
}

/// What was measured.
struct Result {
  TextLoss loss;
  std::optional<TextSize> size{};  // of the text, its bytes those of the tokens that were scored
  Index documents = 1;
  double seconds = 0;
  bool counts_pieces = false;

  double bytes() const { return static_cast<double>(size->bytes); }
  double words() const { return static_cast<double>(counts_pieces ? size->pieces : size->words); }
  double bits() const { return bits_per_byte(loss, bytes() / static_cast<double>(loss.tokens)); }
  double tokens_per_second() const {
    return seconds > 0 ? static_cast<double>(loss.tokens) / seconds : 0;
  }
};

/// Scores a text that is cut into parts, each read by itself.
class Measurement {
  using Clock = std::chrono::steady_clock;

 public:
  Measurement(const PerplexityRequest& request, const AnyLanguageModel& model,
              const ScoredText& text, const ChosenProtocol& chosen, Communicator* ranks)
      : request_(request),
        model_(model),
        text_(text),
        chosen_(chosen),
        ranks_(ranks),
        status_(request.quiet || (ranks != nullptr && ranks->rank() > 0)) {
    const Index begin = begin_of(request, text);
    if (request.is_separate)
      offsets_ = text.documents();
    else
      offsets_ = {begin, text.tokens().size()};
    for (std::size_t i = 0; i + 1 < offsets_.size(); ++i)
      to_score_ += std::max<Index>(0, offsets_[i + 1] - offsets_[i] - 1);
    if (to_score_ == 0)
      throw ArgumentError(text.name() + ": nothing to predict in " +
                          std::to_string(offsets_.back() - offsets_.front()) + " tokens");
    if (!request.log.empty()) log_.emplace(request.log, text.tokenizer());
  }

  Result run() {
    begin_ = Clock::now();
    for (std::size_t i = 0; i + 1 < offsets_.size(); ++i)
      if (ranks_ == nullptr ||
          i % static_cast<std::size_t>(ranks_->size()) == static_cast<std::size_t>(ranks_->rank()))
        score_part(i);
    if (ranks_ != nullptr) add_ranks();
    Result result{.loss = loss_,
                  .documents = static_cast<Index>(text_.documents().size()) - 1,
                  .seconds = seconds(),
                  .counts_pieces = chosen_.counts_pieces};
    if (!std::isfinite(loss_.nats))
      throw ArgumentError(request_.model.string() + ": the model's loss is not finite");
    if (text_.tokenizer()) result.size = scored_size();
    if (log_) log_->finish();
    status_.say("scored " + quantity_text(static_cast<double>(loss_.tokens)) + " tokens in " +
                duration_text(result.seconds) + ", " + quantity_text(result.tokens_per_second()) +
                " a second");
    return result;
  }

 private:
  void add_ranks() {
    std::array<double, 2> sums{loss_.nats, static_cast<double>(loss_.tokens)};
    ranks_->sum(std::span(sums));
    loss_ = {sums[0], static_cast<Index>(sums[1])};
  }
  void score_part(std::size_t i) {
    const Index begin = offsets_[i];
    const TextLoss before = loss_;
    ScoringOptions options{.batch = request_.batch, .likeliest = request_.likeliest};
    // A model on a device has one thread; its host has more.
    if (request_.backend.threads > 0)
      options.threads = request_.backend.threads;
    else if (model_.facts().on_device)
      options.threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 16U));
    options.on_progress = [&](const TextLoss& part) {
      loss_ = {before.nats + part.nats, before.tokens + part.tokens};
      tell();
    };
    const Index in_front = request_.prepends_end ? 1 : 0;  // of a document
    std::optional<Index> document;
    if (request_.is_separate) document = static_cast<Index>(i);
    if (log_)
      options.on_token = [&](ScoredToken scored) {
        scored.position += document ? -in_front : begin - in_front;
        log_->add(scored, document);
      };
    const TextLoss part = score_text(model_, text_.tokens().subview(begin, offsets_[i + 1] - begin),
                                     chosen_.protocol, options);
    loss_ = {before.nats + part.nats, before.tokens + part.tokens};
  }

  /// The first token of each part is not scored; it may be no text of the document.
  TextSize scored_size() const {
    const bool is_whole = offsets_.front() == 0;
    TextSize size = is_whole ? text_.size() : text_.size_from(offsets_.front());
    if (request_.prepends_end) return size;
    for (std::size_t i = 0; i + 1 < offsets_.size(); ++i)
      if (offsets_[i] < offsets_[i + 1]) size.bytes -= text_.bytes_at(offsets_[i]);
    return size;
  }

  double seconds() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }
  void tell() {
    if (stop_.is_received()) throw Error("stopped before the end of the text");
    if (!status_.is_due()) return;
    const auto done = static_cast<double>(loss_.tokens);
    const double rate = done / std::max(1e-9, seconds());
    std::array<char, 160> line{};
    std::snprintf(line.data(), line.size(), "%s of %s tokens  %s/s  perplexity %.4f  %s left",
                  quantity_text(done).c_str(),
                  quantity_text(static_cast<double>(to_score_)).c_str(),
                  quantity_text(rate).c_str(), perplexity(loss_),
                  duration_text(static_cast<double>(to_score_ - loss_.tokens) / rate).c_str());
    status_.show(line.data());
  }

  const PerplexityRequest& request_;
  const AnyLanguageModel& model_;
  const ScoredText& text_;
  const ChosenProtocol& chosen_;
  Communicator* ranks_;
  std::vector<Index> offsets_;  // of the parts among the tokens
  Index to_score_ = 0;
  std::optional<TokenLog> log_;
  TextLoss loss_;
  Clock::time_point begin_{};
  StatusLine status_;
  StopSignal stop_;
};

std::string json_of(const Result& result, const ChosenProtocol& chosen) {
  const TextLoss& loss = result.loss;
  nlohmann::ordered_json json;
  if (result.size) json["bits_per_byte"] = result.bits();
  json["loss"] = loss.mean();
  json["perplexity"] = perplexity(loss);
  if (result.size) {
    json["word_perplexity"] = perplexity(loss, result.words());
    json["byte_perplexity"] = perplexity(loss, result.bytes());
  }
  json["nats"] = loss.nats;
  json["tokens"] = loss.tokens;
  if (result.size) {
    json["bytes"] = result.size->bytes;
    json["words"] = static_cast<Index>(result.words());
  }
  json["documents"] = result.documents;
  nlohmann::ordered_json protocol{{"kind", chosen.kind}};
  if (chosen.window > 0) protocol["window"] = chosen.window;
  if (chosen.protocol.stride > 0) protocol["stride"] = chosen.protocol.stride;
  if (chosen.protocol.streams > 1) protocol["parts"] = chosen.protocol.streams;
  json["protocol"] = protocol;
  json["seconds"] = result.seconds;
  json["tokens_per_second"] = result.tokens_per_second();
  return json.dump() + "\n";
}

/// "windows of 1024 tokens, each scores its last 512"
std::string described(const ChosenProtocol& chosen) {
  const std::string size = std::to_string(chosen.window) + " tokens";
  if (chosen.kind == "stateful")
    return chosen.protocol.streams == 1 ? "from beginning to end, the state carried along"
                                        : "in " + std::to_string(chosen.protocol.streams) +
                                              " parts, the state carried along";
  if (chosen.kind == "strided")
    return "in windows of " + size + ", each scores its last " +
           std::to_string(chosen.protocol.stride);
  return "in windows of " + size + (chosen.kind == "rolling" ? ", the last one filled up" : "");
}

std::string report_of(const Result& result, const ChosenProtocol& chosen) {
  std::string text;
  std::array<char, 256> line{};
  const auto add = [&](const char* form, auto... values) {
    std::snprintf(line.data(), line.size(), form, values...);
    text += line.data();
  };
  const TextLoss& loss = result.loss;
  if (result.size) add("bits per byte  %.4f\n", result.bits());
  add("loss           %.4f nats per token\n", loss.mean());
  add("perplexity     %.4f\n", perplexity(loss));
  if (result.size && result.words() > 0)
    add("  of words     %.6g\n", perplexity(loss, result.words()));
  add("tokens         %td\n", loss.tokens);
  if (result.size) add("bytes          %td\n", result.size->bytes);
  if (result.size) add("words          %td\n", static_cast<Index>(result.words()));
  if (result.documents > 1) add("documents      %td\n", result.documents);
  add("read           %s\n", described(chosen).c_str());
  return text;
}

void perplexity_together(PerplexityRequest request, Communicator* ranks) {
  const AnyLanguageModel model =
      open_model(request.model, request.backend, request.weights, request.tokenizer);
  const ChosenProtocol chosen = choose(request, model.facts());
  const std::optional<Tokenizer> tokenizer = tokenizer_of(request, model);
  if (request.input.tokens.empty() && (request.appends_end || request.prepends_end)) {
    const Token end = end_token_of(request, model, *tokenizer);
    if (request.appends_end) request.input.after = end;
    if (request.prepends_end) request.input.before = end;
  }
  if (!request.input.tokens.empty()) request.prepends_end = false;
  const ScoredText text(request.input, tokenizer, model.facts().vocabulary);
  if (text.tokens().empty()) throw ArgumentError(text.name() + ": the text is empty");
  if (ranks != nullptr && !request.is_separate)
    throw OptionError("separate", "is needed by several ranks, which share the documents");
  if (ranks != nullptr && !request.log.empty())
    throw OptionError("logprobs", "cannot be written by several ranks");
  const Result result = Measurement(request, model, text, chosen, ranks).run();
  if (ranks != nullptr && ranks->rank() > 0) return;
  const std::string report = request.json ? json_of(result, chosen) : report_of(result, chosen);
  std::ostream& out = request.log == standard_input ? std::cerr : std::cout;
  if (!(out << report << std::flush)) throw Error("standard output cannot be written");
}

void perplexity(PerplexityRequest request) {
  run_on_ranks(request.backend,
               [&](Communicator* ranks) { perplexity_together(std::move(request), ranks); });
}

void add_protocol_options(CLI::App& command, PerplexityRequest& request) {
  std::vector<std::string> names;
  for (const NamedProtocol& named : named_protocols) names.emplace_back(named.name);
  add_word(command, "--protocol", request.protocol,
           "wikitext-103, openwebtext, pile or lm-eval: see below", names)
      ->type_name("NAME");
  CLI::Option* window =
      add_whole_number(command, "--window,--context", request.window,
                       "tokens after which the state starts afresh (0: never)", Index{0}, limit);
  CLI::Option* stride = add_whole_number(
      command, "--stride", request.stride,
      "tokens from one window to the next, which it scores (as --window)", Index{1}, limit);
  command.add_flag("--stateful", request.is_stateful, "the state never starts afresh")
      ->excludes(window)
      ->excludes(stride);
  add_whole_number(command, "--batch", request.batch,
                   "windows read side by side (as many as are 1024 tokens); with --stateful, parts "
                   "of the text",
                   Index{1}, Index{1} << 16);
  command.add_flag("--append-eos", request.appends_end, "an end-of-text behind each document");
  command.add_flag("--prepend-eos", request.prepends_end,
                   "an end-of-text before each document, so that its first token is scored too");
  add_whole_number(command, "--eos", request.end_token,
                   "the end-of-text token (the tokenizer's, or that of config.json)", Token{0},
                   std::numeric_limits<Token>::max())
      ->type_name("ID");
  command.add_flag("--separate", request.is_separate,
                   "each document is read by itself, from a fresh state");
}

}  // namespace

void add_perplexity_command(CLI::App& app) {
  auto request = std::make_shared<PerplexityRequest>();
  CLI::App* command = app.add_subcommand("perplexity", "Measure how well a model predicts a text.");
  command->footer(examples);
  command->add_option("model", request->model, model_help)->required()->type_name("DIR");
  CLI::Option_group* input = command->add_option_group("Input");
  input->require_option(1);
  input->add_option("--text", request->input.text, "the text; - for standard input")
      ->type_name("FILE");
  CLI::Option* tokens = input
                            ->add_option("--tokens", request->input.tokens,
                                         "the text as tokens; - for standard input")
                            ->type_name("TOKENS.npy");
  add_word(*command, "--jsonl", request->input.field,
           "every line is a JSON object with a document in the string of this name")
      ->excludes(tokens)
      ->type_name("FIELD");
  add_word(*command, "--bare", request->input.bare,
           "--tokens is uint16 or uint32 numbers and nothing else", {"uint16", "uint32"})
      ->needs(tokens)
      ->type_name("FORM");
  CLI::Option* from = add_number(*command, "--from", request->from,
                                 "part of the text to leave out at its beginning", 0, 0.999999);
  CLI::Option* held_out = command
                              ->add_flag("--held-out", request->held_out,
                                         "only the end of the text that the training run held out")
                              ->excludes(from);
  add_protocol_options(*command, *request);
  for (const char* name : {"--append-eos", "--prepend-eos", "--separate"})
    command->get_option(name)->excludes(tokens);
  for (const char* name : {"--prepend-eos", "--separate"})
    command->get_option(name)->excludes(from)->excludes(held_out);
  CLI::Option* log =
      add_word(*command, "--logprobs", request->log,
               "what the model thought of each token, a line of JSON each; -: on standard output, "
               "the result on standard error")
          ->type_name("FILE");
  add_whole_number(*command, "--top-logprobs", request->likeliest,
                   "and of so many of the likeliest tokens", Index{0}, Index{1000})
      ->default_str("0")
      ->needs(log);
  command->add_flag("--json", request->json, "one JSON object on standard output");
  command->add_flag("--quiet", request->quiet, "no progress on standard error");
  add_tokenizer_option(*command, request->tokenizer);
  add_weights_option(*command, request->weights, request->backend.numbers);
  add_backend_options(*command, request->backend.backend, request->backend.threads);
  command->callback([request] { perplexity(*request); });
}

}  // namespace ssm::cli
