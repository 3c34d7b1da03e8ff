// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ssm::cli {

struct PlotPoint {
  double x = 0;
  double y = 0;
};

/// One line of a plot. Curves of the same label are one entry of the legend.
struct PlotCurve {
  std::string label;
  std::string color;
  std::vector<PlotPoint> points;  // x ascending; a point that is not finite is a gap
};

/// Curves over a common axis, drawn as one SVG that needs nothing else. Ticks are 1, 2 or 5 times a
/// power of ten.
///   LinePlot plot{.title = "nats per token", .x_label = "step"};
///   plot.curves.push_back({"training", "#4878a8", points});
///   write_text_file("loss.svg", plot.svg());
struct LinePlot {
  std::string title;
  std::string x_label;
  std::vector<PlotCurve> curves = {};
  double y_low = 0, y_high = 0;                                    // equal: as the curves need
  std::vector<std::pair<double, std::string>> marked_levels = {};  // dashed, with a word

  std::string svg() const;

  static constexpr double width = 720, height = 420, left = 56, right = 16, bottom = 44;

  /// 1, 2 or 5 times a power of ten, for about `count` ticks.
  static double tick(double range, double count) {
    const double raw = range / count;
    const double power = std::pow(10, std::floor(std::log10(raw)));
    for (const double factor : {1.0, 2.0, 5.0})
      if (raw <= factor * power * (1 + 1e-12)) return factor * power;
    return 10 * power;
  }
  /// The same in every locale.
  static std::string number(double value, int digits) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "%.*f", digits, value);
    for (char& c : text)
      if (c == ',') c = '.';
    return text.data();
  }
};

namespace line_plot {

inline std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text)
    if (c == '<')
      result += "&lt;";
    else if (c == '&')
      result += "&amp;";
    else
      result += c;
  return result;
}

inline std::string text_at(double x, double y, std::string_view anchor, std::string_view text,
                           std::string_view style = "") {
  return "<text x=\"" + LinePlot::number(x, 1) + "\" y=\"" + LinePlot::number(y, 1) +
         "\" text-anchor=\"" + std::string(anchor) + "\"" + std::string(style) + ">" +
         escaped(text) + "</text>\n";
}

inline std::string straight(double x1, double y1, double x2, double y2, std::string_view style) {
  return "<line x1=\"" + LinePlot::number(x1, 1) + "\" y1=\"" + LinePlot::number(y1, 1) +
         "\" x2=\"" + LinePlot::number(x2, 1) + "\" y2=\"" + LinePlot::number(y2, 1) + "\" " +
         std::string(style) + "/>\n";
}

/// Maps the numbers of a plot to the picture.
class PlotCanvas {
 public:
  PlotCanvas(const LinePlot& plot, double top) : top_(top) {
    double low = 1e300, high = -1e300;
    for (const PlotCurve& curve : plot.curves)
      for (const PlotPoint& point : curve.points) {
        if (!std::isfinite(point.x)) continue;
        last_ = std::max(last_, point.x);
        if (!std::isfinite(point.y)) continue;
        low = std::min(low, point.y);
        high = std::max(high, point.y);
      }
    if (low > high) low = 0, high = 1;
    const double margin = std::max(0.05 * (high - low), 1e-3);
    const bool fixed = plot.y_low < plot.y_high;
    low_ = fixed ? plot.y_low : low - margin;
    high_ = fixed ? plot.y_high : high + margin;
  }
  double x(double value) const {
    return LinePlot::left + (LinePlot::width - LinePlot::left - LinePlot::right) * value / last_;
  }
  double y(double value) const { return top_ + (base() - top_) * (high_ - value) / (high_ - low_); }
  double top() const { return top_; }
  double base() const { return LinePlot::height - LinePlot::bottom; }
  double low() const { return low_; }
  double high() const { return high_; }
  double last() const { return last_; }

 private:
  double top_;
  double last_ = 1;  // x begins at 0
  double low_, high_;
};

inline std::string axes(const LinePlot& plot, const PlotCanvas& canvas) {
  constexpr std::string_view grid = "stroke=\"#ddd\"";
  constexpr double end = LinePlot::width - LinePlot::right;
  std::string svg;
  const double step = std::max(1.0, LinePlot::tick(canvas.last(), 6));
  for (double x = 0; x <= canvas.last() * 1.0001; x += step) {
    svg += straight(canvas.x(x), canvas.top(), canvas.x(x), canvas.base(), grid);
    svg += text_at(canvas.x(x), canvas.base() + 18, "middle", LinePlot::number(x, 0));
  }
  const double rise = LinePlot::tick(canvas.high() - canvas.low(), 6);
  const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(rise) + 1e-9)));
  const double first = std::ceil(canvas.low() / rise - 1e-9);
  for (double i = first; i * rise <= canvas.high() + 1e-9 * rise; ++i) {
    const double y = i * rise;
    svg += straight(LinePlot::left, canvas.y(y), end, canvas.y(y), grid);
    svg += text_at(LinePlot::left - 6, canvas.y(y) + 4, "end",
                   LinePlot::number(y == 0 ? 0 : y, digits));
  }
  for (const auto& [level, word] : plot.marked_levels) {
    svg += straight(LinePlot::left, canvas.y(level), end, canvas.y(level),
                    "stroke=\"#888\" stroke-dasharray=\"4 4\"");
    svg += text_at(end, canvas.y(level) - 5, "end", word);
  }
  return svg + text_at((LinePlot::left + end) / 2, LinePlot::height - 8, "middle", plot.x_label);
}

/// At most a few hundred segments: of more points, the mean of each run of neighbors.
inline std::string polyline(const PlotCanvas& canvas, const PlotCurve& curve) {
  const std::string begin = "<polyline fill=\"none\" stroke=\"" + curve.color +
                            "\" stroke-width=\"1.5\" stroke-opacity=\"0.85\" points=\"";
  std::string svg = begin;
  const std::size_t group = curve.points.size() / 400 + 1;
  for (std::size_t i = 0; i < curve.points.size(); i += group) {
    const std::size_t end = std::min(i + group, curve.points.size());
    double x = 0, y = 0;
    for (std::size_t j = i; j < end; ++j) {
      x += curve.points[j].x / static_cast<double>(end - i);
      y += curve.points[j].y / static_cast<double>(end - i);
    }
    if (std::isfinite(x) && std::isfinite(y))
      svg += LinePlot::number(canvas.x(x), 1) + "," + LinePlot::number(canvas.y(y), 1) + " ";
    else
      svg += "\"/>\n" + begin;
  }
  return svg + "\"/>\n";
}

/// The curves' labels in their colors, in as many rows as they need, the first at `y`; how many
/// rows.
inline std::pair<std::string, int> legend(const LinePlot& plot, double y) {
  constexpr double swatch = 18, gap = 20, row_height = 18;
  constexpr double letter = 7;  // a generous mean at font size 12: no font's widths are known here
  std::string svg;
  std::vector<std::string_view> listed;
  double x = LinePlot::left;
  int rows = 0;
  for (const PlotCurve& curve : plot.curves) {
    if (std::find(listed.begin(), listed.end(), curve.label) != listed.end()) continue;
    listed.push_back(curve.label);
    const double length = swatch + letter * static_cast<double>(curve.label.size());
    if (x > LinePlot::left && x + length > LinePlot::width - LinePlot::right) {
      x = LinePlot::left;
      ++rows;
    }
    const double at = y + row_height * rows;
    svg += straight(x, at - 4, x + 14, at - 4, "stroke=\"" + curve.color + "\" stroke-width=\"3\"");
    svg += text_at(x + swatch, at, "start", curve.label, " fill=\"" + curve.color + "\"");
    x += length + gap;
  }
  return {svg, listed.empty() ? 0 : rows + 1};
}

}  // namespace line_plot

inline std::string LinePlot::svg() const {
  const auto [legend, rows] = line_plot::legend(*this, 44);
  const line_plot::PlotCanvas canvas(*this, 38 + 18.0 * rows);
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width, 0) +
                    " " + number(height, 0) +
                    "\" font-family=\"sans-serif\" font-size=\"12\">\n"
                    "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
  svg += line_plot::text_at(left, 22, "start", title, " font-size=\"14\"");
  svg += legend;
  svg += line_plot::axes(*this, canvas);
  for (const PlotCurve& curve : curves) svg += line_plot::polyline(canvas, curve);
  return svg + "</svg>\n";
}

}  // namespace ssm::cli
