// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "report.hpp"

namespace synthetics {
namespace {

const std::map<std::string, std::string> colours{
    {"h3", "#1f6fb2"},     {"s4d", "#c9562e"}, {"attention", "#4d8a4a"},  {"mamba", "#7b4fa3"},
    {"retnet", "#b28a1f"}, {"gss", "#888888"}, {"dense-mamba", "#c43d7e"}};

/// Epochs and accuracies on a canvas of 720 × 400.
struct Canvas {
  static constexpr double left = 52, right = 704, top = 40, bottom = 352;
  double epochs;

  double x(double epoch) const { return left + (right - left) * epoch / epochs; }
  double y(double accuracy) const { return bottom - (bottom - top) * accuracy; }
};

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", value);
  std::replace(text, text + sizeof(text), ',', '.');  // a locale may have put it there
  return text;
}

std::string text_at(double x, double y, const std::string& anchor, const std::string& text) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor + "\">" +
         text + "</text>\n";
}

std::string straight(double x1, double y1, double x2, double y2, const std::string& style) {
  return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
         "\" y2=\"" + number(y2) + "\" " + style + "/>\n";
}

std::string axes(const Canvas& canvas, double chance) {
  const std::string grid = "stroke=\"#ddd\"";
  std::string svg;
  for (int percent = 0; percent <= 100; percent += 20) {
    const double y = canvas.y(percent / 100.0);
    svg += straight(Canvas::left, y, Canvas::right, y, grid);
    svg += text_at(Canvas::left - 6, y + 4, "end", std::to_string(percent));
  }
  const double step = std::max(1.0, std::ceil(canvas.epochs / 8));
  for (double epoch = 0; epoch <= canvas.epochs; epoch += step) {
    svg += straight(canvas.x(epoch), Canvas::top, canvas.x(epoch), Canvas::bottom, grid);
    svg +=
        text_at(canvas.x(epoch), Canvas::bottom + 18, "middle", std::to_string(std::lround(epoch)));
  }
  const double guess = canvas.y(chance);
  svg += straight(Canvas::left, guess, Canvas::right, guess,
                  "stroke=\"#888\" stroke-dasharray=\"4 4\"");
  svg += text_at(Canvas::right, guess - 5, "end", "chance");
  return svg + text_at((Canvas::left + Canvas::right) / 2, 392, "middle", "epoch");
}

std::string curve(const Canvas& canvas, const Run& run) {
  std::string svg = "<polyline fill=\"none\" stroke=\"" + colours.at(run.model) +
                    "\" stroke-width=\"1.3\" stroke-opacity=\"0.8\" points=\"";
  for (std::size_t i = 0; i < run.epochs.size(); ++i)
    svg += number(canvas.x(static_cast<double>(i + 1))) + "," +
           number(canvas.y(run.epochs[i].accuracy)) + " ";
  return svg + "\"/>\n";
}

}  // namespace

std::string plot(const Settings& settings, const Data& data, const std::vector<Run>& runs) {
  const Canvas canvas{static_cast<double>(settings.epochs)};
  std::string svg =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 400\" "
      "font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"720\" height=\"400\" fill=\"#fff\"/>\n";
  svg += axes(canvas, data.chance);
  std::string legend;
  for (const Model& model : all_models()) {
    Index count = 0;
    for (const Run& run : runs) {
      if (run.model != model.name) continue;
      svg += curve(canvas, run);
      ++count;
    }
    if (count > 0)
      legend += " <tspan dx=\"10\" fill=\"" + colours.at(model.name) + "\">" + model.name + " (" +
                std::to_string(count) + (count == 1 ? " seed)" : " seeds)") + "</tspan>";
  }
  svg += "<text x=\"52\" y=\"24\" font-size=\"14\">test accuracy in %, " +
         std::string(settings.task == "recall" ? "associative recall" : "induction heads") + ":" +
         legend + "</text>\n";
  return svg + "</svg>\n";
}

}  // namespace synthetics
