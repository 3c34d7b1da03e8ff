// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "ssm/core/random.hpp"
#include "ssm/core/scalar.hpp"
#include "ssm/core/tensor.hpp"

namespace ssm::test {

/// Uniform numbers between −1 and 1; the same for the same name and extents.
template <class T = double, class... N>
auto random_tensor(std::string_view name, N... extents) {
  DynamicTensor<T, int{sizeof...(N)}> x({static_cast<Index>(extents)...});
  Random(Seed{7}.fork(name)).fill_uniform(x.data(), 0, x.size(), -1, 1);
  return x;
}

/// For outputs: what is not written shows.
template <class T = double, class... N>
auto nan_tensor(N... extents) {
  DynamicTensor<T, int{sizeof...(N)}> x({static_cast<Index>(extents)...});
  std::fill_n(x.data(), x.size(), static_cast<T>(std::numeric_limits<Wide<T>>::quiet_NaN()));
  return x;
}

template <class T = double, class... N>
auto zero_tensor(N... extents) {
  return DynamicTensor<T, int{sizeof...(N)}>({static_cast<Index>(extents)...});
}

/// scale · sin(phase + 0.7·i) for element i.
template <class... N>
auto wave_tensor(double scale, double phase, N... extents) {
  auto x = zero_tensor(extents...);
  for (Index i = 0; i < x.size(); ++i)
    x.data()[i] = scale * std::sin(phase + 0.7 * static_cast<double>(i));
  return x;
}

/// Numbers written out in the test.
template <class T = double>
DynamicTensor<T, 1> tensor_of(std::initializer_list<double> numbers) {
  DynamicTensor<T, 1> x({static_cast<Index>(numbers.size())});
  std::transform(numbers.begin(), numbers.end(), x.data(),
                 [](double number) { return static_cast<T>(number); });
  return x;
}

namespace detail {
template <class V, class F, class... I>
void for_each_index(const V& view, F&& visit, I... index) {
  if constexpr (sizeof...(I) == static_cast<std::size_t>(V::rank()))
    visit(index...);
  else
    for (Index i = 0; i < view.extent(int{sizeof...(I)}); ++i)
      for_each_index(view, visit, index..., i);
}
}  // namespace detail

/// Calls visit(i, j, …) for every element, in row-major order.
template <class X, class F>
void for_each_index(const X& x, F&& visit) {
  detail::for_each_index(view_of(x), visit);
}

/// max|x − y| / max(1, max|y|): what `tolerance<T>` bounds. Infinite where a NaN is.
template <class X, class Y>
double difference(const X& x, const Y& y) {
  if (!(view_of(x).extents() == view_of(y).extents()))
    throw ShapeError("difference", "y", "has other extents than x");
  double error = 0;
  double largest = 1;
  for_each_index(x, [&](auto... i) {
    const double distance = std::abs(scalar_cast<double>(x(i...)) - scalar_cast<double>(y(i...)));
    error =
        std::isnan(distance) ? std::numeric_limits<double>::infinity() : std::max(error, distance);
    largest = std::max(largest, std::abs(scalar_cast<double>(y(i...))));
  });
  return error / largest;
}

/// Σ x·y: a loss whose gradient with respect to y is x.
template <class X, class Y>
double inner_product(const X& x, const Y& y) {
  double sum = 0;
  for_each_index(
      x, [&](auto... i) { sum += static_cast<double>(x(i...)) * static_cast<double>(y(i...)); });
  return sum;
}

/// The positions begin … end−1 of a [B, L, D] operand, copied.
template <class T>
DynamicTensor<T, 3> positions(const DynamicTensor<T, 3>& x, Index begin, Index end) {
  DynamicTensor<T, 3> part({x.extent(0), end - begin, x.extent(2)});
  for_each_index(part, [&](Index b, Index t, Index d) { part(b, t, d) = x(b, begin + t, d); });
  return part;
}

}  // namespace ssm::test
