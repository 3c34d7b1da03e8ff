// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "command_options.hpp"
#include "commands.hpp"
#include "model_file.hpp"
#include "text_file.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm perplexity run --text book.txt                 the whole text
  ssm perplexity run --text book.txt --held-out      its last tenth, which training did not see
  ssm perplexity run --text other.txt --json

The text is read once from beginning to end with the state carried along, so there are no windows and no strides; every
token but the first is predicted. Models with attention start afresh every 1024 tokens, or see --context.)";

struct PerplexityRequest {
  std::filesystem::path model;
  std::filesystem::path text;
  double from = 0;
  Index context = -1;  // not given
  bool held_out = false;
  bool json = false;
  std::string weights = "fp32";
  Machine machine;
};

Index context_of(const PerplexityRequest& request, const ModelSizes& sizes) {
  const Index learned = sizes.positions;
  const Index usual = evaluation_context(sizes.has_attention);
  const Index context = request.context >= 0 ? request.context : usual;
  return learned > 0 && (context == 0 || context > learned) ? learned : context;
}

void perplexity(const PerplexityRequest& request) {
  const std::string text = read_training_text(request.text);
  const ModelFile model(request.model, request.machine);
  const std::size_t begin =
      held_out_begin(text.size(), 1 - (request.held_out ? 0.9 : request.from));
  const auto tokens = model.tokenizer().encode(std::string_view(text).substr(begin));
  if (tokens.size() < 2)
    throw ArgumentError(request.text.string() + ": nothing to predict in " +
                        std::to_string(tokens.size()) + " tokens");
  if (request.weights == "bf16") model.engine().keep_weights_in_bf16();
  const TextLoss loss =
      model.engine().loss(tokens, {.context = context_of(request, model.sizes())});
  const double bits = bits_per_byte(loss);
  if (!std::isfinite(bits))
    throw ArgumentError(request.model.string() + ": the model's loss is not finite");
  if (request.json) {
    const nlohmann::ordered_json json{{"bits_per_byte", bits},
                                      {"loss", loss.mean()},
                                      {"perplexity", std::exp(loss.mean())},
                                      {"tokens", loss.tokens},
                                      {"bytes", loss.tokens}};
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
  command->add_option("--text", request->text, "the text")->required()->type_name("FILE");
  CLI::Option* from = add_option(*command, "--from", request->from,
                                 "part of the text to leave out at its beginning")
                          ->check(between(0.0, 0.999999));
  command->add_flag("--held-out", request->held_out, "only the last tenth")->excludes(from);
  add_option(*command, "--context", request->context,
             "tokens after which the state starts afresh (0: never)")
      ->check(between(Index{0}, most));
  command->add_flag("--json", request->json, "one JSON object on standard output");
  add_option(*command, "--weights", request->weights, "fp32, or bf16: half the memory, rounded")
      ->check(one_of({"fp32", "bf16"}))
      ->type_name("FORM")
      ->capture_default_str();
  add_machine_options(*command, request->machine);
  command->callback([request] { perplexity(*request); });
}

}  // namespace ssm::cli
