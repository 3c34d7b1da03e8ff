// SPDX-License-Identifier: Apache-2.0
// The primitives of the host's backends across ranks, for all sources of the laws.
#include <ssm_compiled_primitives.hpp>
//
#include "ssm/parallel/primitives_across_ranks.hpp"
#include "support/check_layer.hpp"

namespace ssm::laws {

const AcrossRanks& host_across_ranks() {
  static const auto all =
      PrimitivesAcrossRanks().add<Reference, float, double>().add<Cpu, float, double>();
  return all;
}

}  // namespace ssm::laws
