// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/npy.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm logits mamba-130m --tokens ids.npy --out logits.npy
  ssm logits run --tokens ids.npy --out logits.npy --backend reference
  ssm logits mamba-130m --text prompt.txt --out logits.npy                  by the tokenizer that is with the model

Every sequence is read from an empty state, in one pass. Tokens are int32 or int64 with the shape [L], [1, L] or [B, L];
logits are float32 with the shape [L, V], or [B, L, V] where there are several sequences. V is the number of rows of
the model's head, padding included.)";

struct LogitsRequest {
  std::filesystem::path model;
  std::filesystem::path tokens;
  std::filesystem::path text;
  std::filesystem::path tokenizer;
  std::filesystem::path out;
  std::string weights = "fp32";
  BackendOptions backend;
};

/// [B, L]
DynamicTensor<Token, 2> read_tokens(const std::filesystem::path& path) {
  const NpyFile file(open_input(path));
  if (file.shape().size() == 2) return file.read<Token, 2>();
  if (file.shape().size() != 1)
    throw CheckpointError(path.string(), "",
                          "is " + shape_text(file.shape()) + ", tokens must be [L] or [B, L]");
  const auto row = file.read<Token, 1>();
  DynamicTensor<Token, 2> tokens({1, row.extent(0)});
  copy(row, tokens.select(0, 0));
  return tokens;
}

void require_tokens(const std::string& file, const DynamicTensor<Token, 2>& tokens,
                    const LanguageModelFacts& facts) {
  for (Index b = 0; b < tokens.extent(0); ++b)
    for (Index t = 0; t < tokens.extent(1); ++t)
      if (tokens(b, t) < 0 || tokens(b, t) >= facts.padded_vocabulary)
        throw CheckpointError(file, "",
                              "has token " + std::to_string(tokens(b, t)) + " at [" +
                                  std::to_string(b) + ", " + std::to_string(t) +
                                  "], the model knows 0 to " +
                                  std::to_string(facts.padded_vocabulary - 1));
  if (facts.positions > 0 && tokens.extent(1) > facts.positions)
    throw CheckpointError(file, "",
                          "has sequences of " + std::to_string(tokens.extent(1)) +
                              " tokens, the model has learned " + std::to_string(facts.positions) +
                              " positions");
}

/// [1, L]: the whole of a text.
DynamicTensor<Token, 2> encode_text(const AnyLanguageModel& model,
                                    const std::filesystem::path& path) {
  const std::vector<Token> all = model.encode(read_text(path));
  DynamicTensor<Token, 2> tokens({1, static_cast<Index>(all.size())});
  std::copy(all.begin(), all.end(), tokens.data());
  return tokens;
}

void logits(const LogitsRequest& request) {
  const bool is_text = request.tokens.empty();
  DynamicTensor<Token, 2> tokens;
  if (!is_text) tokens = read_tokens(request.tokens);
  const AnyLanguageModel model =
      open_model(request.model, request.backend, request.weights, request.tokenizer);
  if (is_text) tokens = encode_text(model, request.text);
  require_tokens((is_text ? request.text : request.tokens).string(), tokens, model.facts());
  const Index batch = tokens.extent(0);
  const Index length = tokens.extent(1);
  const std::array<Index, 3> shape{batch, length, model.facts().padded_vocabulary};
  NpyWriter<float> out(request.out, std::span(shape).subspan(batch == 1 ? 1 : 0));
  for (Index b = 0; b < batch && length > 0; ++b)
    out.write(model.logits(std::span(&tokens(b, 0), static_cast<std::size_t>(length))));
  out.finish();
}

}  // namespace

void add_logits_command(CLI::App& app) {
  auto request = std::make_shared<LogitsRequest>();
  CLI::App* command =
      app.add_subcommand("logits", "Write what a model expects after every token, as .npy.");
  command->footer(examples);
  command
      ->add_option(
          "model", request->model,
          "folder with config.json and model.safetensors or shards of it, or of a training run")
      ->required()
      ->type_name("DIR");
  CLI::Option_group* input = command->add_option_group("Input");
  input->require_option(1);
  CLI::Option* tokens =
      input->add_option("--tokens", request->tokens, "the sequences; - for standard input")
          ->type_name("IDS.npy");
  input->add_option("--text", request->text, "one sequence as text; - for standard input")
      ->type_name("FILE");
  command->add_option("--out", request->out, "where the logits go")
      ->required()
      ->type_name("LOGITS.npy");
  add_tokenizer_option(*command, request->tokenizer);
  command->get_option("--tokenizer")->excludes(tokens);
  add_weights_option(*command, request->weights, request->backend.numbers);
  add_backend_options(*command, request->backend.backend, request->backend.threads);
  command->callback([request] { logits(*request); });
}

}  // namespace ssm::cli
