// SPDX-License-Identifier: Apache-2.0
#include "language_models.hpp"
#include "ssm/backend/reference.hpp"

const std::vector<ssm::conformance::Kind>& ssm::conformance::reference_double_language_models() {
  return language_models<Reference, double>();
}
