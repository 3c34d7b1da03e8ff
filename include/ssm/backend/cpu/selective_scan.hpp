// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/selective_scan_backward.hpp"
#include "ssm/backend/cpu/selective_scan_forward.hpp"

namespace ssm::cpu {

/// ssm::selective_scan: by channels for a sequence, by states for a single position.
template <class Arch>
struct SelectiveScan {
  template <class Ctx, Real T>
  static void selective_scan(Ctx& ctx, const ssm::SelectiveScan<T, typename Ctx::Space>& a) {
    if (a.u.extent(1) == 1 && a.segments.empty())
      SelectiveScanStep<T, Arch>::run(ctx, a);
    else
      SelectiveScanForward<T, Arch>::run(ctx, a);
  }

  template <class Ctx, Real T>
  static void selective_scan_backward(Ctx& ctx,
                                      const ssm::SelectiveScanBackward<T, typename Ctx::Space>& g) {
    SelectiveScanBackward<T, Arch>::run(ctx, g);
  }
};

}  // namespace ssm::cpu
