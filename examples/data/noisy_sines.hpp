// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <ssm/core/fill_random.hpp>
#include <ssm/core/tensor.hpp>

/// Fills [batch, length, 1] with sines of several periods, of other phases and noise for each step.
inline void draw_noisy_sines(ssm::DynamicTensor<float, 3>& series, ssm::Index step) {
  ssm::fill_normal(series, ssm::Seed{100}.fork(static_cast<std::uint64_t>(step)), 0, 0.1);
  for (ssm::Index b = 0; b < series.extent(0); ++b)
    for (ssm::Index t = 0; t < series.extent(1); ++t)
      series(b, t, 0) += std::sin(0.1F * static_cast<float>((1 + b % 4) * t + 7 * b + 10 * step));
}
