// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/laws/doctest.hpp"
#include "ssm/layer/runs_on.hpp"
#include "support/backends.hpp"

namespace ssm::laws {

/// Every law for one layer on every backend under test that it runs on, in every scalar.
template <class L>
void check_on_every_backend(const L& layer) {
  for_each_backend([&]<class B>(const char*) {
    if constexpr (RunsOn<L, B>) check_every_law<B>(layer);
  });
}

/// The laws about blocking, threads and memory, on every backend under test but the oracle.
template <class L>
void check_laws_at_scale(const L& layer) {
  for_each_backend([&]<class B>(const char*) {
    if constexpr (!std::is_same_v<B, Reference>) check(laws_at_scale_against<Reference, B>(layer));
  });
}

}  // namespace ssm::laws
