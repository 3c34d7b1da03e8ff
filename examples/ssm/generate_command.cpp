// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "command_options.hpp"
#include "commands.hpp"
#include "progress.hpp"
#include "ssm/io/input.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm generate run --prompt "ROMEO:" --tokens 400
  ssm generate run --prompt "ROMEO:" --tokens 400 --temperature 0        always the likeliest
  ssm generate run --prompt-file scene.txt --top-p 0.95 --seed 7
  head -c 1000 book.txt | ssm generate run --prompt-file - --no-echo

The model runs recurrently: its state and the time per token do not grow with the text, but for layers with attention, which
remember every token. The same seed gives the same text. Stages of sampling: temperature, top-k, top-p, min-p.)";

struct GenerateRequest {
  std::filesystem::path model;
  std::filesystem::path tokenizer;
  std::string prompt = "\n";
  std::string prompt_file;
  GenerateOptions options{.temperature = 0.8, .tokens = 400, .seed = {1}};
  std::string weights = "fp32";
  BackendOptions backend;
  bool no_echo = false;
  bool statistics = false;
};

void print(const std::string& text) {
  if (!(std::cout << text << std::flush)) throw Error("standard output cannot be written");
}

void generate(const GenerateRequest& request) {
  const AnyLanguageModel model =
      open_model(request.model, request.backend, request.weights, request.tokenizer);
  const std::string prompt =
      request.prompt_file.empty() ? request.prompt : read_text(request.prompt_file);
  if (!request.no_echo) print(prompt);
  const auto begin = std::chrono::steady_clock::now();
  // A text that begins with nothing begins behind the end of a line.
  const auto tokens = model.encode(prompt.empty() ? "\n" : prompt);
  Detokenizer text(model.tokenizer(), TextPlace::continuation);
  Index count = 0;
  for (const Token token : model.generate(tokens, model.known(request.options))) {
    print(text.push(token));
    ++count;
  }
  print(text.finish() + "\n");
  if (!request.statistics) return;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::fprintf(stderr, "%td tokens in %.2f s, %s tokens/s, the prompt included\n", count, seconds,
               quantity_text(static_cast<double>(count) / seconds).c_str());
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto request = std::make_shared<GenerateRequest>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text, token by token.");
  command->footer(examples);
  command->add_option("model", request->model, model_help)->required()->type_name("DIR");
  CLI::Option* prompt =
      add_word(*command, "--prompt", request->prompt, "text to continue (a new line)");
  add_word(*command, "--prompt-file", request->prompt_file,
           "file to continue; - for standard input")
      ->excludes(prompt)
      ->type_name("FILE");
  GenerateOptions& options = request->options;
  add_whole_number(*command, "--tokens,-n", options.tokens, "how many", Index{0}, limit)
      ->default_str(std::to_string(options.tokens));
  add_whole_number(*command, "--seed", options.seed.value, "of the sampling")
      ->default_str(std::to_string(options.seed.value));
  add_number(*command, "--temperature,--temp", options.temperature, "0: always the likeliest token",
             0, 1000)
      ->default_str("0.8");
  add_whole_number(*command, "--top-k", options.top_k, "only the k likeliest (0: all)", Index{0},
                   limit)
      ->default_str("0");
  add_number(*command, "--top-p", options.top_p,
             "only the likeliest that together have this probability", 1e-9, 1)
      ->default_str("1");
  add_number(*command, "--min-p", options.min_p,
             "only those this likely, relative to the likeliest", 0, 1)
      ->default_str("0");
  command->add_flag("--no-echo", request->no_echo, "do not print the prompt first");
  command->add_flag("--statistics", request->statistics, "tokens per second on standard error");
  add_tokenizer_option(*command, request->tokenizer);
  add_weights_option(*command, request->weights);
  add_backend_options(*command, request->backend.backend, request->backend.threads);
  command->callback([request] { generate(*request); });
}

}  // namespace ssm::cli
