// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine_on.hpp"
#include "family_engines.hpp"
#include "ssm/backend/cuda.hpp"

namespace ssm::cli {

template <class Family>
std::unique_ptr<Engine> CudaEngines<Family>::make(const typename Family::Config& config,
                                                  Seed seed) {
  return std::make_unique<EngineOn<Cuda, Family>>(cuda::Resources(), config, seed);
}
template <class Family>
std::unique_ptr<Engine> CudaEngines<Family>::load(const std::filesystem::path& folder) {
  return std::make_unique<EngineOn<Cuda, Family>>(cuda::Resources(), folder);
}

}  // namespace ssm::cli
