// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "support/primitive_laws.hpp"

namespace ssm::test {

/// Fills an int8 weight [K, N] of a run of Matmul, where it has one, and its scales.
/// scale_of   the scale of column n
template <class Run, class ScaleOf>
void fill_int8_weight(Run& run, const ScaleOf& scale_of) {
  const auto& a = run.forward;
  if (!a.b_int8) return;
  const auto numbers = run.writable(a.b_int8);
  for_each_index(numbers, [&](Index k, Index n) {
    numbers(k, n) = static_cast<std::int8_t>((k * 37 + n * 11) % 255 - 127);
  });
  const auto scale = run.writable(a.b_scale);
  for_each_index(scale, [&](Index n) { scale(n) = scale_of(n); });
}

/// A row around 1024 gives what the same row around 0 gives, behind a norm that centers it.
/// Run   of float, with a row x before the norm
template <class Run>
void loses_no_digits_far_from_zero(const typename Run::Test& test) {
  on_every_backend<Run>([&](auto& ctx) {
    Run far(test, Layout::rows), near(test, Layout::rows);
    for_each_index(far.x, [&](Index m, Index k) {
      far.x(m, k) = 1024 + std::round(far.x(m, k) * 1024) / 1024;  // to the last bit
      near.x(m, k) = far.x(m, k) - 1024;
    });
    far.evaluate(ctx);
    near.evaluate(ctx);
    CHECK(difference(far.forward.c, near.forward.c) < tolerance<float>.value);
  });
}

}  // namespace ssm::test
