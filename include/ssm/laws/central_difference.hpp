// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "ssm/laws/report.hpp"
#include "ssm/laws/subject.hpp"

namespace ssm::laws {

inline double weighted_sum(const NamedTensor& weights, const NamedTensor& values) {
  double sum = 0;
  for (std::size_t i = 0; i < values.values.size(); ++i)
    sum += weights.values[i] * values.values[i];
  return sum;
}

/// The scalar whose gradient `differentiate` computes.
inline double loss(Subject& subject, const Call& call) {
  const Outcome outcome = subject.forward(call);
  double sum = weighted_sum(call.dy, outcome.y);
  for (std::size_t i = 0; i < outcome.final_state.size(); ++i)
    sum += weighted_sum(call.dfinal_state[i], outcome.final_state[i]);
  return sum;
}

/// d loss / d(values along direction) by central differences: steps are halved and extrapolated to
/// zero (Ridders 1982) until the estimates agree, as far as rounding lets them. One step for all
/// would be too long behind a normalization of small numbers, too short for rounding elsewhere.
/// `values` is part of `call`.
inline double central_difference(Subject& subject, const Call& call, std::vector<double>& values,
                                 const std::vector<double>& direction) {
  constexpr double longest_step = 4e-3;  // parameters and inputs are of the order of one
  constexpr std::size_t halvings = 12;
  constexpr double close_enough = 1e-11;
  double length = 0;
  for (const double d : direction) length += d * d;
  const std::vector<double> middle = values;
  const auto at = [&](double step) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = middle[i] + step * direction[i];
    return loss(subject, call);
  };

  double best = std::numeric_limits<double>::quiet_NaN();
  double smallest_change = std::numeric_limits<double>::infinity();
  std::vector<double> previous;  // of growing order, from steps twice as long
  for (std::size_t k = 0; k < halvings; ++k) {
    const double h = std::ldexp(longest_step, -static_cast<int>(k)) / std::sqrt(length);
    std::vector<double> row{(at(h) - at(-h)) / (2 * h)};
    for (std::size_t order = 1; order <= k; ++order) {
      const double rate = std::ldexp(1.0, 2 * static_cast<int>(order));
      row.push_back((rate * row[order - 1] - previous[order - 1]) / (rate - 1));
      const double difference = std::max(std::abs(row[order] - row[order - 1]),
                                         std::abs(row[order] - previous[order - 1]));
      if (difference < smallest_change) {
        smallest_change = difference;
        best = row[order];
      }
    }
    const double change = smallest_change / std::max(1.0, std::abs(best));
    const bool rounding = change < 1e-9 && std::abs(row[k] - previous[k - 1]) > 2 * smallest_change;
    if (rounding || change <= close_enough) break;
    previous = std::move(row);
  }
  values = middle;
  return best;
}

/// Element by element in small tensors; large ones along random signs, which no wrong element
/// survives either.
inline void require_gradient(Report& report, Subject& subject, const Call& call,
                             NamedTensor& operand, const NamedTensor& gradient,
                             const std::string& where) {
  constexpr std::size_t small = 40;
  constexpr std::size_t directions = 6;
  const std::size_t count = operand.values.size();
  const Random signs(Seed{11});
  NamedTensor expected{gradient.name, {}, {}};
  NamedTensor actual = expected;
  for (std::size_t k = 0; k < (count <= small ? count : directions); ++k) {
    std::vector<double> direction(count, 0.0);
    if (count <= small)
      direction[k] = 1;
    else
      for (std::size_t i = 0; i < count; ++i)
        direction[i] = signs.uniform(k * count + i) < 0.5 ? -1 : 1;
    expected.values.push_back(central_difference(subject, call, operand.values, direction));
    actual.values.push_back(weighted_sum({"", {}, direction}, gradient));
  }
  expected.extents = actual.extents = {static_cast<Index>(expected.values.size())};
  report.require_close(actual, expected, subject.tolerance().gradient, where);
}

/// The parameters' gradients start from random numbers, to which `backward` adds.
inline void require_gradients(Report& report, Subject& subject, Call call,
                              const std::string& where) {
  call.gradients = normal_like(call.parameters, Seed{10});
  Outcome outcome = subject.differentiate(call);
  add(outcome.gradients, call.gradients, -1);
  if (!call.x.counts) require_gradient(report, subject, call, call.x, outcome.dx, where);
  for (std::size_t i = 0; i < call.parameters.size(); ++i)
    require_gradient(report, subject, call, call.parameters[i], outcome.gradients[i], where);
  if (!call.keep_states) return;
  if (!call.initial_state) call.initial_state = subject.zero_state(call.sequences());
  for (std::size_t i = 0; i < call.initial_state->size(); ++i)
    if (!(*call.initial_state)[i].counts)
      require_gradient(report, subject, call, (*call.initial_state)[i], outcome.dinitial_state[i],
                       where);
}

}  // namespace ssm::laws
