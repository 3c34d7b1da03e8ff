// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "case.hpp"
#include "ssm/core/elementwise.hpp"  // copy, for_each_element
#include "ssm/core/scalar.hpp"       // Tolerance

namespace ssm::conformance {

/// The largest |x − y| / max(1, max|y|) against its tolerance, and what is wrong, if anything is.
struct Verdict {
  bool passed = true;
  double error = 0;
  std::string tensor;
  std::string reason;
};

/// One run of one case: hands out what the file gives, takes what was computed, and remembers both,
/// so that nothing in the file goes unused and nothing expected goes unchecked.
/// Throws  CaseError  where a tensor or an option is missing or has the wrong shape or type
class Trial {
 public:
  explicit Trial(const Case& which) : case_(which) {}

  const std::vector<Index>& splits() const { return case_.splits; }
  const std::filesystem::path& folder() const { return case_.folder; }
  const JsonObject& config() const { return case_.config; }
  /// A size of the config. None is larger than all tensors together: a damaged one must not become
  /// an allocation.
  Index size(const std::string& key) const;
  Index size(const std::string& key, Index otherwise) const;
  double number(const std::string& key) const { return number_in(config(), key); }
  double number(const std::string& key, double otherwise) const {
    return number_in(config(), key, otherwise);
  }
  std::string text(const std::string& key) const;

  bool has(const std::string& name) const { return case_.tensors.contains(name); }
  bool has_any(std::string_view prefix) const;
  std::span<const Index> shape(const std::string& name) const { return find(name).shape; }

  /// Numbers of the file; `dyn` in `expected` accepts any extent.
  template <int Rank>
  View<const double, Rank> view(const std::string& name,
                                std::array<Index, static_cast<std::size_t>(Rank)> expected) {
    const Values& values = take(name, expected);
    return {values.numbers.data(), extents_of<Rank>(values)};
  }

  /// The same in the scalar under test, as a tensor of its own.
  template <class T, int Rank>
  DynamicTensor<T, Rank> read(const std::string& name,
                              std::array<Index, static_cast<std::size_t>(Rank)> expected) {
    const auto from = view<Rank>(name, expected);
    DynamicTensor<T, Rank> tensor(from.extents());
    copy(from, tensor);
    return tensor;
  }
  template <class T, int Rank>
  DynamicTensor<T, Rank> read(const std::string& name) {
    std::array<Index, static_cast<std::size_t>(Rank)> any{};
    any.fill(dyn);
    return read<T, Rank>(name, any);
  }
  template <class T, int Rank>
  DynamicTensor<T, Rank> read_if_given(const std::string& name) {
    return has(name) ? read<T, Rank>(name) : DynamicTensor<T, Rank>();
  }

  /// Tokens or labels of the file.
  template <int Rank>
  DynamicTensor<Token, Rank> tokens(const std::string& name,
                                    std::array<Index, static_cast<std::size_t>(Rank)> expected) {
    const Values& values = take_integers(name, expected);
    DynamicTensor<Token, Rank> tensor(extents_of<Rank>(values));
    const View<Token, 1> flat = tensor.flatten();
    for (std::size_t i = 0; i < values.integers.size(); ++i)
      flat(static_cast<Index>(i)) = as_token(values.integers[i], name);
    return tensor;
  }
  static Token as_token(std::int64_t value, const std::string& name);

  /// Whole numbers of the file: positions, counts.
  template <int Rank>
  View<const std::int64_t, Rank> integers(
      const std::string& name, std::array<Index, static_cast<std::size_t>(Rank)> expected) {
    const Values& values = take_integers(name, expected);
    return {values.integers.data(), extents_of<Rank>(values)};
  }
  /// A tensor of any rank, row-major; `dyn` in `expected` accepts any extent.
  std::span<const double> numbers(const std::string& name, std::span<const Index> expected) {
    return take(name, expected).numbers;
  }
  std::span<const std::int64_t> whole_numbers(const std::string& name,
                                              std::span<const Index> expected) {
    return take_integers(name, expected).integers;
  }
  /// `input/cu_seqlens`, empty if the case is not packed.
  std::vector<Index> segments();

  /// Goes behind the names of the tensors compared from here on: " by steps".
  void enter(std::string phase) { phase_ = std::move(phase); }

  /// Holds what was computed against the file's tensor. Where `slack` is given, [as actual], an
  /// element that is no farther off than its slack counts as equal.
  template <HostTensor X>
  void compare(const std::string& name, const X& actual, double tolerance,
               std::span<const double> slack = {}) {
    const auto computed = view_of(actual);
    const auto shape = computed.extents().to_array();
    const std::vector<double>& expected = take(name, shape).numbers;
    std::vector<double> numbers;
    numbers.reserve(expected.size());
    for_each_element(
        [&](auto x) {
          const std::size_t i = numbers.size();
          const auto number = static_cast<double>(x);
          const bool excused = !slack.empty() && std::abs(number - expected[i]) <= slack[i];
          numbers.push_back(excused ? expected[i] : number);
        },
        View<typename ViewTypeOf<const X>::Element, ViewTypeOf<const X>::rank()>(computed));
    compare_numbers(name, shape, numbers, expected, tolerance);
  }
  /// The same of numbers in row-major order.
  void compare_flat(const std::string& name, std::span<const Index> shape,
                    std::span<const double> actual, double tolerance) {
    compare_numbers(name, shape, actual, take(name, shape).numbers, tolerance);
  }
  template <HostTensor X>
  void compare_if_given(const std::string& name, const X& actual, double tolerance,
                        std::span<const double> slack = {}) {
    if (has(name)) compare(name, actual, tolerance, slack);
  }
  /// Tokens and other whole numbers agree or do not.
  template <class I, int Rank>
  void compare_integers(const std::string& name, const View<const I, Rank>& actual) {
    std::vector<double> computed;
    for_each_element([&](I number) { computed.push_back(static_cast<double>(number)); }, actual);
    compare_whole_numbers(name, actual.extents().to_array(), computed);
  }
  void compare_tokens(const std::string& name, const View<const Token, 2>& actual) {
    compare_integers<Token, 2>(name, actual);
  }

  /// What came of it; call last.
  Verdict verdict() const;

 private:
  template <int Rank>
  static DynamicExtents<Rank> extents_of(const Values& values) {
    std::array<Index, static_cast<std::size_t>(Rank)> axes{};
    for (std::size_t axis = 0; axis < axes.size(); ++axis) axes[axis] = values.shape[axis];
    return std::apply([](auto... n) { return DynamicExtents<Rank>(n...); }, axes);
  }
  const Values& find(const std::string& name) const;
  const Values& take(const std::string& name, std::span<const Index> expected);
  const Values& take_integers(const std::string& name, std::span<const Index> expected);
  void compare_whole_numbers(const std::string& name, std::span<const Index> shape,
                             const std::vector<double>& actual);
  void compare_numbers(const std::string& name, std::span<const Index> shape,
                       std::span<const double> actual, std::span<const double> expected,
                       double tolerance);

  const Case& case_;
  std::set<std::string> touched_;
  std::string phase_;
  Verdict verdict_;
  double worst_ = -1;  // error / tolerance
  int wrong_ = 0;
};

}  // namespace ssm::conformance
