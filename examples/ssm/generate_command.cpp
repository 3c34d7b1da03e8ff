// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "completion_output.hpp"
#include "interactive.hpp"
#include "progress.hpp"
#include "ssm/family/options.hpp"  // OptionError
#include "ssm/io/input.hpp"
#include "ssm/language_model/completion.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm generate run --prompt "ROMEO:" --tokens 400
  ssm generate run --prompt "ROMEO:" --tokens 400 --temperature 0        always the likeliest
  ssm generate run --prompt-file scene.txt --top-p 0.95 --seed 7
  head -c 1000 book.txt | ssm generate run --prompt-file - --no-echo
  ssm generate run --prompt "To be" --n 3 --stop "\n\n" --json           three texts, a line of JSON each
  ssm generate run --prompts lines.txt --tokens 50                       one text for each line, side by side
  ssm generate run --prompt-file long.txt --tokens 0 --save-state cache  read once,
  ssm generate run --load-state cache --prompt "And then" --seed 2       continued often
  ssm generate run --interactive --stop "\n"

The model runs recurrently: its state and the time per token do not grow with the text, but for layers with attention, which
remember every token. The same seed gives the same text, whatever other prompts there are; continuation i has seed + i. Stages of
sampling: bias, penalties, temperature, typical-p, top-k, top-p, min-p. In --stop, \n, \t and \\ are a new line, a tab, a backslash.)";

struct GenerateRequest {
  std::filesystem::path model;
  std::filesystem::path tokenizer;
  std::vector<std::string> prompts;
  std::string prompt_file, prompts_file;
  CompletionOptions options{.temperature = 0.8, .seed = {1}, .tokens = 400};
  std::vector<Token> end_tokens;
  bool no_end_tokens = false;
  std::string log_probabilities;
  Index likeliest = 0;
  std::string load_state, save_state;
  std::string weights = "fp32";
  BackendOptions backend;
  bool ids = false;
  bool interactive = false;
  bool json = false;
  bool no_echo = false;
  bool statistics = false;
};

/// Lines of a text, without their ends.
std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(line);
  }
  return lines;
}

std::vector<std::string> prompts_of(const GenerateRequest& request) {
  if (!request.prompt_file.empty()) return {read_text(request.prompt_file)};
  if (!request.prompts_file.empty()) {
    auto lines = lines_of(read_text(request.prompts_file));
    if (lines.empty()) throw ArgumentError(request.prompts_file + ": there is no prompt");
    return lines;
  }
  return request.prompts.empty() ? std::vector<std::string>{request.ids ? "" : "\n"}
                                 : request.prompts;
}

Tokens tokens_of(const GenerateRequest& request, const AnyLanguageModel& model,
                 const std::string& prompt, bool may_be_empty) {
  if (request.ids) return ids_of(prompt);
  // A text that begins with nothing begins behind the end of a line.
  const auto tokens = model.encode(prompt.empty() && !may_be_empty ? "\n" : prompt);
  return {tokens.begin(), tokens.end()};
}

/// Whether the backend can draw by itself, without logits coming to the host.
bool is_plain(const GenerateRequest& request, std::size_t prompts) {
  const CompletionOptions& options = request.options;
  return prompts == 1 && options.continuations == 1 && options.stop.empty() &&
         options.weights.is_nothing() && options.typical_p >= 1 && !options.likeliest &&
         request.load_state.empty() && request.save_state.empty() && !request.json;
}
std::size_t generate_plainly(const GenerateRequest& request, const AnyLanguageModel& model,
                             const Tokens& prompt, CompletionOutput& output) {
  const CompletionOptions& options = request.options;
  TokenText text = output.text()();
  Completion completion;
  const GenerateOptions plain{.temperature = options.temperature,
                              .top_k = options.top_k,
                              .top_p = options.top_p,
                              .min_p = options.min_p,
                              .tokens = options.tokens,
                              .seed = options.seed,
                              .stop = options.end_tokens.value_or(model.facts().end_tokens)};
  for (const Token token : model.generate(prompt, request.ids ? plain : model.known(plain))) {
    completion.tokens.push_back(token);
    const std::string piece = text.push(token);
    output.piece({.token = token, .text = piece});
  }
  const std::string rest = text.finish();
  output.piece({.text = rest});
  output.finish({completion});
  return completion.tokens.size();
}

void require_fitting(const GenerateRequest& request) {
  const bool is_one = request.options.continuations == 1 && request.prompts.size() < 2 &&
                      request.prompts_file.empty();
  if (!request.save_state.empty() && !is_one)
    throw OptionError("save-state", "keeps one text: one prompt and no --n");
  if (!request.load_state.empty() && (request.prompts.size() > 1 || !request.prompts_file.empty()))
    throw OptionError("load-state", "is continued by one prompt");
  if (request.interactive &&
      (!is_one || request.json || request.ids || !request.log_probabilities.empty()))
    throw OptionError("interactive", "is one text, without --n, --json, --ids and --logprobs");
  if (request.interactive && (request.prompt_file == "-"))
    throw OptionError("interactive", "reads its lines from standard input, so a prompt cannot");
  if (request.no_end_tokens && !request.end_tokens.empty())
    throw OptionError("no-eos", "cannot be given beside --eos");
}

void generate(GenerateRequest request) {
  require_fitting(request);
  if (request.no_end_tokens || !request.end_tokens.empty())
    request.options.end_tokens = request.end_tokens;
  if (!request.log_probabilities.empty()) request.options.likeliest = request.likeliest;
  const AnyLanguageModel model =
      open_model(request.model, request.backend, request.weights, request.tokenizer);
  Transcript transcript(model);
  const bool goes_on = !request.load_state.empty();
  if (goes_on) transcript.load(request.load_state);
  if (request.interactive) {
    if (!request.prompts.empty() || !request.prompt_file.empty())
      transcript.append(tokens_of(request, model, prompts_of(request).front(), true));
    run_interactively(model, transcript, request.options);
    if (!request.save_state.empty()) transcript.save(request.save_state);
    return;
  }
  std::vector<std::string> prompts = prompts_of(request);
  if (goes_on && request.prompts.empty() && request.prompt_file.empty()) prompts = {""};
  std::vector<CompletionRequest> requests;
  const bool has_transcript = goes_on || !request.save_state.empty();
  for (const std::string& prompt : prompts)
    requests.push_back({.prompt = tokens_of(request, model, prompt, goes_on),
                        .options = request.options,
                        .transcript = has_transcript ? &transcript : nullptr});
  CompletionOutput output({.prompts = prompts,
                           .continuations = request.options.continuations,
                           .echo = !request.no_echo,
                           .ids = request.ids,
                           .json = request.json,
                           .log_probabilities = request.log_probabilities},
                          request.ids ? TokenTextMaker() : text_by(model.tokenizer()));
  const auto begin = std::chrono::steady_clock::now();
  std::size_t count = 0;
  if (model.facts().on_device && is_plain(request, prompts.size())) {
    count = generate_plainly(request, model, requests.front().prompt, output);
  } else {
    const auto texts = complete(
        model, requests, [&](const CompletionPiece& piece) { return output.piece(piece); },
        output.text());
    output.finish(texts);
    for (const Completion& text : texts) count += text.tokens.size();
  }
  if (!request.save_state.empty()) transcript.save(request.save_state);
  if (!request.statistics) return;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::fprintf(stderr,
               "%zu tokens in %.2f s, %s tokens/s, the prompt included; %.1f MB of weights\n",
               count, seconds, quantity_text(static_cast<double>(count) / seconds).c_str(),
               static_cast<double>(model.facts().weight_bytes) / 1e6);
}

/// What is given once for each time that the option is.
template <class Add>
CLI::Option* add_repeated(CLI::App& command, const std::string& flags, const std::string& type,
                          const std::string& help, Add&& add) {
  return command
      .add_option_function<std::vector<std::string>>(
          flags,
          [add](const std::vector<std::string>& words) {
            for (const std::string& word : words) add(word);
          },
          help)
      ->type_name(type)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

/// "ID:BIAS"; a bias of -inf forbids a token.
void add_bias(const std::string& word, TokenWeights& weights) {
  const std::size_t colon = word.find(':');
  const std::string id = word.substr(0, colon);
  const std::string bias = colon == std::string::npos ? "" : word.substr(colon + 1);
  const auto token = parse_whole_number<Token>(id, 0);
  if (!token) throw CLI::ValidationError("--logit-bias", "ID:BIAS: the id " + token.complaint);
  double value = -std::numeric_limits<double>::infinity();
  if (bias != "-inf") {
    const auto number = parse_number(bias);
    if (!number)
      throw CLI::ValidationError("--logit-bias", "ID:BIAS: the bias " + number.complaint);
    value = number.value;
  }
  weights.logit_bias[token.value] = value;
}

void add_sampling_options(CLI::App& command, CompletionOptions& options) {
  add_whole_number(command, "--tokens,-n", options.tokens, "how many", Index{0}, limit)
      ->default_str(std::to_string(options.tokens));
  add_whole_number(command, "--seed", options.seed.value, "of the sampling")
      ->default_str(std::to_string(options.seed.value));
  add_number(command, "--temperature,--temp", options.temperature, "0: always the likeliest token",
             0, 1000)
      ->default_str("0.8");
  add_whole_number(command, "--top-k", options.top_k, "only the k likeliest (0: all)", Index{0},
                   limit)
      ->default_str("0");
  add_number(command, "--top-p", options.top_p,
             "only the likeliest that together have this probability", 1e-9, 1)
      ->default_str("1");
  add_number(command, "--min-p", options.min_p, "only those this likely, relative to the likeliest",
             0, 1)
      ->default_str("0");
  add_number(command, "--typical-p", options.typical_p,
             "only the most typical that together have this probability", 1e-9, 1)
      ->default_str("1");
  TokenWeights& weights = options.weights;
  add_number(command, "--repetition-penalty", weights.repetition_penalty,
             "divides the logits of tokens that have occurred", 1e-3, 1e3)
      ->default_str("1");
  add_number(command, "--presence-penalty", weights.presence_penalty,
             "taken off the logits of tokens that were drawn", -1e3, 1e3)
      ->default_str("0");
  add_number(command, "--frequency-penalty", weights.frequency_penalty,
             "taken off as often as they were drawn", -1e3, 1e3)
      ->default_str("0");
  add_repeated(command, "--logit-bias", "ID:BIAS",
               "added to the logit of a token; -inf forbids it; may be repeated",
               [&weights](const std::string& word) { add_bias(word, weights); });
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto request = std::make_shared<GenerateRequest>();
  CLI::App* command = app.add_subcommand("generate", "Continue texts, token by token.");
  command->footer(examples);
  command->add_option("model", request->model, model_help)->required()->type_name("DIR");
  CLI::Option* prompt =
      add_repeated(*command, "--prompt", "TEXT", "text to continue (a new line); may be repeated",
                   [request](const std::string& text) { request->prompts.push_back(text); });
  CLI::Option* prompt_file = add_word(*command, "--prompt-file", request->prompt_file,
                                      "file to continue; - for standard input")
                                 ->excludes(prompt)
                                 ->type_name("FILE");
  add_word(*command, "--prompts", request->prompts_file,
           "file with a prompt on each line; - for standard input")
      ->excludes(prompt)
      ->excludes(prompt_file)
      ->type_name("FILE");
  add_sampling_options(*command, request->options);
  add_whole_number(*command, "--continuations,--n", request->options.continuations,
                   "of each prompt, which is read once", Index{1}, Index{1} << 16)
      ->default_str("1");
  add_repeated(*command, "--stop", "TEXT", "ends a text before this string; may be repeated",
               [request](const std::string& text) {
                 if (text.empty()) throw CLI::ValidationError("--stop", "is empty");
                 request->options.stop.push_back(unescaped(text));
               });
  add_repeated(*command, "--eos", "ID",
               "ends a text before this token, in place of the config's; may be repeated",
               [request](const std::string& word) {
                 const auto token = parse_whole_number<Token>(word, 0);
                 if (!token) throw CLI::ValidationError("--eos", token.complaint);
                 request->end_tokens.push_back(token.value);
               });
  command->add_flag("--no-eos", request->no_end_tokens, "no token ends a text");
  add_word(*command, "--logprobs", request->log_probabilities,
           "log-probabilities of tokens, a line of JSON each; -: on standard output, without text")
      ->type_name("FILE");
  add_whole_number(*command, "--top-logprobs", request->likeliest,
                   "and of so many of the likeliest tokens", Index{0}, Index{1000})
      ->default_str("0");
  add_word(*command, "--load-state", request->load_state,
           "continue what --save-state has kept of this model")
      ->type_name("FILE");
  add_word(*command, "--save-state", request->save_state, "keep the text and its state")
      ->type_name("FILE");
  command->add_flag("--ids", request->ids,
                    "token ids in and out, between spaces, in place of text");
  command->add_flag("--interactive", request->interactive,
                    "read a line, continue, and so on; /help tells more");
  command->add_flag("--json", request->json, "each text as a line of JSON, when all are done");
  command->add_flag("--no-echo", request->no_echo, "do not print the prompt first");
  command->add_flag("--statistics", request->statistics,
                    "tokens per second, and the memory of the weights, on standard error");
  add_tokenizer_option(*command, request->tokenizer);
  add_weights_option(*command, request->weights, request->backend.numbers);
  add_backend_options(*command, request->backend.backend, request->backend.threads);
  command->callback([request] { generate(*request); });
}

}  // namespace ssm::cli
