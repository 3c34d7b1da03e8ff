// SPDX-License-Identifier: Apache-2.0
// Generates with a model as `ssm generate --temperature 0` does, once for nothing and then some
// times, and prints medians as a line of JSON: milliseconds to the first token, tokens a second
// from there on, and of all.
//   cuda_generation MODEL NUMBERS SEQUENCES PROMPT TOKENS [ROUNDS]      3 rounds
// NUMBERS  fp32; weights alone in bf16 or int8; or bf16-sequences: both in bf16
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/language_model.hpp"
#include "ssm/language_model/completion.hpp"

namespace {

using namespace ssm;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Seconds to the first token and to the last.
struct Times {
  double first = 0, all = 0;
};

std::vector<Token> prompt_of(Index length, Index sequence) {
  std::vector<Token> tokens(static_cast<std::size_t>(length));
  Index next = 7 * sequence + 1;
  for (Token& token : tokens) {
    token = static_cast<Token>(next % 100);
    next = next * 31 + 11;
    next %= 1 << 20;
  }
  return tokens;
}

Times generate_one(const AnyLanguageModel& model, Index length, Index count) {
  const std::vector<Token> prompt = prompt_of(length, 0);
  const double start = seconds_now();
  Times times;
  for ([[maybe_unused]] const Token token :
       model.generate(prompt, {.temperature = 0, .tokens = count}))
    if (times.first == 0) times.first = seconds_now() - start;
  times.all = seconds_now() - start;
  return times;
}

Times generate_many(const AnyLanguageModel& model, Index sequences, Index length, Index count) {
  std::vector<CompletionRequest> requests;
  for (Index i = 0; i < sequences; ++i) {
    CompletionOptions options{.temperature = 0, .tokens = count};
    options.end_tokens.emplace();  // none
    requests.push_back({.prompt = prompt_of(length, i), .options = std::move(options)});
  }
  const double start = seconds_now();
  Times times;
  complete(model, requests, [&](const CompletionPiece& piece) {
    if (times.first == 0 && piece.token) times.first = seconds_now() - start;
    return true;
  });
  times.all = seconds_now() - start;
  return times;
}

double median_of(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void measure(char** arguments, int rounds) {
  const std::string_view numbers = arguments[2];
  const Index sequences = std::atoll(arguments[3]);
  const Index length = std::atoll(arguments[4]);
  const Index tokens = std::atoll(arguments[5]);
  const AnyLanguageModel model =
      open_language_model(arguments[1], {.backend = "cuda",
                                         .numbers = numbers == "bf16-sequences" ? "bf16" : "float",
                                         .weights = numbers == "bf16"   ? WeightForm::bf16
                                                    : numbers == "int8" ? WeightForm::int8
                                                                        : WeightForm::full});
  const auto run = [&] {
    return sequences == 1 ? generate_one(model, length, tokens)
                          : generate_many(model, sequences, length, tokens);
  };
  run();
  std::vector<double> first, whole, decode;
  for (int round = 0; round < rounds; ++round) {
    const Times times = run();
    const auto drawn = static_cast<double>(sequences);
    first.push_back(1e3 * times.first);
    whole.push_back(drawn * static_cast<double>(tokens) / times.all);
    decode.push_back(drawn * static_cast<double>(tokens - 1) / (times.all - times.first));
  }
  std::printf(
      "{\"sequences\": %lld, \"prompt\": %lld, \"tokens\": %lld, \"weights\": \"%s\", "
      "\"parameters\": %lld, \"weight_bytes\": %zu, \"first_token_ms\": %.4g, "
      "\"tokens_per_second\": %.6g, \"decode_tokens_per_second\": %.6g, \"rounds\": %d}\n",
      static_cast<long long>(sequences), static_cast<long long>(length),
      static_cast<long long>(tokens), arguments[2],
      static_cast<long long>(model.facts().parameters), model.facts().weight_bytes,
      median_of(first), median_of(whole), median_of(decode), rounds);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 6) {
    std::fputs(
        "usage: cuda_generation MODEL fp32|bf16|int8|bf16-sequences SEQUENCES PROMPT TOKENS "
        "[ROUNDS]\n",
        stderr);
    return 2;
  }
  try {
    measure(arguments, count > 6 ? std::atoi(arguments[6]) : 3);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_generation: %s\n", error.what());
    return 1;
  }
}
