// SPDX-License-Identifier: Apache-2.0
// The laws as checks of the doctest framework.
#pragma once

#include <doctest/doctest.h>

#include <vector>

#include "ssm/laws/check.hpp"

namespace ssm::laws {

inline void check(const std::vector<Finding>& findings) {
  REQUIRE(!findings.empty());
  for (const Finding& finding : findings) CHECK_MESSAGE(finding.holds, finding.text);
}

/// Every law on these backends, compared with Reference.
///   TEST_CASE("LeakySum obeys every law") {
///     ssm::laws::check_every_law<ssm::Reference, ssm::Cpu>(LeakySum<5>());
///   }
template <class... Backends, class L>
void check_every_law(const L& layer) {
  check(every_law_on<Backends...>(layer));
}

/// Every law on these backends, compared with an oracle that has the primitives that the layer
/// needs.
template <class Oracle, class... Backends, class L>
void check_every_law_against(const L& layer) {
  check(every_law_against<Oracle, Backends...>(layer));
}

}  // namespace ssm::laws
