// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/dropout.hpp"

namespace ssm::reference {

/// Dropout, one element at a time.
struct Dropout {
  template <class Ctx, Real T>
  static void dropout(Ctx&, const ssm::Dropout<T, typename Ctx::Space>& a) {
    const Random random(a.seed);
    for (Index i = 0; i < a.x.extent(0); ++i) {
      const bool kept = random.uniform(static_cast<std::uint64_t>(i)) >= a.probability;
      a.y(i) = kept ? static_cast<T>(a.x(i) / (1 - a.probability)) : T{0};
    }
  }
};

}  // namespace ssm::reference
