// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include "ssm/backend/cpu/resources.hpp"

namespace ssm::cli {

int thread_count(const Machine& machine) {
  if (machine.backend != BackendKind::cpu) return 1;
  return (machine.threads > 0 ? cpu::Resources(machine.threads) : cpu::Resources()).threads();
}

}  // namespace ssm::cli
