// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

#include "ssm/core/error.hpp"  // Index

namespace ssm::cli {

/// "0:07", "12:30", "1:02:03": a duration in seconds, rounded.
inline std::string duration_text(double seconds) {
  const auto whole = std::isfinite(seconds) ? std::llround(std::clamp(seconds, 0.0, 3.6e9)) : 0LL;
  std::array<char, 48> text{};
  if (whole >= 3600)
    std::snprintf(text.data(), text.size(), "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60,
                  whole % 60);
  else
    std::snprintf(text.data(), text.size(), "%lld:%02lld", whole / 60, whole % 60);
  return text.data();
}

/// "950", "38.2k", "1.04M": three digits are enough to watch.
inline std::string quantity_text(double quantity) {
  const char* unit = quantity >= 999.5e3 ? "M" : quantity >= 999.5 ? "k" : "";
  const double value = quantity >= 999.5e3 ? quantity / 1e6
                       : quantity >= 999.5 ? quantity / 1e3
                                           : quantity;
  const int digits = *unit == '\0' || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*f%s", digits, value, unit);
  return text.data();
}

/// One line about a training run that is under way.
struct ProgressLine {
  Index step = 0;
  Index total_steps = 0;  // 0: bounded by time
  double fraction = 0;    // of the run that is done
  double loss = 0;        // nats per token
  double rate = 0;
  double tokens_per_second = 0;
  double seconds_left = 0;

  std::string text() const {
    std::array<char, 64> done{};
    if (total_steps > 0)
      std::snprintf(done.data(), done.size(), "step %td/%td", step, total_steps);
    else
      std::snprintf(done.data(), done.size(), "step %td (%.0f%%)", step, 100 * fraction);
    std::array<char, 160> line{};
    std::snprintf(line.data(), line.size(), "%s  loss %.4f  rate %.2e  %s tokens/s  ETA %s",
                  done.data(), loss, rate, quantity_text(tokens_per_second).c_str(),
                  duration_text(seconds_left).c_str());
    return line.data();
  }
};

}  // namespace ssm::cli
