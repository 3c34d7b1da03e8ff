// SPDX-License-Identifier: Apache-2.0
#include "kinds.hpp"
#include "ssm/backend/reference.hpp"

const std::vector<ssm::conformance::Kind>& ssm::conformance::reference_float_kinds() {
  return kinds<Reference, float>();
}
