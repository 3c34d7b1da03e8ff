// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/core/elementwise.hpp"
#include "ssm/core/random.hpp"

namespace ssm {

/// Uniform in [low, high): element i in row-major order is number i of the seed's stream, whatever
/// the strides. Rounded to the element's scalar, so `high` itself can occur in narrow types.
template <HostTensor Output>
void fill_uniform(Output&& output, Seed seed, double low = 0, double high = 1) {
  const Random random(seed);
  std::uint64_t i = 0;
  map([&] { return random.uniform(i++, low, high); }, output);
}

/// Normal with the given mean and standard deviation: element i in row-major order is number i of
/// the seed's stream.
template <HostTensor Output>
void fill_normal(Output&& output, Seed seed, double mean = 0, double deviation = 1) {
  const Random random(seed);
  std::uint64_t i = 0;
  map([&] { return mean + deviation * random.normal(i++); }, output);
}

}  // namespace ssm
