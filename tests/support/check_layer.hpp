// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/laws/doctest.hpp"
#include "ssm/layer/runs_on.hpp"
#include "support/backends.hpp"

namespace ssm::laws {

/// Every law for one layer on every backend under test that it runs on, in float and in double; on
/// the CUDA backend's loops in float, as they are the same in both.
template <class L>
void check_layer(const L& layer) {
  for_each_backend([&]<class B>(const char*) {
    if constexpr (RunsOn<L, B>) {
      if constexpr (std::is_same_v<B, Reference> || has_threads<B>)
        check_every_law<B>(layer);
      else
        check(every_law_in<Reference, B, float>(layer));
    }
  });
}

/// The same for other sizes and options of a layer that is checked so already: on Reference in
/// double and on Cuda in float, which is what takes less time to compile; on Cpu, whose vectors
/// differ, in both.
template <class L>
void check_variant(const L& layer) {
  for_each_backend([&]<class B>(const char*) {
    if constexpr (RunsOn<L, B>) {
      if constexpr (!std::is_same_v<B, Reference>) check(every_law_in<Reference, B, float>(layer));
      if constexpr (std::is_same_v<B, Reference> || has_vectors<B>)
        check(every_law_in<Reference, B, double>(layer));
    }
  });
}

/// Every law for what is made of layers: its own code is the same on every backend and in both
/// scalars. On Reference in double, where the gradients are held against differences, and in float
/// on the others.
template <class L>
void check_model(const L& model) {
  for_each_backend([&]<class B>(const char*) {
    using T = std::conditional_t<std::is_same_v<B, Reference>, double, float>;
    if constexpr (RunsOn<L, B>) check(every_law_in<Reference, B, T>(model));
  });
}

/// The laws about blocking, threads and memory, on the backends under test that have any: not on
/// the oracle, nor on loops.
template <class L>
void check_laws_at_scale(const L& layer) {
  for_each_backend([&]<class B>(const char*) {
    if constexpr (has_threads<B> && RunsOn<L, B>) {
      check(laws_at_scale_in<Reference, B, float>(layer));
      check(laws_at_scale_in<Reference, B, double>(layer));
    }
  });
}

}  // namespace ssm::laws
