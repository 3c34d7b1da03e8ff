// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include "ssm/backend/cpu/resources.hpp"

namespace ssm::cli {

BackendKind backend_kind(std::string_view name) {
  if (name == "cpu") return BackendKind::cpu;
  if (name == "cuda") return BackendKind::cuda;
  if (name == "cuda-tf32") return BackendKind::cuda_tf32;
  if (name == "reference") return BackendKind::reference;
  throw ArgumentError("no backend is named '" + std::string(name) + "'");
}

int thread_count(const Machine& machine) {
  if (machine.backend != BackendKind::cpu) return 1;
  return (machine.threads > 0 ? cpu::Resources(machine.threads) : cpu::Resources()).threads();
}

}  // namespace ssm::cli
