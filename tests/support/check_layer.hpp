// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <type_traits>

#include "support/backends.hpp"
#include "support/layer_laws.hpp"
#include "support/layer_on.hpp"

namespace ssm::laws {

/// Every law for one layer on every backend in every scalar.
template <class L>
void check_every_law(const L& layer, StatesWhenPacked states = StatesWhenPacked::one_each) {
  for_each_backend_and_scalar([&]<class B, class T>(const char* name) {
    LayerOn<L, B, T> subject(layer, name, states);
    LayerOn<L, Reference, double> reference(layer, "reference", states);
    for (const Report& report : every_law(subject, reference))
      CHECK_MESSAGE(report.holds, describe(report, subject.name()));
  });
}

/// The laws that large operands could break: those about blocking, threads and memory. For layers that are too large for
/// the others to be checked in reasonable time.
template <class L>
void check_laws_at_scale(const L& layer) {
  for_each_backend_and_scalar([&]<class B, class T>(const char* name) {
    if constexpr (!std::is_same_v<B, Reference>) {
      LayerOn<L, B, T> subject(layer, name);
      LayerOn<L, Reference, double> reference(layer, "reference");
      for (const Report& report :
           {backends_agree(subject, reference, {{2, 65}}), step_allocates_nothing(subject),
            same_seed_gives_same_bits(subject)})
        CHECK_MESSAGE(report.holds, describe(report, subject.name()));
    }
  });
}

}  // namespace ssm::laws
