// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "progress.hpp"  // duration_text

namespace synthetics {
namespace {

template <class... Value>
std::string line(const char* format, Value... values) {
  char text[200];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

const char* title_of(const std::string& task) {
  return task == "recall"      ? "Associative recall"
         : task == "induction" ? "Induction heads"
                               : "Multi-query recall";
}

bool has_published_sizes(const Settings& s) {
  if (s.task == "mqar") return false;
  return s.task == "recall" ? s.vocabulary == 10 && s.length == 20
                            : s.vocabulary == 20 && s.length == 30;
}

std::optional<double> published(const Settings& settings, const std::string& model) {
  if (!has_published_sizes(settings)) return {};
  const Model& known = model_named(model);
  return settings.task == "recall" ? known.published_recall : known.published_induction;
}

/// Mean and extremes of the best accuracies of one model of one width.
struct Summary {
  std::string model;
  Index width = 0;
  double mean = 0;
  double low = 1;
  double high = 0;
  double final = 0;  // mean
  Index runs = 0;
};

std::vector<Summary> summaries(const std::vector<Run>& runs) {
  std::vector<Summary> result;
  std::set<Index> widths;
  for (const Run& run : runs) widths.insert(run.width);
  for (const Model& model : all_models())
    for (const Index width : widths) {
      Summary s{.model = model.name, .width = width};
      for (const Run& run : runs) {
        if (run.model != model.name || run.width != width) continue;
        const double best = run.epochs[run.best_epoch()].accuracy;
        s.mean += best;
        s.low = std::min(s.low, best);
        s.high = std::max(s.high, best);
        s.final += run.epochs.back().accuracy;
        ++s.runs;
      }
      if (s.runs == 0) continue;
      s.mean /= static_cast<double>(s.runs);
      s.final /= static_cast<double>(s.runs);
      result.push_back(s);
    }
  return result;
}

/// Clearly less loss than the task allows: the model sees its targets, or has learned its training
/// data by heart.
bool is_too_good(const Data& data, const Run& run) {
  return run.epochs.back().loss < 0.97 * data.loss_floor;
}

}  // namespace

std::string table(const Settings& settings, const Data& data, const std::vector<Run>& runs) {
  std::string text =
      line("%s, vocabulary %td, length %td: %td training and %td test sequences, %td epochs\n",
           title_of(settings.task), settings.vocabulary, settings.length, settings.training,
           settings.test, settings.epochs);
  text += line("chance %.1f %%", 100 * data.chance);
  if (data.loss_floor > 0)
    text += line(", least possible training loss %.3f nats per token", data.loss_floor);
  text += "\n\nmodel       width seed   best %  (epoch)   final %    loss     time\n";
  for (const Model& model : all_models())
    for (const Run& run : runs) {
      if (run.model != model.name) continue;
      const std::size_t best = run.best_epoch();
      text += line("%-11s %5td %4llu   %6.1f  (%5zu)    %6.1f  %6.3f  %7s%s\n", run.model.c_str(),
                   run.width, static_cast<unsigned long long>(run.seed),
                   100 * run.epochs[best].accuracy, best + 1, 100 * run.epochs.back().accuracy,
                   run.epochs.back().loss, ssm::cli::duration_text(run.seconds).c_str(),
                   is_too_good(data, run) ? "  below the floor: a leak, or memorized" : "");
    }
  text += "\n";
  for (const Summary& s : summaries(runs)) {
    if (settings.task == "mqar") text += line("%4td  ", s.width);
    text += line("%-11s best %.1f %% on average (%.1f to %.1f), final %.1f %%", s.model.c_str(),
                 100 * s.mean, 100 * s.low, 100 * s.high, 100 * s.final);
    if (const auto accuracy = published(settings, s.model))
      text += line("; published %.1f %%", 100 * *accuracy);
    text += "\n";
  }
  return text;
}

nlohmann::ordered_json settings_json(const Settings& settings) {
  return {{"vocabulary", settings.vocabulary},
          {"length", settings.length},
          {"pairs", settings.task == "mqar" ? settings.pairs : 0},
          {"training_sequences", settings.training},
          {"test_sequences", settings.test},
          {"data_seed", settings.data_seed},
          {"batch", settings.batch},
          {"epochs", settings.epochs},
          {"rate", settings.rate},
          {"weight_decay", settings.weight_decay},
          {"embedding_dropout", settings.dropout},
          {"until", settings.until},
          {"backend", settings.backend}};
}

std::string json(const Settings& settings, const Data& data, const std::vector<Run>& runs) {
  nlohmann::ordered_json root;
  root["task"] = settings.task;
  root["settings"] = settings_json(settings);
  root["chance"] = data.chance;
  root["loss_floor"] = data.loss_floor;
  root["summary"] = nlohmann::ordered_json::array();
  for (const Summary& s : summaries(runs)) {
    nlohmann::ordered_json entry{{"model", s.model},
                                 {"width", s.width},
                                 {"runs", s.runs},
                                 {"best_accuracy_mean", s.mean},
                                 {"best_accuracy_min", s.low},
                                 {"best_accuracy_max", s.high},
                                 {"final_accuracy_mean", s.final}};
    if (const auto accuracy = published(settings, s.model)) entry["published_accuracy"] = *accuracy;
    root["summary"].push_back(entry);
  }
  root["runs"] = nlohmann::ordered_json::array();
  for (const Run& run : runs) {
    const std::size_t best = run.best_epoch();
    nlohmann::ordered_json entry{{"model", run.model},
                                 {"width", run.width},
                                 {"seed", run.seed},
                                 {"seconds", run.seconds},
                                 {"best_accuracy", run.epochs[best].accuracy},
                                 {"best_epoch", best + 1},
                                 {"final_accuracy", run.epochs.back().accuracy},
                                 {"final_loss", run.epochs.back().loss}};
    for (const Epoch& epoch : run.epochs) {
      entry["accuracy"].push_back(epoch.accuracy);
      entry["loss"].push_back(epoch.loss);
    }
    root["runs"].push_back(entry);
  }
  return root.dump(1) + "\n";
}

}  // namespace synthetics
