// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <string>
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

/// d loss / d(values along direction) by central differences of fourth order. `values` is part of
/// `call`.
inline double central_difference(Subject& subject, const Call& call, std::vector<double>& values,
                                 const std::vector<double>& direction) {
  double length = 0;
  for (const double d : direction) length += d * d;
  const double h = 1e-3 / std::sqrt(length);  // rounding and truncation both stay below 1e-11
  const std::vector<double> middle = values;
  const auto at = [&](double step) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = middle[i] + step * direction[i];
    return loss(subject, call);
  };
  const double near = at(h) - at(-h);
  const double far = at(2 * h) - at(-2 * h);
  values = middle;
  return (8 * near - far) / (12 * h);
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
