// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/laws/doctest.hpp"
#include "ssm/layer/runs_on.hpp"
#include "support/backends.hpp"

namespace ssm::laws {

/// Every law for one layer on every backend under test that it runs on, in float and in double.
template <class L>
void check_layer(const L& layer) {
  for_each_backend([&]<class B>(const char*) {
    if constexpr (RunsOn<L, B>) check_every_law<B>(layer);
  });
}

/// Every law for what is made of layers. Its code is the same in both scalars, and its primitives have been checked with the
/// layers: Reference in double and the CUDA backend in float are enough, which halves the time to compile them.
template <class L>
void check_model(const L& model) {
  for_each_backend([&]<class B>(const char*) {
    if constexpr (RunsOn<L, B>) {
      if constexpr (!std::is_same_v<B, Reference>) check(every_law_in<Reference, B, float>(model));
      if constexpr (std::is_same_v<B, Reference> || has_every_scalar<B>)
        check(every_law_in<Reference, B, double>(model));
    }
  });
}

/// The laws about blocking, threads and memory, on every backend under test but the oracle.
template <class L>
void check_laws_at_scale(const L& layer) {
  for_each_backend([&]<class B>(const char*) {
    if constexpr (!std::is_same_v<B, Reference> && RunsOn<L, B>) {
      check(laws_at_scale_in<Reference, B, float>(layer));
      check(laws_at_scale_in<Reference, B, double>(layer));
    }
  });
}

}  // namespace ssm::laws
