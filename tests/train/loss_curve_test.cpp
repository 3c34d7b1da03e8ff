// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/loss_curve.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace ssm::test {
namespace {

using Points = std::vector<LossPoint>;

std::string curve(const Points& training, const Points& held_out = {}) {
  return loss_curve_svg(training, held_out, "nats per token");
}
std::ptrdiff_t count(const std::string& text, const std::string& word) {
  std::ptrdiff_t found = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1))
    ++found;
  return found;
}

TEST_CASE("a loss curve is one whole SVG that needs nothing else") {
  const std::string svg = curve({{10, 3.5}, {20, 2.5}, {30, 2.25}}, {{30, 2.5}});
  CHECK(svg.starts_with("<svg xmlns="));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count(svg, "<polyline") == 2);
  CHECK(count(svg, "<text") == count(svg, "</text>"));
  CHECK(svg.find("href") == std::string::npos);
  CHECK(svg.find("nan") == std::string::npos);
}

TEST_CASE("lower losses are lower in the picture and later steps further right") {
  const detail::LossPlot plot(Points{{10, 3.5}, {20, 2.5}}, {});
  CHECK(plot.y(2.5) > plot.y(3.5));
  CHECK(plot.x(20) > plot.x(10));
  CHECK(plot.y(3.5) >= detail::LossPlot::top);
  CHECK(plot.y(2.5) <= detail::LossPlot::height - detail::LossPlot::bottom);
}

TEST_CASE("runs without points, with one, of equal losses or with a NaN have a picture too") {
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
  for (Index step = 1; step <= 100000; ++step)
    points.push_back({step, 1.0 / static_cast<double>(step)});
  CHECK(curve(points).size() < 20000);
}

TEST_CASE("ticks are one, two or five times a power of ten") {
  CHECK(detail::LossPlot::tick(60, 6) == 10);
  CHECK(detail::LossPlot::tick(100, 6) == 20);
  CHECK(detail::LossPlot::tick(2.0, 5) == 0.5);
}

}  // namespace
}  // namespace ssm::test
