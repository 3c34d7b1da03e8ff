// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>
#include <type_traits>

#include "command_options.hpp"
#include "commands.hpp"
#include "families.hpp"
#include "training_run.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm train --text book.txt --out run                        five minutes, the default model
  ssm train --text book.txt --out run --minutes 30 --width 256
  ssm train --text book.txt --out run --steps 2000 --seed 7  the same weights every time
  ssm train --text book.txt --out run --model dense-mamba --layers 8
  ssm train --text book.txt --out run --resume               go on after Ctrl-C, kill or a crash

--out gets checkpoint-STEP/ (config.json, model.safetensors, and what --resume needs), metrics.jsonl and
loss.svg. The last tenth of the text is held out. Ctrl-C saves a checkpoint and exits with status 0.
A run bounded by --steps and resumed after any interruption ends with the same weights, bit for bit, as one that
was never interrupted, on the same backend and number of threads. One bounded by --minutes goes on for the minutes
that are left; its learning rate follows the clock.)";

bool allows_zero(std::string_view flag) {
  return flag == "--inner" || flag == "--state" || flag == "--sources";
}

void add_recipe_option(CLI::App& command, TrainRequest& request, const char* flag, auto& value,
                       const char* help) {
  using Value = std::remove_reference_t<decltype(value)>;
  CLI::Option* option = add_option(command, flag, value, help)->capture_default_str();
  option->group("Model and training");
  const std::string name = flag;
  if constexpr (std::is_same_v<Value, std::vector<Index>>)
    option->delimiter(',')->check(between(Index{0}, most))->default_str("none");
  if constexpr (std::is_same_v<Value, std::string>)
    option->check(name == "--backend" ? one_of(backend_names)
                  : name == "--model" ? one_of(family_names())
                  : name == "--fusion"
                      ? one_of({"usual", "readout", "carried"})
                      : one_of({"constant", "linear", "polynomial", "cosine", "cosine_timm"}));
  if constexpr (std::is_same_v<Value, Index>)
    option->check(between(Index{allows_zero(name) ? 0 : 1}, Index{1} << 30));
  if constexpr (std::is_same_v<Value, double>) {
    const bool is_part =
        name == "--warmup" || name == "--dropout" || name == "--held-out" || name == "--beta2";
    option->check(is_part ? between(0.0, 0.999) : between(0.0, 1e6));
  }
  option->each([&request, name](const std::string&) { request.given.insert(name); });
}

void add_limits(CLI::App& command, TrainRequest& request) {
  TrainingLimits& limits = request.limits;
  CLI::Option* minutes = add_option(command, "--minutes", limits.minutes,
                                    "train this long (5, unless --steps is given)")
                             ->check(between(1e-3, 1e6));
  add_option(command, "--steps", limits.steps, "train for this many updates")
      ->check(between(Index{1}, most))
      ->excludes(minutes);
  add_option(command, "--evaluate-every,--eval-every", limits.evaluate_every,
             "steps (else ten times in a run)")
      ->check(between(Index{1}, most));
  add_option(command, "--save-every", limits.save_every, "steps (else once a minute)")
      ->check(between(Index{1}, most));
  add_option(command, "--log-every", limits.log_every, "steps (else 10)")
      ->check(between(Index{1}, most));
  add_option(command, "--keep", limits.keep, "checkpoints (else 2)")
      ->check(between(Index{1}, most));
  add_option(command, "--threads", limits.threads, "of the cpu backend (all cores)")
      ->check(between(1, 1024));
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto request = std::make_shared<TrainRequest>();
  CLI::App* command = app.add_subcommand("train", "Train a language model on a text.");
  command->footer(examples);
  command->add_option("--text", request->text, "the text, as it is, byte by byte")
      ->required()
      ->type_name("FILE");
  command->add_option("--out", request->out, "folder for checkpoints, metrics and the loss curve")
      ->required()
      ->type_name("DIR");
  command
      ->add_option(
          "--config", request->config,
          "a config.json in place of --model and the sizes; its vocabulary must be the bytes'")
      ->type_name("FILE");
  command->add_flag("--resume", request->resume,
                    "go on from the newest checkpoint in --out, if there is one");
  command->add_flag("--quiet", request->quiet, "no progress on standard error");
  add_limits(*command, *request);
  for_each_option(request->recipe, [&](const char* flag, auto& value, const char* help) {
    add_recipe_option(*command, *request, flag, value, help);
  });
  command->callback([request] { train(*request); });
}

}  // namespace ssm::cli
