// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine_on.hpp"
#include "family_engines.hpp"
#include "ssm/backend/cpu.hpp"

namespace ssm::cli {

inline cpu::Resources cpu_resources(int threads) {
  return threads > 0 ? cpu::Resources(threads) : cpu::Resources();
}

template <class Family>
std::unique_ptr<Engine> CpuEngines<Family>::make(int threads, const typename Family::Config& config,
                                                 Seed seed) {
  return std::make_unique<EngineOn<Cpu, Family>>(cpu_resources(threads), config, seed);
}
template <class Family>
std::unique_ptr<Engine> CpuEngines<Family>::load(int threads, const std::filesystem::path& folder) {
  return std::make_unique<EngineOn<Cpu, Family>>(cpu_resources(threads), folder);
}

}  // namespace ssm::cli
