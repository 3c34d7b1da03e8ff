// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/core/random.hpp"

namespace ssm {

/// Where the eigenvalues A of a diagonal SSM start; n = 0 … P−1 counts modes, N is the state size.
///   lin      −1/2 + i·π·n
///   inv      −1/2 + i·(N/π)·(N/(2n+1) − 1)
///   inv2     −1/2 + i·(N/π)·(N/(n+1) − 1)
///   quad     −1/2 + i·(1+2n)²/π
///   legs     −1/2 + i·ω_n, ω_n the positive frequencies of the normal part of HiPPO-LegS, rising
///   real     −(1+n)
///   random   −1/2 + i·N(0, 1)
/// Source  Gu et al. 2022 (S4D) §4; HazyResearch/H3, dplr
enum class DiagonalMeasure { lin, inv, inv2, quad, legs, real, random };

/// Throws  ArgumentError  unless 0 < dt_min ≤ dt_max
inline void require_step_range(const char* layer, double dt_min, double dt_max) {
  if (!(dt_min > 0 && dt_min <= dt_max && std::isfinite(dt_max)))
    throw ArgumentError(message({layer, ": dt_min ", dt_min, " and dt_max ", dt_max,
                                 " must be a range of positive numbers"}));
}

/// The positive frequencies of HiPPO-LegS: its normal part is −1/2·I + S with S skew-symmetric,
/// S[n,k] = −½·√((2n+1)(2k+1)) for n > k, and the eigenvalues of −S² are the ω², each twice.
/// Cost    O(N³), by cyclic Jacobi rotations
[[gnu::cold]] inline std::vector<double> legs_frequencies(Index state) {
  const auto size = static_cast<std::size_t>(state);
  const auto entry = [](std::size_t n, std::size_t k) {
    const double magnitude =
        0.5 * std::sqrt((2.0 * static_cast<double>(n) + 1) * (2.0 * static_cast<double>(k) + 1));
    return n == k ? 0.0 : (n > k ? -magnitude : magnitude);
  };
  std::vector<double> m(size * size, 0.0);  // −S², symmetric
  for (std::size_t i = 0; i < size; ++i)
    for (std::size_t j = 0; j < size; ++j)
      for (std::size_t k = 0; k < size; ++k) m[i * size + j] -= entry(i, k) * entry(k, j);
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off_diagonal = 0;
    double diagonal = 0;
    for (std::size_t p = 0; p < size; ++p) {
      diagonal += m[p * size + p] * m[p * size + p];
      for (std::size_t q = p + 1; q < size; ++q) {
        const double a = m[p * size + q];
        off_diagonal += a * a;
        if (a == 0) continue;
        const double theta = (m[q * size + q] - m[p * size + p]) / (2 * a);
        const double t = std::copysign(1.0, theta) / (std::abs(theta) + std::hypot(theta, 1.0));
        const double c = 1 / std::hypot(t, 1.0);
        const double s = t * c;
        for (std::size_t k = 0; k < size; ++k) {
          const double left = m[k * size + p];
          const double right = m[k * size + q];
          m[k * size + p] = c * left - s * right;
          m[k * size + q] = s * left + c * right;
        }
        for (std::size_t k = 0; k < size; ++k) {
          const double above = m[p * size + k];
          const double below = m[q * size + k];
          m[p * size + k] = c * above - s * below;
          m[q * size + k] = s * above + c * below;
        }
      }
    }
    if (off_diagonal <= 1e-30 * diagonal) break;
  }
  std::vector<double> squares;
  for (std::size_t i = 0; i < size; ++i) {  // in order; std::sort takes long to compile
    squares.push_back(m[i * size + i]);
    for (std::size_t j = i; j > 0 && squares[j] < squares[j - 1]; --j)
      std::swap(squares[j], squares[j - 1]);
  }
  std::vector<double> frequencies;
  for (std::size_t i = size % 2; i + 1 < size; i += 2)
    frequencies.push_back(std::sqrt(std::max(0.0, 0.5 * (squares[i] + squares[i + 1]))));
  return frequencies;
}

/// The imaginary parts of a measure for `modes` stored modes of a state of size N. `draw` is used
/// by `random` only.
[[gnu::cold]] inline std::vector<double> measure_frequencies(DiagonalMeasure measure, Index state,
                                                             Index modes, const Random& draw,
                                                             Index first_draw) {
  if (measure == DiagonalMeasure::legs) {
    std::vector<double> frequencies = legs_frequencies(state);
    frequencies.resize(static_cast<std::size_t>(modes));
    return frequencies;
  }
  std::vector<double> frequencies;
  const auto full = static_cast<double>(state);
  for (Index mode = 0; mode < modes; ++mode) {
    const auto n = static_cast<double>(mode);
    switch (measure) {
      case DiagonalMeasure::lin:
        frequencies.push_back(std::numbers::pi * n);
        break;
      case DiagonalMeasure::inv:
        frequencies.push_back(full / std::numbers::pi * (full / (2 * n + 1) - 1));
        break;
      case DiagonalMeasure::inv2:
        frequencies.push_back(full / std::numbers::pi * (full / (n + 1) - 1));
        break;
      case DiagonalMeasure::quad:
        frequencies.push_back((1 + 2 * n) * (1 + 2 * n) / std::numbers::pi);
        break;
      case DiagonalMeasure::random:
        frequencies.push_back(draw.normal(static_cast<std::uint64_t>(first_draw + mode)));
        break;
      case DiagonalMeasure::legs:
      case DiagonalMeasure::real:
        frequencies.push_back(0);
        break;
    }
  }
  return frequencies;
}

}  // namespace ssm
