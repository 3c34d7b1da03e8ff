// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/random.hpp"
#include "ssm/core/scalar.hpp"
#include "ssm/core/tensor.hpp"

namespace ssm::laws {

/// A tensor as the laws see it: by name, its elements in double, which is exact for float and
/// double.
struct NamedTensor {
  std::string name{};
  std::vector<Index> extents{};
  std::vector<double> values{};  // row-major
  bool counts = false;           // whole numbers, which nothing is differentiated by
};

/// Parameters, gradients or a state: tensors in the order in which the layer visits them.
using Bundle = std::vector<NamedTensor>;

inline std::size_t element_count(const std::vector<Index>& extents) {
  std::size_t count = 1;
  for (const Index extent : extents) count *= static_cast<std::size_t>(extent);
  return count;
}

/// Normal numbers that both scalars hold exactly.
inline NamedTensor normal(std::string name, std::vector<Index> extents, Seed seed) {
  const Random random(seed.fork(name));
  NamedTensor result{std::move(name), std::move(extents), {}};
  std::vector<float> drawn(element_count(result.extents));
  random.fill_normal(drawn.data(), 0, static_cast<Index>(drawn.size()), 1.0);
  result.values.assign(drawn.begin(), drawn.end());
  return result;
}

/// Normal numbers in the place of real ones; whole numbers become zero.
inline Bundle normal_like(const Bundle& like, Seed seed) {
  Bundle result;
  for (const NamedTensor& tensor : like) {
    result.push_back(normal(tensor.name, tensor.extents, seed));
    if (tensor.counts) std::fill(result.back().values.begin(), result.back().values.end(), 0.0);
    result.back().counts = tensor.counts;
  }
  return result;
}

/// sum += scale · x
inline void add(Bundle& sum, const Bundle& x, double scale = 1) {
  for (std::size_t i = 0; i < sum.size(); ++i)
    for (std::size_t e = 0; e < sum[i].values.size(); ++e)
      sum[i].values[e] += scale * x[i].values[e];
}

/// Rounds every element to what a float holds.
inline void round_to_float(Bundle& tensors) {
  for (NamedTensor& tensor : tensors)
    for (double& value : tensor.values) value = static_cast<double>(static_cast<float>(value));
}

/// The part begin ≤ i < end of one axis.
inline NamedTensor slice(const NamedTensor& x, std::size_t axis, Index begin, Index end) {
  NamedTensor result{x.name, x.extents, {}, x.counts};
  result.extents[axis] = end - begin;
  const auto split = x.extents.begin() + static_cast<std::ptrdiff_t>(axis);
  const auto outer = static_cast<Index>(element_count({x.extents.begin(), split}));
  const auto inner = static_cast<Index>(element_count({split + 1, x.extents.end()}));
  for (Index o = 0; o < outer; ++o) {
    const auto row = x.values.begin() + o * x.extents[axis] * inner;
    result.values.insert(result.values.end(), row + begin * inner, row + end * inner);
  }
  return result;
}

/// Tensors one after another along one axis; extents agree elsewhere. Without axes there is nothing
/// to join.
inline NamedTensor join(const std::vector<NamedTensor>& parts, std::size_t axis) {
  if (parts[0].extents.empty()) return parts[0];
  NamedTensor result{parts[0].name, parts[0].extents, {}, parts[0].counts};
  result.extents[axis] = 0;
  for (const NamedTensor& part : parts) result.extents[axis] += part.extents[axis];
  Index outer = 1;
  for (std::size_t a = 0; a < axis; ++a) outer *= result.extents[a];
  for (Index o = 0; o < outer; ++o)
    for (const NamedTensor& part : parts) {
      const auto row = static_cast<Index>(part.values.size()) / outer;
      const auto from = part.values.begin() + o * row;
      result.values.insert(result.values.end(), from, from + row);
    }
  return result;
}

/// With zeros behind the elements of every axis, up to these extents.
inline NamedTensor pad(const NamedTensor& x, const std::vector<Index>& extents) {
  NamedTensor result{x.name, extents, std::vector<double>(element_count(extents)), x.counts};
  std::vector<Index> index(extents.size());
  for (const double value : x.values) {
    std::size_t place = 0;
    for (std::size_t axis = 0; axis < extents.size(); ++axis)
      place =
          place * static_cast<std::size_t>(extents[axis]) + static_cast<std::size_t>(index[axis]);
    result.values[place] = value;
    for (std::size_t axis = extents.size(); axis-- > 0 && ++index[axis] == x.extents[axis];)
      index[axis] = 0;
  }
  return result;
}

/// The states of one sequence after another; axes[i] of tensor i counts the sequences. Elsewhere a
/// state may have grown further than another, which zeros make up for.
inline Bundle join_states(const std::vector<Bundle>& parts, const std::vector<std::size_t>& axes) {
  Bundle result;
  for (std::size_t i = 0; i < parts[0].size(); ++i) {
    std::vector<NamedTensor> tensors;
    std::vector<Index> largest = parts[0][i].extents;
    for (const Bundle& part : parts)
      for (std::size_t axis = 0; axis < largest.size(); ++axis)
        largest[axis] = std::max(largest[axis], part[i].extents[axis]);
    for (const Bundle& part : parts) {
      largest[axes[i]] = part[i].extents[axes[i]];
      tensors.push_back(pad(part[i], largest));
    }
    result.push_back(join(tensors, axes[i]));
  }
  return result;
}

/// The state of sequence i alone.
inline Bundle state_of(const Bundle& states, Index i, const std::vector<std::size_t>& axes) {
  Bundle result;
  for (std::size_t k = 0; k < states.size(); ++k)
    result.push_back(slice(states[k], axes[k], i, i + 1));
  return result;
}

/// Whole numbers from 0 to below `count`.
inline NamedTensor tokens(std::string name, std::vector<Index> extents, Index count, Seed seed) {
  const Random random(seed.fork(name));
  NamedTensor result{std::move(name), std::move(extents), {}, true};
  for (std::size_t i = 0; i < element_count(result.extents); ++i)
    result.values.push_back(std::floor(random.uniform(i) * static_cast<double>(count)));
  return result;
}

template <class T, class E>
std::vector<double> numbers_of(const Tensor<T, E>& tensor) {
  std::vector<double> values(static_cast<std::size_t>(tensor.size()));
  std::transform(tensor.data(), tensor.data() + tensor.size(), values.begin(),
                 [](T element) { return scalar_cast<double>(element); });
  return values;
}

/// A layer's tensor as the laws see it.
template <class T, class E>
NamedTensor read(std::string name, const Tensor<T, E>& tensor) {
  const auto extents = tensor.extents().to_array();
  return {
      std::move(name), {extents.begin(), extents.end()}, numbers_of(tensor), std::is_integral_v<T>};
}

/// The other way: takes over the elements; sizes must agree.
template <class T, class E>
void write(const NamedTensor& from, Tensor<T, E>& tensor) {
  if (static_cast<Index>(from.values.size()) != tensor.size())
    throw ShapeError("write", from.name, "has another size than the layer's tensor");
  std::transform(from.values.begin(), from.values.end(), tensor.data(),
                 [](double value) { return scalar_cast<T>(value); });
}

}  // namespace ssm::laws
