// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <concepts>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"  // Index
#include "ssm/io/number.hpp"
#include "ssm/language_model.hpp"

namespace ssm::cli {

/// What numbers on the command line may be. They are read strictly: nothing wraps, saturates or is
/// cut.
inline constexpr Index limit = Index{1} << 40;

/// Adds an option for a whole number from `least` to `most`, to a number or to an optional one.
/// Given twice, the last one counts.
template <std::integral Number, class Value>
CLI::Option* add_whole_number_to(Value& value, CLI::App& command, const std::string& flags,
                                 const std::string& help, Number least, Number most) {
  const std::string name = flags.substr(0, flags.find(','));
  return command
      .add_option_function<std::string>(
          flags,
          [&value, name, least, most](const std::string& text) {
            const auto number = parse_whole_number<Number>(text, least, most);
            if (!number) throw CLI::ValidationError(name, number.complaint);
            value = number.value;
          },
          help)
      ->type_name("N")
      ->take_last();
}
template <std::integral Number>
CLI::Option* add_whole_number(CLI::App& command, const std::string& flags, Number& value,
                              const std::string& help, Number least = 0,
                              Number most = std::numeric_limits<Number>::max()) {
  return add_whole_number_to(value, command, flags, help, least, most);
}
template <std::integral Number>
CLI::Option* add_whole_number(CLI::App& command, const std::string& flags,
                              std::optional<Number>& value, const std::string& help,
                              Number least = 0, Number most = std::numeric_limits<Number>::max()) {
  return add_whole_number_to(value, command, flags, help, least, most);
}
/// The same for a number.
inline CLI::Option* add_number(CLI::App& command, const std::string& flags, double& value,
                               const std::string& help, double least, double most) {
  const std::string name = flags.substr(0, flags.find(','));
  return command
      .add_option_function<std::string>(
          flags,
          [&value, name, least, most](const std::string& text) {
            const auto number = parse_number(text, least, most);
            if (!number) throw CLI::ValidationError(name, number.complaint);
            value = number.value;
          },
          help)
      ->type_name("NUMBER")
      ->take_last();
}
/// The same for a word.
inline CLI::Option* add_word(CLI::App& command, const std::string& flags, std::string& value,
                             const std::string& help, std::vector<std::string> words = {}) {
  CLI::Option* option = command.add_option(flags, value, help)->type_name("TEXT")->take_last();
  if (!words.empty()) option->check(CLI::IsMember(std::move(words)).description(""));
  return option;
}

/// --backend and --threads.
inline void add_backend_options(CLI::App& command, std::string& backend, int& threads) {
  add_word(command, "--backend", backend,
           "cpu, cuda, cuda-tf32: faster, coarser matrix products; or reference: plain loops, slow")
      ->check(CLI::IsMember({"cpu", "cuda", "cuda-tf32", "reference"}).description(""))
      ->type_name("NAME");
  add_whole_number(command, "--threads", threads, "of the cpu backend (all cores)", 1, 1024);
}

/// --weights, and --numbers of a model that is read from.
inline void add_weights_option(CLI::App& command, std::string& weights, std::string& numbers) {
  add_word(command, "--weights", weights,
           "fp32, or rounded: bf16 or f16 in half the memory, int8 in a quarter",
           {"fp32", "bf16", "f16", "int8"})
      ->type_name("FORM")
      ->capture_default_str();
  add_word(command, "--numbers", numbers,
           "of sequences and products: float, or on cuda bf16, weights with them, at more tokens a "
           "second",
           {"float", "bf16"})
      ->type_name("TYPE")
      ->capture_default_str();
}

/// --tokenizer.
inline void add_tokenizer_option(CLI::App& command, std::filesystem::path& tokenizer) {
  command
      .add_option("--tokenizer", tokenizer,
                  "its file, or a folder that has it (the model's folder; else tokens are bytes)")
      ->type_name("FILE_OR_DIR");
}

/// The model of a command, opened as its options say.
inline AnyLanguageModel open_model(const std::filesystem::path& path, BackendOptions backend,
                                   const std::string& weights,
                                   const std::filesystem::path& tokenizer = {}) {
  if (weights == "bf16") backend.weights = WeightForm::bf16;
  if (weights == "f16") backend.weights = WeightForm::f16;
  if (weights == "int8") backend.weights = WeightForm::int8;
  AnyLanguageModel model = open_language_model(path, backend);
  if (!tokenizer.empty()) model.use_tokenizer(load_tokenizer(tokenizer));
  return model;
}

inline constexpr const char* model_help =
    "folder of a training run, or with config.json and model.safetensors or shards of it";

}  // namespace ssm::cli
