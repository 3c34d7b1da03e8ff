// SPDX-License-Identifier: Apache-2.0
#include "line_plot.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <regex>
#include <string>
#include <vector>

namespace ssm::cli::test {
namespace {

using Points = std::vector<PlotPoint>;

std::string curve(const Points& training, const Points& held_out = {}) {
  return LinePlot{.title = "nats per token",
                  .x_label = "step",
                  .curves = {{"training", "#4878a8", training}, {"held out", "#c0392b", held_out}}}
      .svg();
}
std::ptrdiff_t count(const std::string& text, const std::string& word) {
  std::ptrdiff_t found = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1))
    ++found;
  return found;
}

TEST_CASE("a plot is one whole SVG that needs nothing else") {
  const std::string svg = curve({{10, 3.5}, {20, 2.5}, {30, 2.25}}, {{30, 2.5}});
  CHECK(svg.starts_with("<svg xmlns="));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count(svg, "<polyline") == 2);
  CHECK(count(svg, "<text") == count(svg, "</text>"));
  CHECK(svg.find("href") == std::string::npos);
  CHECK(svg.find("nan") == std::string::npos);
}

TEST_CASE("smaller values are lower in the picture and later ones further right") {
  const LinePlot plot{
      .title = "", .x_label = "", .curves = {{"a", "#000", {{10, 3.5}, {20, 2.5}}}}};
  const line_plot::PlotCanvas canvas(plot, 40);
  CHECK(canvas.y(2.5) > canvas.y(3.5));
  CHECK(canvas.x(20) > canvas.x(10));
  CHECK(canvas.y(3.5) >= canvas.top());
  CHECK(canvas.y(2.5) <= canvas.base());
}

TEST_CASE("curves without points, with one, of equal values or with a NaN have a picture too") {
  for (const Points& points : {Points{}, Points{{0, 1.0}}, Points{{1, 2.0}, {2, 2.0}},
                               Points{{1, std::nan("")}, {2, 1.0}}}) {
    const std::string svg = curve(points);
    CHECK(svg.ends_with("</svg>\n"));
    CHECK(svg.find("nan") == std::string::npos);
    CHECK(svg.find("inf") == std::string::npos);
    CHECK(svg.size() < 20000);
  }
}

TEST_CASE("a long run is drawn with a few hundred points") {
  Points points;
  for (int step = 1; step <= 100000; ++step) points.push_back({double(step), 1.0 / step});
  CHECK(curve(points).size() < 20000);
}

TEST_CASE("ticks are one, two or five times a power of ten") {
  CHECK(LinePlot::tick(60, 6) == 10);
  CHECK(LinePlot::tick(100, 6) == 20);
  CHECK(LinePlot::tick(2.0, 5) == 0.5);
  const std::string svg = curve({{0, 1.83}, {400, 2.91}});
  for (const std::string label : {">2.0<", ">2.2<", ">2.8<", ">100<", ">400<"})
    CHECK_MESSAGE(svg.find(label) != std::string::npos, label);
  CHECK(svg.find(">1.83<") == std::string::npos);
}

TEST_CASE("the legend names each label once and stays within the picture") {
  LinePlot plot{.title = "accuracy", .x_label = "epoch"};
  for (int model = 0; model < 12; ++model)
    for (int seed = 0; seed < 2; ++seed)
      plot.curves.push_back(
          {"model number " + std::to_string(model) + " & seeds", "#123456", {{0, 0.1}, {1, 0.5}}});
  const std::string svg = plot.svg();
  CHECK(count(svg, "model number 3 &amp; seeds") == 1);
  const std::regex entry("<text x=\"([0-9.]+)\" y=\"([0-9.]+)\"[^>]*>(model [^<]*)<");
  double lowest = 0;
  for (std::sregex_iterator it(svg.begin(), svg.end(), entry), end; it != end; ++it) {
    CHECK(std::stod((*it)[1]) + 6.0 * static_cast<double>((*it)[3].length() - 4) <=
          LinePlot::width);
    lowest = std::max(lowest, std::stod((*it)[2]));
  }
  CHECK(lowest > 44);  // more than one row
  const std::regex first_point("points=\"[0-9.]+,([0-9.]+)");
  for (std::sregex_iterator it(svg.begin(), svg.end(), first_point), end; it != end; ++it)
    CHECK(std::stod((*it)[1]) > lowest);
}

TEST_CASE("a level can be marked") {
  const std::string svg = LinePlot{
      .title = "accuracy",
      .x_label = "epoch",
      .curves = {{"h3", "#000", {{1, 90}}}},
      .y_low = 0,
      .y_high = 100,
      .marked_levels = {
          {20, "chance"}}}.svg();
  CHECK(svg.find(">chance<") != std::string::npos);
  CHECK(svg.find("stroke-dasharray") != std::string::npos);
  CHECK(svg.find(">100<") != std::string::npos);
}

}  // namespace
}  // namespace ssm::cli::test
