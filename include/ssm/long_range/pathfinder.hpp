// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <numbers>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "ssm/long_range/labeled_sequences.hpp"
#include "ssm/train/synthetic_tasks.hpp"  // Draws

namespace ssm {

/// Images of dashed curves, two of whose four ends carry a disc: are the discs on one curve? Two
/// long curves and some short ones lie in every image and keep a distance; class 1 has both discs
/// on the first long curve, class 0 one on each. They are made after the description of the
/// published images, not by their program: sizes and distances are ours, so accuracies are not
/// those on the published files.
/// Source  Linsley et al. 2018 (Pathfinder); Tay et al. 2021 (32 × 32, and 128 × 128 as Path-X)
struct Pathfinder {
  Index side = 32;              // pixels
  Index dashes = 7;             // of a long curve
  Index distractors = 4;        // short curves, where there is room
  Index distractor_dashes = 2;  // of each
  double dash = 2.2;            // pixels
  double gap = 1.6;             // between the dashes of a curve
  double bend = 0.5;            // radians, the most from dash to dash
  double clearance = 2.4;       // pixels between curves
  double thickness = 1.2;       // pixels
  double disc = 1.9;            // radius

  /// 128 × 128 pixels, for sequences of 16384.
  static Pathfinder path_x() {
    return {.side = 128,
            .dashes = 14,
            .distractors = 12,
            .distractor_dashes = 4,
            .dash = 5,
            .gap = 3.5,
            .bend = 0.5,
            .clearance = 6,
            .thickness = 2,
            .disc = 4.5};
  }

  /// The image of a class, side · side gray values row by row.
  /// Throws  ArgumentError  for curves that find no room
  std::vector<std::uint8_t> draw(Draws& draws, bool is_connected) const {
    for (int attempt = 0; attempt < 200; ++attempt) {
      std::vector<Curve> curves;
      if (!add_curve(draws, dashes, true, curves) || !add_curve(draws, dashes, true, curves))
        continue;
      for (Index i = 0; i < distractors; ++i) add_curve(draws, distractor_dashes, false, curves);
      const bool first = draws.below(2) == 0, second = draws.below(2) == 0;
      const Point discs[] = {is_connected ? curves[0].front().begin : end_of(curves[0], first),
                             is_connected ? curves[0].back().end : end_of(curves[1], second)};
      return rendered(curves, discs);
    }
    throw ArgumentError("Pathfinder: such curves find no room in the image");
  }

  /// So many images, every other one connected; the same seed gives the same ones, whatever number
  /// of threads draws them. 0 threads: all cores.
  LabeledSequences sequences(Seed seed, Index count, Index threads = 0) const {
    constexpr Index images_per_thread = 64;  // fewer take less time than a thread
    if (threads < 1) threads = std::max<Index>(1, std::thread::hardware_concurrency());
    threads = std::clamp<Index>(count / images_per_thread, 1, threads);
    std::vector<std::vector<std::uint8_t>> images(static_cast<std::size_t>(count));
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(threads));
    const auto draw_every = [&](Index first) {
      try {
        for (Index i = first; i < count; i += threads) {
          Draws draws(seed.fork(static_cast<std::uint64_t>(i)));
          images[static_cast<std::size_t>(i)] = draw(draws, i % 2 == 1);
        }
      } catch (...) {
        errors[static_cast<std::size_t>(first)] = std::current_exception();
      }
    };
    {
      std::vector<std::jthread> others;
      for (Index i = 1; i < threads; ++i) others.emplace_back(draw_every, i);
      draw_every(0);
    }
    for (const std::exception_ptr& error : errors)
      if (error) std::rethrow_exception(error);
    LabeledSequences result{.symbols = 256, .classes = 2};
    result.values.reserve(static_cast<std::size_t>(count * side * side));
    for (Index i = 0; i < count; ++i)
      result.add(images[static_cast<std::size_t>(i)], static_cast<Token>(i % 2));
    return result;
  }
  ClassificationData data(Seed seed, Index training, Index test) const {
    return {sequences(seed.fork("training"), training), sequences(seed.fork("test"), test)};
  }

 private:
  struct Point {
    double x = 0, y = 0;
  };
  struct Dash {
    Point begin, end;
  };
  using Curve = std::vector<Dash>;

  static Point end_of(const Curve& curve, bool is_first) {
    return is_first ? curve.front().begin : curve.back().end;
  }
  static double distance(const Point& p, const Dash& d) {
    const double dx = d.end.x - d.begin.x, dy = d.end.y - d.begin.y;
    const double t = std::clamp(
        ((p.x - d.begin.x) * dx + (p.y - d.begin.y) * dy) / (dx * dx + dy * dy), 0.0, 1.0);
    const double x = p.x - d.begin.x - t * dx, y = p.y - d.begin.y - t * dy;
    return std::sqrt(x * x + y * y);
  }
  /// Whether dashes, which are of one length, keep the distance between curves.
  bool is_clear(const Dash& a, const Dash& b) const {
    const double x = a.begin.x - b.begin.x, y = a.begin.y - b.begin.y;
    const double far = clearance + 2 * dash;
    if (x * x + y * y >= far * far) return true;  // as most do
    return distance(a.begin, b) >= clearance && distance(a.end, b) >= clearance &&
           distance(b.begin, a) >= clearance && distance(b.end, a) >= clearance;
  }

  /// Whether a dash may lie there: within the image, away from other curves and from all of its own
  /// but the one before it.
  bool is_free(const Dash& next, const Curve& own, const std::vector<Curve>& curves,
               double room) const {
    const double low = room, high = static_cast<double>(side - 1) - room;
    for (const Point& p : {next.begin, next.end})
      if (p.x < low || p.y < low || p.x > high || p.y > high) return false;
    for (std::size_t i = 0; i + 1 < own.size(); ++i)
      if (!is_clear(next, own[i])) return false;
    for (const Curve& curve : curves)
      for (const Dash& other : curve)
        if (!is_clear(next, other)) return false;
    return true;
  }

  bool add_curve(Draws& draws, Index count, bool carries_disc, std::vector<Curve>& curves) const {
    const double room = carries_disc ? disc : thickness;
    for (int attempt = 0; attempt < 60; ++attempt)
      if (auto curve = grown(draws, count, room, curves)) {
        curves.push_back(std::move(*curve));
        return true;
      }
    return false;
  }
  std::optional<Curve> grown(Draws& draws, Index count, double room,
                             const std::vector<Curve>& curves) const {
    Curve curve;
    Point at{draws.uniform() * static_cast<double>(side),
             draws.uniform() * static_cast<double>(side)};
    double angle = 2 * std::numbers::pi * draws.uniform();
    const auto moved = [&](const Point& p, double length) {
      return Point{p.x + length * std::cos(angle), p.y + length * std::sin(angle)};
    };
    while (static_cast<Index>(curve.size()) < count) {
      const double before = angle;
      bool is_placed = false;
      for (int attempt = 0; attempt < 4 && !is_placed; ++attempt) {
        if (!curve.empty()) angle = before + bend * (2 * draws.uniform() - 1);
        const Point begin = curve.empty() ? at : moved(at, gap);
        const Dash next{begin, moved(begin, dash)};
        is_placed = is_free(next, curve, curves, room);
        if (is_placed) curve.push_back(next);
      }
      if (!is_placed) return std::nullopt;
      at = curve.back().end;
    }
    return curve;
  }

  std::vector<std::uint8_t> rendered(const std::vector<Curve>& curves,
                                     std::span<const Point> discs) const {
    std::vector<std::uint8_t> image(static_cast<std::size_t>(side * side));
    const auto paint = [&](const Dash& shape, double radius) {
      const double reach = radius + 1;
      const auto bounds = [&](double a, double b) {
        return std::pair(
            std::max<Index>(0, static_cast<Index>(std::floor(std::min(a, b) - reach))),
            std::min<Index>(side - 1, static_cast<Index>(std::ceil(std::max(a, b) + reach))));
      };
      const auto [left, right] = bounds(shape.begin.x, shape.end.x);
      const auto [top, bottom] = bounds(shape.begin.y, shape.end.y);
      for (Index y = top; y <= bottom; ++y)
        for (Index x = left; x <= right; ++x) {
          const Point pixel{static_cast<double>(x), static_cast<double>(y)};
          const double covered = std::clamp(radius + 0.5 - distance(pixel, shape), 0.0, 1.0);
          std::uint8_t& value = image[static_cast<std::size_t>(y * side + x)];
          value = std::max(value, static_cast<std::uint8_t>(255 * covered));
        }
    };
    for (const Curve& curve : curves)
      for (const Dash& each : curve) paint(each, thickness / 2);
    for (const Point& center : discs) paint({center, {center.x + 1e-6, center.y}}, disc);
    return image;
  }
};

}  // namespace ssm
