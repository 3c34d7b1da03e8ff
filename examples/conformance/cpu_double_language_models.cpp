// SPDX-License-Identifier: Apache-2.0
#include "language_models.hpp"
#include "ssm/backend/cpu.hpp"

const std::vector<ssm::conformance::Kind>& ssm::conformance::cpu_double_language_models() {
  return language_models<Cpu, double>();
}
