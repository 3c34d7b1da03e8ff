// SPDX-License-Identifier: Apache-2.0
// What all sources of the laws have in common, optimized: of a function that several objects define
// the linker takes the first it meets, and this object is linked before the others.
#include <ssm_compiled_primitives.hpp>
//
#include "ssm/layer/norm.hpp"
#include "support/check_layer.hpp"

namespace ssm::laws {

void check_what_all_share() {
  const RmsNorm<4> layer;
  check_layer(layer);
  check_layer_in_half_types(layer);
}

}  // namespace ssm::laws
