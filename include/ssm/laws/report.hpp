// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <utility>

#include "ssm/laws/named_tensor.hpp"

namespace ssm::laws {

/// What checking a law gave. Errors are |x − y| / max(1, max|y|), as tolerances are meant; of all
/// comparisons the one that used most of its tolerance is kept.
struct Report {
  std::string law{};
  bool holds = true;
  double largest_error = 0;
  double tolerance = 0;
  std::string what{};  // where the largest error is, or what else is wrong

  void require(bool condition, const std::string& otherwise) {
    if (condition || !holds) return;
    holds = false;
    what = otherwise;
  }

  /// Every element of `actual` within `allowed` of `expected`; a NaN never is.
  void require_close(const NamedTensor& actual, const NamedTensor& expected, double allowed,
                     const std::string& where) {
    require(actual.extents == expected.extents, actual.name + " has extents " +
                                                    shape_text(actual.extents) + " instead of " +
                                                    shape_text(expected.extents) + ", " + where);
    if (actual.extents != expected.extents) return;
    double scale = 1;
    for (const double y : expected.values)
      if (std::isfinite(y)) scale = std::max(scale, std::abs(y));
    for (std::size_t i = 0; i < actual.values.size(); ++i) {
      const double error = distance(actual.values[i], expected.values[i]) / scale;
      keep(error, allowed, error <= allowed,
           [&] { return actual.name + position(i, actual.extents) + ", " + where; });
    }
  }
  void require_close(const Bundle& actual, const Bundle& expected, double allowed,
                     const std::string& where) {
    require(actual.size() == expected.size(), "not the same tensors, " + where);
    for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i)
      require_close(actual[i], expected[i], allowed, where);
  }

  /// The same bits, and none of them a NaN.
  void require_same_bits(const NamedTensor& actual, const NamedTensor& expected,
                         const std::string& where) {
    require(actual.extents == expected.extents, actual.name + " changes its extents, " + where);
    if (actual.extents != expected.extents) return;
    for (std::size_t i = 0; i < actual.values.size(); ++i) {
      const double x = actual.values[i];
      const double y = expected.values[i];
      const bool same = std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
      keep(distance(x, y), 0, same && !std::isnan(x),
           [&] { return actual.name + position(i, actual.extents) + ", " + where; });
    }
  }
  void require_same_bits(const Bundle& actual, const Bundle& expected, const std::string& where) {
    require(actual.size() == expected.size(), "not the same tensors, " + where);
    for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i)
      require_same_bits(actual[i], expected[i], where);
  }

 private:
  static double distance(double x, double y) {
    const double difference = std::abs(x - y);
    return std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
  }
  static std::string position(std::size_t i, const std::vector<Index>& extents) {
    std::vector<Index> index(extents.size());
    auto rest = static_cast<Index>(i);
    for (std::size_t axis = extents.size(); axis-- > 0;) {
      index[axis] = rest % extents[axis];
      rest /= extents[axis];
    }
    return shape_text(index);
  }
  template <class Where>
  void keep(double error, double allowed, bool good, Where&& where) {
    const bool worse = allowed == 0 ? error > largest_error
                                    : error / allowed > largest_error / std::max(tolerance, 1e-300);
    if (worse || (holds && !good)) {
      largest_error = error;
      tolerance = allowed;
      what = where();
    }
    holds = holds && good;
  }
};

/// "causality on cpu float: y[0, 3, 2], batch 1, length 64: error 0.01, allowed 0.0002"
inline std::string describe(const Report& report, const std::string& subject) {
  std::ostringstream text;
  text << report.law << " on " << subject << ": " << report.what;
  if (report.largest_error > 0)
    text << ": error " << report.largest_error << ", allowed " << report.tolerance;
  return text.str();
}

}  // namespace ssm::laws
