// SPDX-License-Identifier: Apache-2.0
#include "kinds.hpp"
#include "ssm/backend/cpu.hpp"

const std::vector<ssm::conformance::Kind>& ssm::conformance::cpu_double_kinds() {
  return kinds<Cpu, double>();
}
