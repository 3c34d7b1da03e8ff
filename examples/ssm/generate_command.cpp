// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include "command_options.hpp"
#include "commands.hpp"
#include "model_file.hpp"
#include "progress.hpp"
#include "ssm/io/detokenizer.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm generate run --prompt "ROMEO:" --tokens 400
  ssm generate run --prompt "ROMEO:" --tokens 400 --temperature 0        always the likeliest
  ssm generate run --prompt-file scene.txt --top-p 0.95 --seed 7
  head -c 1000 book.txt | ssm generate run --prompt-file - --no-echo

The model runs recurrently: its state and the time per token do not grow with the text. The same seed gives the same
text. Stages of sampling: temperature, top-k, top-p, min-p.)";

struct GenerateRequest {
  std::filesystem::path model;
  std::string prompt = "\n";
  std::string prompt_file;
  GenerateOptions options{.temperature = 0.8, .tokens = 400, .seed = {1}};
  std::string weights = "fp32";
  Machine machine;
  bool no_echo = false;
  bool statistics = false;
};

std::string prompt_of(const GenerateRequest& request) {
  if (request.prompt_file.empty()) return request.prompt;
  if (request.prompt_file != "-")
    return read_text_file(request.prompt_file, std::uint64_t{1} << 30);
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

void print(const std::string& text) {
  if (!(std::cout << text << std::flush)) throw Error("standard output cannot be written");
}

void generate(const GenerateRequest& request) {
  const ModelFile model(request.model, request.machine);
  const std::string prompt = prompt_of(request);
  if (prompt.empty()) throw ArgumentError("the prompt is empty");
  if (request.weights == "bf16") model.engine().keep_weights_in_bf16();
  Detokenizer text(model.tokenizer());
  if (!request.no_echo) print(prompt);
  const auto begin = std::chrono::steady_clock::now();
  Index count = 0;
  model.engine().generate(model.tokenizer().encode(prompt), request.options, [&](Token token) {
    print(text.push(token));
    ++count;
    return true;
  });
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
      add_option(*command, "--prompt", request->prompt, "text to continue (a new line)");
  add_option(*command, "--prompt-file", request->prompt_file,
             "file to continue; - for standard input")
      ->excludes(prompt)
      ->type_name("FILE");
  GenerateOptions& options = request->options;
  add_option(*command, "--tokens,-n", options.tokens, "how many")
      ->check(between(Index{0}, most))
      ->capture_default_str();
  add_option(*command, "--seed", options.seed.value, "of the sampling")->capture_default_str();
  add_option(*command, "--temperature,--temp", options.temperature, "0: always the likeliest token")
      ->check(between(0.0, 1000.0))
      ->capture_default_str();
  add_option(*command, "--top-k", options.top_k, "only the k likeliest (0: all)")
      ->check(between(Index{0}, most))
      ->capture_default_str();
  add_option(*command, "--top-p", options.top_p,
             "only the likeliest that together have this probability")
      ->check(between(1e-9, 1.0))
      ->capture_default_str();
  add_option(*command, "--min-p", options.min_p,
             "only those this likely, relative to the likeliest")
      ->check(between(0.0, 1.0))
      ->capture_default_str();
  command->add_flag("--no-echo", request->no_echo, "do not print the prompt first");
  command->add_flag("--statistics", request->statistics, "tokens per second on standard error");
  add_option(*command, "--weights", request->weights, "fp32, or bf16: half the memory, rounded")
      ->check(one_of({"fp32", "bf16"}))
      ->type_name("FORM")
      ->capture_default_str();
  add_machine_options(*command, request->machine);
  command->callback([request] { generate(*request); });
}

}  // namespace ssm::cli
