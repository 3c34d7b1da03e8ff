// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "ssm/io/checkpoint_folder.hpp"
#include "ssm/language_model/training_record.hpp"
#include "tokenized_text.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm perplexity run --text book.txt                 the whole text
  ssm perplexity run --text book.txt --held-out      its end, which the training run held out
  ssm perplexity run --text other.txt --json
  ssm perplexity mamba-130m --text book.txt --tokenizer gpt-neox-20b

The text is read once from beginning to end with the state carried along, so there are no windows and no strides; every
token but the first is predicted. Models with attention start afresh every 1024 tokens, or see --context.)";

struct PerplexityRequest {
  std::filesystem::path model;
  std::filesystem::path text;
  std::filesystem::path tokenizer;
  double from = 0;
  std::optional<Index> context;
  bool held_out = false;
  bool json = false;
  std::string weights = "fp32";
  BackendOptions backend;
};

/// Where the part to be measured begins. What was held out is what the record of the run says.
Index begin_of(const PerplexityRequest& request, TokenView text) {
  const auto size = static_cast<std::size_t>(text.size());
  if (!request.held_out) return static_cast<Index>(held_out_begin(size, 1 - request.from));
  const std::filesystem::path file = model_folder(request.model) / "trainer.json";
  std::error_code error;
  if (!std::filesystem::exists(file, error))
    throw ArgumentError("--held-out: " + request.model.string() +
                        " has no record of a training run; say --from FRACTION");
  const TrainingRecord record = read_record(file);
  if (record.text_tokens != text.size() || record.text_digest != digest_of(text))
    throw ArgumentError("--held-out: " + request.text.string() +
                        " is not the text that the model was trained on; say --from FRACTION, or "
                        "nothing for the whole text");
  return static_cast<Index>(held_out_begin(size, record.recipe.held_out));
}

/// Bytes of what is predicted: every token but the first.
double bytes_of(const Tokenizer& tokenizer, TokenView text) {
  double bytes = 0;
  std::vector<Token> block(1 << 16);
  for (Index begin = 1; begin < text.size();) {
    const Index count = std::min(static_cast<Index>(block.size()), text.size() - begin);
    const std::span<Token> part = std::span(block).first(static_cast<std::size_t>(count));
    text.read(begin, part);
    for (const Token token : part) bytes += static_cast<double>(tokenizer.bytes(token).size());
    begin += count;
  }
  return bytes;
}

void perplexity(const PerplexityRequest& request) {
  const AnyLanguageModel model =
      open_model(request.model, request.backend, request.weights, request.tokenizer);
  const Tokenizer tokenizer = model.tokenizer();
  const TokenizedText whole(request.text, tokenizer);
  const TokenView text = whole.tokens();
  if (text.size() == 0) throw ArgumentError(whole.name() + ": the text is empty");
  const Index begin = begin_of(request, text);
  const TokenView part = text.subview(begin, text.size() - begin);
  if (part.size() < 2)
    throw ArgumentError(whole.name() + ": nothing to predict in " + std::to_string(part.size()) +
                        " tokens");
  whole.require_known(model);
  const TextLoss loss = model.evaluate(part, request.context);
  const double bytes = bytes_of(tokenizer, part);
  const double bits = bits_per_byte(loss, bytes / static_cast<double>(loss.tokens));
  if (!std::isfinite(bits))
    throw ArgumentError(request.model.string() + ": the model's loss is not finite");
  if (request.json) {
    const nlohmann::ordered_json json{{"bits_per_byte", bits},
                                      {"loss", loss.mean()},
                                      {"perplexity", std::exp(loss.mean())},
                                      {"tokens", loss.tokens},
                                      {"bytes", static_cast<std::int64_t>(bytes)}};
    std::cout << json.dump() << std::endl;
  } else {
    std::printf(
        "bits per byte  %.4f\nloss           %.4f nats per token\nperplexity     %.4f\ntokens      "
        "   %td\n",
        bits, loss.mean(), std::exp(loss.mean()), loss.tokens);
    std::fflush(stdout);
  }
  if (!std::cout || std::ferror(stdout) != 0) throw Error("standard output cannot be written");
}

}  // namespace

void add_perplexity_command(CLI::App& app) {
  auto request = std::make_shared<PerplexityRequest>();
  CLI::App* command = app.add_subcommand("perplexity", "Measure how well a model predicts a text.");
  command->footer(examples);
  command->add_option("model", request->model, model_help)->required()->type_name("DIR");
  command->add_option("--text", request->text, "the text; - for standard input")
      ->required()
      ->type_name("FILE");
  CLI::Option* from = add_number(*command, "--from", request->from,
                                 "part of the text to leave out at its beginning", 0, 0.999999);
  command
      ->add_flag("--held-out", request->held_out,
                 "only the end of the text that the training run held out")
      ->excludes(from);
  command
      ->add_option_function<std::string>(
          "--context",
          [request](const std::string& words) {
            const auto number = parse_whole_number<Index>(words, 0, limit);
            if (!number) throw CLI::ValidationError("--context", number.complaint);
            request->context = number.value;
          },
          "tokens after which the state starts afresh (0: never)")
      ->type_name("N")
      ->take_last();
  command->add_flag("--json", request->json, "one JSON object on standard output");
  add_tokenizer_option(*command, request->tokenizer);
  add_weights_option(*command, request->weights);
  add_backend_options(*command, request->backend.backend, request->backend.threads);
  command->callback([request] { perplexity(*request); });
}

}  // namespace ssm::cli
