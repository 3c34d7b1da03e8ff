// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <string_view>

#include "ssm/core/error.hpp"  // Index, ArgumentError

namespace ssm {

/// How the learning rate changes after the warm-up; f = (s − w) / (T − w) with s the step, w the
/// warm-up, T the total.
///   constant      base
///   linear        end + (base − end)·max(0, 1 − f)
///   polynomial    (base − end)·(1 − f)^power + end, and end after T
///   cosine        end + (base − end)·max(0, (1 + cos(2π·cycles·f)) / 2)
///   cosine_timm   minimum + (base − minimum)·(1 + cos(π·s/T)) / 2, s counted from the very start,
///                 and minimum from T on
enum class ScheduleKind { constant, linear, polynomial, cosine, cosine_timm };

/// The learning rate of update 0, 1, …
/// Before the warm-up ends:
///   base·s/w
///   warmup_initial + s·(base − warmup_initial)/w    for cosine_timm
/// Source  transformers' and timm's schedulers of the same names, whose linear and cosine end at 0
struct Schedule {
  ScheduleKind kind = ScheduleKind::constant;
  double base = 1e-3;
  Index warmup_steps = 0;
  Index total_steps = 1;
  double end = 0;             // linear, polynomial, cosine
  double power = 1;           // polynomial
  double cycles = 0.5;        // cosine
  double warmup_initial = 0;  // cosine_timm
  double minimum = 0;         // cosine_timm

  double rate(Index step) const {
    const auto s = static_cast<double>(step);
    const auto w = static_cast<double>(warmup_steps);
    const auto total = static_cast<double>(total_steps);
    const bool is_timm = kind == ScheduleKind::cosine_timm;
    if (step < warmup_steps)
      return is_timm ? warmup_initial + s * (base - warmup_initial) / w : base * s / w;
    const double f = (s - w) / std::max(1.0, total - w);
    switch (kind) {
      case ScheduleKind::constant:
        return base;
      case ScheduleKind::linear:
        return end + (base - end) * std::max(0.0, 1 - f);
      case ScheduleKind::polynomial:
        return s > total ? end : (base - end) * std::pow(std::max(0.0, 1 - f), power) + end;
      case ScheduleKind::cosine:
        return end + (base - end) *
                         std::max(0.0, 0.5 * (1 + std::cos(2 * std::numbers::pi * cycles * f)));
      case ScheduleKind::cosine_timm:
        return s >= total ? minimum
                          : minimum + (base - minimum) * 0.5 *
                                          (1 + std::cos(std::numbers::pi * s / total));
    }
    return base;
  }
};

/// Throws  ArgumentError  for an unknown name
inline ScheduleKind schedule_kind(std::string_view name) {
  if (name == "constant") return ScheduleKind::constant;
  if (name == "linear") return ScheduleKind::linear;
  if (name == "polynomial") return ScheduleKind::polynomial;
  if (name == "cosine") return ScheduleKind::cosine;
  if (name == "cosine_timm") return ScheduleKind::cosine_timm;
  throw ArgumentError("unknown schedule '" + std::string(name) +
                      "': use constant, linear, polynomial, cosine or cosine_timm");
}

}  // namespace ssm
