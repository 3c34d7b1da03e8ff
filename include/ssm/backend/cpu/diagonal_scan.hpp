// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/diagonal_scan_backward.hpp"
#include "ssm/backend/cpu/diagonal_scan_forward.hpp"
#include "ssm/backend/cpu/diagonal_scan_step.hpp"
#include "ssm/op/diagonal_scan.hpp"

namespace ssm::cpu {

/// ssm::diagonal_scan: by channels for a sequence, by modes for a single position. Real modes run
/// as complex ones whose imaginary parts are zero: half as much code to compile.
template <class Arch>
struct DiagonalScan {
  template <class Ctx, Real T>
  static void diagonal_scan(Ctx& ctx, const ssm::DiagonalScan<T, typename Ctx::Space>& a) {
    const bool one_position = a.x.extent(1) == 1 && a.segments.empty();
    if (one_position)
      DiagonalScanStep<T, Arch>::run(ctx, a);
    else
      DiagonalScanForward<T, Arch>::run(ctx, a);
  }

  template <class Ctx, Real T>
  static void diagonal_scan_backward(Ctx& ctx,
                                     const ssm::DiagonalScanBackward<T, typename Ctx::Space>& g) {
    DiagonalScanBackward<T, Arch>::run(ctx, g);
  }
};

}  // namespace ssm::cpu
