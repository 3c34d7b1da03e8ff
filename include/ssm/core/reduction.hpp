// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "ssm/core/elementwise.hpp"

namespace ssm {

/// What sums of T come out as: double for every floating-point scalar, 64-bit for integers.
template <class T>
using SumOf = std::conditional_t<std::integral<T>, std::int64_t, double>;

namespace detail {

/// Sums a stream of numbers in pairs: blocks of 128 elements, then blocks of blocks, carried like a
/// binary counter. The result depends on the numbers and their order alone, never on layout or
/// threads; the error grows with log n.
template <class Sum>
class PairwiseSum {
 public:
  void add(Sum value) {
    block_ += value;
    if (++in_block_ == block_length) carry();
  }
  Sum total() const {
    Sum sum = block_;
    for (std::size_t level = 0; (blocks_ >> level) != 0; ++level)
      if (((blocks_ >> level) & 1U) != 0) sum += partial_[level];
    return sum;
  }

 private:
  static constexpr int block_length = 128;
  void carry() {
    std::size_t level = 0;
    for (; ((blocks_ >> level) & 1U) != 0; ++level) block_ += partial_[level];
    partial_[level] = block_;
    ++blocks_;
    block_ = 0;
    in_block_ = 0;
  }

  std::array<Sum, 57> partial_{};  // enough for 2^64 elements
  std::uint64_t blocks_ = 0;
  Sum block_ = 0;
  int in_block_ = 0;
};

template <class View>
using Arithmetic = decltype(arithmetic(std::declval<typename View::Value>()));

template <class X>
Index require_elements(const char* op, const X& x, Index count) {
  if (count == 0)
    throw ArgumentError(std::string(op) + ": no elements in " + shape_text(x.extents().to_array()));
  return count;
}

template <class Term, class... Views>
auto sum_of_terms(const char* op, Term term, const Views&... views) {
  using Sum = std::common_type_t<SumOf<typename Views::Value>...>;
  PairwiseSum<Sum> sum;
  for_each_row(
      op,
      [&](Index count, auto... row) {
        for (Index i = 0; i < count; ++i) sum.add(term(scalar_cast<Sum>(+arithmetic(row[i]))...));
      },
      views...);
  return sum.total();
}

/// The element that `before(candidate, chosen)` puts first; a NaN goes before everything.
template <class Before, class View>
auto chosen_element(const char* op, Before before, const View& x) {
  using Element = Arithmetic<View>;
  require_elements(op, x, x.size());
  Element chosen{};
  bool first = true;
  for_each_row(
      op,
      [&](Index count, auto row) {
        for (Index i = 0; i < count; ++i) {
          const Element candidate = arithmetic(row[i]);
          const bool is_nan = !(candidate == candidate);
          if (first || is_nan || before(candidate, chosen)) chosen = candidate;
          first = false;
          if (is_nan) return;
        }
      },
      x);
  return chosen;
}

/// result[…] = reduce(line of `view` along `axis`) for every index of the other axes.
template <class Result, class Reduce, class First, class... More>
auto along_axis(const char* op, int axis, Reduce reduce, const First& first, const More&... more) {
  if (axis < 0 || axis >= First::rank())
    throw ShapeError(op, "axis " + std::to_string(axis),
                     "does not exist in " + shape_text(first.extents().to_array()));
  (require_same_extents(op, 1, first, more), ...);
  const Index length = first.extent(axis);
  std::array<Index, static_cast<std::size_t>(First::rank() - 1)> extents{};
  for (int from = 0, to = 0; from < First::rank(); ++from)
    if (from != axis) extents[static_cast<std::size_t>(to++)] = first.extent(from);
  using ResultType = DynamicTensor<Result, First::rank() - 1>;
  ResultType result(
      std::apply([](auto... n) { return typename ResultType::Shape(n...); }, extents));
  const auto line = [&](const auto& view, auto& start) {
    using Element = typename std::remove_cvref_t<decltype(view)>::Element;
    return View<Element, 1>(&start, {length}, {view.stride(axis)});
  };
  if (length == 0) {
    for_each_element(
        [&](Result& out) {
          out = reduce(View<typename First::Element, 1>(), View<typename More::Element, 1>()...);
        },
        result);
  } else {
    for_each_row(
        op,
        [&](Index count, auto out, auto start, auto... starts) {
          for (Index i = 0; i < count; ++i)
            out[i] = reduce(line(first, start[i]), line(more, starts[i])...);
        },
        result.view(), first.select(axis, 0), more.select(axis, 0)...);
  }
  return result;
}

}  // namespace detail

/// Σ x[i] over all elements, in double (integers in 64 bits).
template <HostTensor X>
auto sum(const X& x) {
  return detail::sum_of_terms(
      "sum", [](auto value) { return value; }, view_of(x));
}

/// Σ x[i] / n, in double. Throws ArgumentError if there are no elements.
template <HostTensor X>
double mean(const X& x) {
  const auto view = view_of(x);
  const auto count = static_cast<double>(detail::require_elements("mean", view, view.size()));
  return static_cast<double>(sum(view)) / count;
}

/// Σ x[i] · y[i], in double (integers in 64 bits). Throws ShapeError if extents differ.
template <HostTensor X, HostTensor Y>
auto dot(const X& x, const Y& y) {
  return detail::sum_of_terms(
      "dot", [](auto a, auto b) { return a * b; }, view_of(x), view_of(y));
}

/// √Σ x[i]², in double.
template <HostTensor X>
double norm(const X& x) {
  const auto squares = detail::sum_of_terms(
      "norm", [](auto value) { return static_cast<double>(value) * static_cast<double>(value); },
      view_of(x));
  return std::sqrt(static_cast<double>(squares));
}

/// The smallest element; NaN if there is one. Throws ArgumentError if there are no elements.
template <HostTensor X>
auto min(const X& x) {
  return detail::chosen_element(
      "min", [](auto a, auto b) { return a < b; }, view_of(x));
}

/// The largest element; NaN if there is one. Throws ArgumentError if there are no elements.
template <HostTensor X>
auto max(const X& x) {
  return detail::chosen_element(
      "max", [](auto a, auto b) { return a > b; }, view_of(x));
}

/// The same along one axis: a tensor of the other axes.
///   sum(x, 1)                                                             // [B, L, D] → [B, D]
/// Throws  ShapeError  if the axis does not exist
template <HostTensor X>
auto sum(const X& x, int axis) {
  return detail::along_axis<SumOf<ValueOf<X>>>(
      "sum", axis, [](const auto& a) { return sum(a); }, view_of(x));
}
template <HostTensor X>
auto mean(const X& x, int axis) {
  return detail::along_axis<double>(
      "mean", axis, [](const auto& a) { return mean(a); }, view_of(x));
}
template <HostTensor X, HostTensor Y>
auto dot(const X& x, const Y& y, int axis) {
  using Result = std::common_type_t<SumOf<ValueOf<X>>, SumOf<ValueOf<Y>>>;
  return detail::along_axis<Result>(
      "dot", axis, [](const auto& a, const auto& b) { return dot(a, b); }, view_of(x), view_of(y));
}
template <HostTensor X>
auto norm(const X& x, int axis) {
  return detail::along_axis<double>(
      "norm", axis, [](const auto& a) { return norm(a); }, view_of(x));
}
template <HostTensor X>
auto min(const X& x, int axis) {
  return detail::along_axis<detail::Arithmetic<ViewTypeOf<const X>>>(
      "min", axis, [](const auto& a) { return min(a); }, view_of(x));
}
template <HostTensor X>
auto max(const X& x, int axis) {
  return detail::along_axis<detail::Arithmetic<ViewTypeOf<const X>>>(
      "max", axis, [](const auto& a) { return max(a); }, view_of(x));
}

}  // namespace ssm
