// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/elementwise.hpp"
#include "ssm/core/scalar.hpp"
#include "ssm/core/tensor.hpp"

namespace ssm::test {

/// The same numbers in double.
template <class V>
auto in_double(const V& numbers) {
  DynamicTensor<double, V::rank()> copied;
  if (!numbers) return copied;
  copied.reset(DynamicExtents<V::rank()>(numbers.extents()));
  for_each_index(copied, [&](auto... i) { copied(i...) = scalar_cast<double>(numbers(i...)); });
  return copied;
}

}  // namespace ssm::test
