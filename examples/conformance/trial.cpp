// SPDX-License-Identifier: Apache-2.0
#include "trial.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "ssm/core/compare.hpp"

namespace ssm::conformance {
namespace {

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

constexpr double token_tolerance = 1e-9;  // tokens agree or do not

void require_shape(const std::string& name, const Values& values, std::span<const Index> expected) {
  bool agree = values.shape.size() == expected.size();
  for (std::size_t axis = 0; agree && axis < expected.size(); ++axis)
    agree = expected[axis] == dyn || expected[axis] == values.shape[axis];
  if (!agree)
    throw CaseError("tensor '" + name + "' must be " + shape_text(expected) + ", but is " +
                    shape_text(values.shape));
}

std::string place_of(Index position, std::span<const Index> shape) {
  std::vector<Index> index(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    index[axis] = position % shape[axis];
    position /= shape[axis];
  }
  return shape_text(index);
}

}  // namespace

Index Trial::size(const std::string& key) const {
  Index limit = 0;
  for (const auto& [name, values] : case_.tensors)
    limit += static_cast<Index>(values.numbers.size() + values.integers.size());
  return config().integer(key, 0, limit);
}

Index Trial::size(const std::string& key, Index otherwise) const {
  return config().has(key) ? size(key) : otherwise;
}

std::string Trial::text(const std::string& key) const {
  if (!config().has(key)) config().refuse(key, "is missing");
  return config().text(key, "");
}

bool Trial::has_any(std::string_view prefix) const {
  const auto found = case_.tensors.lower_bound(std::string(prefix));
  return found != case_.tensors.end() && found->first.starts_with(prefix);
}

const Values& Trial::find(const std::string& name) const {
  const auto found = case_.tensors.find(name);
  if (found == case_.tensors.end()) throw CaseError("tensor '" + name + "' is missing");
  return found->second;
}

const Values& Trial::take(const std::string& name, std::span<const Index> expected) {
  const Values& values = find(name);
  if (values.is_integral) throw CaseError("tensor '" + name + "' must be floating-point numbers");
  require_shape(name, values, expected);
  touched_.insert(name);
  return values;
}

const Values& Trial::take_integers(const std::string& name, std::span<const Index> expected) {
  const Values& values = find(name);
  if (!values.is_integral) throw CaseError("tensor '" + name + "' must be integers");
  require_shape(name, values, expected);
  touched_.insert(name);
  return values;
}

Token Trial::as_token(std::int64_t value, const std::string& name) {
  if (!std::in_range<Token>(value))
    throw CaseError("tensor '" + name + "' holds " + std::to_string(value) + ", which is no token");
  return static_cast<Token>(value);
}

std::vector<Index> Trial::segments() {
  if (!has("input/cu_seqlens")) return {};
  const auto& offsets = take_integers("input/cu_seqlens", std::array{dyn}).integers;
  if (offsets.size() < 2) throw CaseError("tensor 'input/cu_seqlens' has fewer than two offsets");
  if (!splits().empty()) throw CaseError("a packed case must not have splits");
  return {offsets.begin(), offsets.end()};
}

void Trial::compare_numbers(const std::string& name, std::span<const Index> shape,
                            std::span<const double> actual, std::span<const double> expected,
                            double tolerance) {
  const auto difference = largest_difference(view_of(actual), view_of(expected));
  const double error = difference.value / std::max(1.0, difference.scale);
  const bool is_wrong = !difference.within(tolerance);
  wrong_ += is_wrong ? 1 : 0;
  if (error / tolerance <= worst_) return;
  worst_ = error / tolerance;
  verdict_.error = error;
  verdict_.tensor = name + phase_;
  if (!is_wrong) return;
  const auto at = static_cast<std::size_t>(difference.index[0]);
  verdict_.reason = "is " + number_text(actual[at]) + " and not " + number_text(expected[at]) +
                    " at " + place_of(difference.index[0], shape) + ", tolerance " +
                    number_text(tolerance);
}

void Trial::compare_whole_numbers(const std::string& name, std::span<const Index> shape,
                                  const std::vector<double>& actual) {
  const Values& values = take_integers(name, shape);
  const std::vector<double> expected(values.integers.begin(), values.integers.end());
  compare_numbers(name, values.shape, actual, expected, token_tolerance);
}

Verdict Trial::verdict() const {
  Verdict result = verdict_;
  result.passed = wrong_ == 0;
  if (wrong_ > 1) result.reason += "; " + std::to_string(wrong_) + " comparisons differ";
  for (const auto& [name, values] : case_.tensors) {
    if (touched_.contains(name) || name.starts_with("auxiliary/")) continue;
    const bool is_result = name.starts_with("output/") || name.starts_with("grad/") ||
                           name.starts_with("state/final/");
    result.passed = false;
    result.tensor = name;
    result.reason = is_result ? "nothing computes it" : "nothing uses it";
  }
  return result;
}

}  // namespace ssm::conformance
