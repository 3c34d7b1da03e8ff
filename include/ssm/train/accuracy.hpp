// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/scalar.hpp"   // Token
#include "ssm/train/losses.hpp"  // rows_of_logits

namespace ssm {

/// The share of rows whose largest logit is that of their target; the first of equals counts. On
/// the host.
/// logits    [M, V] or [B, L, V]
/// targets   [M] or [B, L]; rows whose target is `ignored` do not count
/// Throws  ShapeError  unless there is a target for every row
template <HostTensor Logits, HostTensor Targets>
double accuracy(const Logits& logits, const Targets& targets, Token ignored = -100) {
  const auto rows = detail::rows_of_logits(view_of(logits));
  const auto expected = view_of(targets).flatten();
  require_extents("accuracy", "targets", expected, {rows.extent(0)});
  Index right = 0;
  Index counted = 0;
  for (Index m = 0; m < rows.extent(0); ++m) {
    if (expected(m) == ignored) continue;
    Index best = 0;
    for (Index v = 1; v < rows.extent(1); ++v)
      if (rows(m, v) > rows(m, best)) best = v;
    ++counted;
    right += best == Index{expected(m)} ? 1 : 0;
  }
  return counted == 0 ? 0 : static_cast<double>(right) / static_cast<double>(counted);
}

}  // namespace ssm
