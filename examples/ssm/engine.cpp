// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include "engines.hpp"
#include "ssm/backend/reference.hpp"

namespace ssm::cli {

std::unique_ptr<Engine> make_engine(const Machine& machine, const H3LanguageModelConfig& config,
                                    Seed seed) {
  if (machine.backend == BackendKind::cpu) return make_cpu_engine(machine.threads, config, seed);
  return std::make_unique<EngineOn<Reference>>(Reference::Resources{}, config, seed);
}

std::unique_ptr<Engine> load_engine(const Machine& machine, const std::filesystem::path& folder) {
  if (machine.backend == BackendKind::cpu) return load_cpu_engine(machine.threads, folder);
  return std::make_unique<EngineOn<Reference>>(Reference::Resources{}, folder);
}

int thread_count(const Machine& machine) {
  return machine.backend == BackendKind::cpu ? cpu_thread_count(machine.threads) : 1;
}

}  // namespace ssm::cli
