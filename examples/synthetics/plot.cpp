// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <utility>

#include "line_plot.hpp"
#include "report.hpp"

namespace synthetics {
namespace {

const std::map<std::string, std::string> colors{
    {"h3", "#1f6fb2"},     {"s4d", "#c9562e"}, {"attention", "#4d8a4a"},   {"mamba", "#7b4fa3"},
    {"retnet", "#b28a1f"}, {"gss", "#888888"}, {"dense-mamba", "#c43d7e"}, {"hybrid", "#2a9d8f"}};

/// The mean of the best accuracies at every width.
std::string plot_widths(const Data& data, const std::vector<Run>& runs) {
  ssm::cli::LinePlot plot{.title = "test accuracy in %, multi-query associative recall",
                          .x_label = "width",
                          .y_low = 0,
                          .y_high = 100,
                          .marked_levels = {{100 * data.chance, "chance"}}};
  for (const Model& model : all_models()) {
    std::map<Index, std::pair<double, double>> sums;
    for (const Run& run : runs) {
      if (run.model != model.name) continue;
      sums[run.width].first += 100 * run.epochs[run.best_epoch()].accuracy;
      sums[run.width].second += 1;
    }
    ssm::cli::PlotCurve curve{model.name, colors.at(model.name), {}};
    for (const auto& [width, sum] : sums)
      curve.points.push_back({static_cast<double>(width), sum.first / sum.second});
    if (!curve.points.empty()) plot.curves.push_back(std::move(curve));
  }
  return plot.svg();
}

}  // namespace

std::string plot(const Settings& settings, const Data& data, const std::vector<Run>& runs) {
  if (settings.task == "mqar") return plot_widths(data, runs);
  ssm::cli::LinePlot plot{
      .title = std::string("test accuracy in %, ") +
               (settings.task == "recall" ? "associative recall" : "induction heads"),
      .x_label = "epoch",
      .y_low = 0,
      .y_high = 100,
      .marked_levels = {{100 * data.chance, "chance"}}};
  for (const Model& model : all_models()) {
    const auto seeds = std::count_if(runs.begin(), runs.end(),
                                     [&](const Run& run) { return run.model == model.name; });
    const std::string label =
        model.name + " (" + std::to_string(seeds) + (seeds == 1 ? " seed)" : " seeds)");
    for (const Run& run : runs) {
      if (run.model != model.name) continue;
      ssm::cli::PlotCurve curve{label, colors.at(model.name), {}};
      for (std::size_t i = 0; i < run.epochs.size(); ++i)
        curve.points.push_back({static_cast<double>(i + 1), 100 * run.epochs[i].accuracy});
      plot.curves.push_back(std::move(curve));
    }
  }
  return plot.svg();
}

}  // namespace synthetics
