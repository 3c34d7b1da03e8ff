// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <span>
#include <thread>

#include "experiment.hpp"
#include "report.hpp"
#include "ssm/io/file.hpp"
#include "ssm/version.hpp"

namespace {

using namespace synthetics;

/// What a subcommand was asked for.
struct Request {
  Settings settings;
  Plan plan{.jobs = std::max<Index>(1, static_cast<Index>(std::thread::hardware_concurrency()))};
  std::filesystem::path out = "runs/synthetics";
};

void add_options(CLI::App& command, Request& r) {
  Settings& s = r.settings;
  std::vector<std::string> names;
  for (const Model& model : all_models())
    if (s.task != "mqar" || model.has_any_width) names.push_back(model.name);
  r.plan.models = names;
  command.add_option("--models", r.plan.models, "Which to train")
      ->delimiter(',')
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  const CLI::Validator positive = CLI::Range(Index{1}, Index{1} << 40, "a positive number");
  command.add_option("--seeds", r.plan.seeds, "Train each model from so many seeds")
      ->check(positive)
      ->capture_default_str();
  command
      .add_option("--jobs", r.plan.jobs,
                  "Train so many at a time, one thread each; on a GPU a stream each; 0: only "
                  "report what is finished")
      ->check(CLI::Range(Index{0}, Index{1} << 20, "a number"))
      ->capture_default_str();
  command
      .add_option("--out", r.out,
                  "Folder for the results, TASK.json and TASK.svg, and for what runs go on from")
      ->capture_default_str();
#ifdef SSM_WITH_CUDA
  const std::vector<std::string> backends{"cpu", "cuda"};
#else
  const std::vector<std::string> backends{"cpu"};
#endif
  command.add_option("--backend", s.backend, "What trains")
      ->check(CLI::IsMember(backends))
      ->capture_default_str();
  if (s.task == "mqar") {
    command.add_option("--widths", r.plan.widths, "Channels of the models")
        ->delimiter(',')
        ->check(CLI::Range(Index{8}, Index{4096}, "a width from 8 to 4096"))
        ->capture_default_str();
    command.add_option("--pairs", s.pairs, "Keys of a sequence")
        ->check(positive)
        ->capture_default_str();
  }
  command.add_option("--epochs", s.epochs, "Passes over the training sequences")
      ->check(positive)
      ->capture_default_str();
  command
      .add_option("--until", s.until,
                  "End a run when its test accuracy is this high (1: all right; 2: never)")
      ->check(CLI::Range(0.0, 2.0, "an accuracy from 0 to 1, or 2"))
      ->capture_default_str();
  command
      .add_option("--vocabulary", s.vocabulary,
                  "Tokens, with the query marker and the no-answer token")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--length", s.length, "Tokens before the query")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--training", s.training, "Training sequences")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--test", s.test, "Test sequences")->check(positive)->capture_default_str();
  command
      .add_option("--data-seed", s.data_seed,
                  "Seed of the first runs' sequences; those of the next have the next")
      ->capture_default_str();
  command.add_option("--batch", s.batch, "Sequences of one update")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--rate", s.rate, "Highest learning rate")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

void write(const std::filesystem::path& path, const std::string& text) {
  ssm::AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

void perform(const Request& request) {
  const Settings& settings = request.settings;
  const Data data = make_data(settings, 0);  // its floor and chance are those of every seed
  const auto save = [&](const std::vector<Run>& runs) {
    write(request.out / (settings.task + ".json"), json(settings, data, runs));
    write(request.out / (settings.task + ".svg"), plot(settings, data, runs));
  };
  std::filesystem::create_directories(request.out);
  {
    const ssm::AtomicFile probe(request.out / (settings.task + ".json"));
  }  // fails now, not after the first run
  Plan plan = request.plan;
  plan.folder = request.out / (settings.task + "-runs");
  const std::vector<Run> runs = run_all(settings, plan, save);
  const auto wanted =
      static_cast<std::size_t>(plan.seeds) * plan.models.size() * plan.widths.size();
  if (runs.size() < wanted)
    std::printf("%zu of %zu runs are finished; the same command goes on\n", runs.size(), wanted);
  if (runs.empty()) return;
  save(runs);
  std::printf("%s\nwritten: %s, %s\n", table(settings, data, runs).c_str(),
              (request.out / (settings.task + ".json")).c_str(),
              (request.out / (settings.task + ".svg")).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Trains two-layer models on the synthetic tasks of the H3 paper with the published settings.",
      "ssm-synthetics");
  app.footer(
      "Examples:\n"
      "  ssm-synthetics recall                                 every model, 3 seeds each\n"
      "  ssm-synthetics recall --models h3 --seeds 1\n"
      "  ssm-synthetics induction --models h3,s4d,attention --out results\n"
      "  ssm-synthetics mqar --widths 16,32,64,128             accuracy over the width\n\n"
      "Ctrl-C stops after the epoch; the same command goes on, and does not repeat what is "
      "finished.");
  app.set_version_flag("--version", SSM_VERSION_STRING);
  app.require_subcommand(1);
  Request recall;
  recall.settings.task = "recall";
  add_options(
      *app.add_subcommand("recall", "Associative recall: which value belonged to this key?"),
      recall);
  Request induction;
  induction.settings.task = "induction";
  induction.settings.vocabulary = 20;
  induction.settings.length = 30;
  induction.settings.epochs = 400;
  add_options(
      *app.add_subcommand("induction", "Induction heads: what came after the marker before?"),
      induction);
  Request mqar;
  mqar.settings = {.task = "mqar",
                   .vocabulary = 256,
                   .length = 64,
                   .pairs = 4,
                   .training = 20000,
                   .batch = 64,
                   .epochs = 64,
                   .rate = 1e-3};
  mqar.plan.widths = {16, 32, 64};
  mqar.plan.seeds = 1;
  add_options(*app.add_subcommand(
                  "mqar", "Multi-query associative recall: every key once more, at many places."),
              mqar);
  CLI11_PARSE(app, argc, argv);
  try {
    perform(app.got_subcommand("recall") ? recall : app.got_subcommand("mqar") ? mqar : induction);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ssm-synthetics: %s\n", error.what());
    return 1;
  }
  return 0;
}
