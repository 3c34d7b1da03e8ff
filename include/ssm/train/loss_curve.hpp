// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/error.hpp"  // Index

namespace ssm {

struct LossPoint {
  Index step = 0;
  double loss = 0;
};

namespace detail {

/// Maps steps and losses to the picture, and writes numbers the same in every locale.
class LossPlot {
 public:
  static constexpr double width = 720, height = 400;
  static constexpr double left = 56, right = 16, top = 40, bottom = 44;

  LossPlot(std::span<const LossPoint> a, std::span<const LossPoint> b) {
    for (const auto& points : {a, b})
      for (const LossPoint& point : points) {
        last_step_ = std::max(last_step_, static_cast<double>(point.step));
        if (!std::isfinite(point.loss)) continue;
        low_ = std::min(low_, point.loss);
        high_ = std::max(high_, point.loss);
      }
    if (low_ > high_) low_ = 0, high_ = 1;
    const double margin = std::max(0.05 * (high_ - low_), 1e-3);
    low_ -= margin;
    high_ += margin;
  }

  double x(double step) const { return left + (width - left - right) * step / last_step_; }
  double y(double loss) const {
    return top + (height - top - bottom) * (high_ - loss) / (high_ - low_);
  }
  double low() const { return low_; }
  double high() const { return high_; }
  double last_step() const { return last_step_; }

  /// 1, 2 or 5 times a power of ten, for about `count` ticks.
  static double tick(double range, double count) {
    const double raw = range / count;
    const double power = std::pow(10, std::floor(std::log10(raw)));
    for (const double factor : {1.0, 2.0, 5.0})
      if (raw <= factor * power) return factor * power;
    return 10 * power;
  }
  static std::string number(double value, int digits) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "%.*f", digits, value);
    for (char& c : text)
      if (c == ',') c = '.';
    return text.data();
  }

 private:
  double last_step_ = 1;
  double low_ = 1e300, high_ = -1e300;
};

inline std::string axes(const LossPlot& plot) {
  std::string svg;
  const auto line = [&](double x1, double y1, double x2, double y2) {
    svg += "<line x1=\"" + LossPlot::number(x1, 1) + "\" y1=\"" + LossPlot::number(y1, 1) +
           "\" x2=\"" + LossPlot::number(x2, 1) + "\" y2=\"" + LossPlot::number(y2, 1) +
           "\" stroke=\"#ddd\"/>\n";
  };
  const auto label = [&](double x, double y, const char* anchor, const std::string& text) {
    svg += "<text x=\"" + LossPlot::number(x, 1) + "\" y=\"" + LossPlot::number(y, 1) +
           "\" text-anchor=\"" + anchor + "\">" + text + "</text>\n";
  };
  const double base = LossPlot::height - LossPlot::bottom;
  const double step = std::max(1.0, LossPlot::tick(plot.last_step(), 6));
  for (double s = 0; s <= plot.last_step() * 1.0001; s += step) {
    line(plot.x(s), LossPlot::top, plot.x(s), base);
    label(plot.x(s), base + 18, "middle", LossPlot::number(s, 0));
  }
  const double rise = LossPlot::tick(plot.high() - plot.low(), 5);
  const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(rise))));
  for (double loss = std::ceil(plot.low() / rise) * rise; loss <= plot.high(); loss += rise) {
    line(LossPlot::left, plot.y(loss), LossPlot::width - LossPlot::right, plot.y(loss));
    label(LossPlot::left - 6, plot.y(loss) + 4, "end", LossPlot::number(loss, digits));
  }
  label((LossPlot::left + LossPlot::width) / 2, LossPlot::height - 8, "middle", "step");
  return svg;
}

/// At most a few hundred segments: of more points, the mean of each run of neighbours.
inline std::string polyline(const LossPlot& plot, std::span<const LossPoint> points,
                            std::string_view colour) {
  std::string svg = "<polyline fill=\"none\" stroke=\"" + std::string(colour) +
                    "\" stroke-width=\"1.5\" points=\"";
  const std::size_t group = points.size() / 400 + 1;
  for (std::size_t begin = 0; begin < points.size(); begin += group) {
    const auto part = points.subspan(begin, std::min(group, points.size() - begin));
    double step = 0, loss = 0;
    for (const LossPoint& point : part) {
      step += static_cast<double>(point.step) / static_cast<double>(part.size());
      loss += point.loss / static_cast<double>(part.size());
    }
    if (std::isfinite(loss))
      svg += LossPlot::number(plot.x(step), 1) + "," + LossPlot::number(plot.y(loss), 1) + " ";
  }
  return svg + "\"/>\n";
}

}  // namespace detail

/// A picture of a training run as one self-contained SVG: the loss of training and of held-out text over steps.
inline std::string loss_curve_svg(std::span<const LossPoint> training,
                                  std::span<const LossPoint> held_out, std::string_view unit) {
  const detail::LossPlot plot(training, held_out);
  std::string svg =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 400\" "
      "font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"720\" height=\"400\" fill=\"#fff\"/>\n";
  svg += detail::axes(plot);
  svg += detail::polyline(plot, training, "#4878a8");
  svg += detail::polyline(plot, held_out, "#c0392b");
  svg += "<text x=\"56\" y=\"24\" font-size=\"14\">" + std::string(unit) +
         ": <tspan fill=\"#4878a8\">training</tspan>, <tspan fill=\"#c0392b\">held "
         "out</tspan></text>\n";
  return svg + "</svg>\n";
}

}  // namespace ssm
