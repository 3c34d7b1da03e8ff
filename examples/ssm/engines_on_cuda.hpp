// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine_on.hpp"
#include "family_engines.hpp"
#include "ssm/backend/cuda.hpp"

namespace ssm::cli {

inline cuda::Resources cuda_resources(BackendKind backend) {
  using enum cuda::MatmulPrecision;
  return cuda::Resources(Device{}, backend == BackendKind::cuda_tf32 ? tf32 : exact);
}

template <class Family>
std::unique_ptr<Engine> CudaEngines<Family>::make(BackendKind backend,
                                                  const typename Family::Config& config,
                                                  Seed seed) {
  return std::make_unique<EngineOn<Cuda, Family>>(cuda_resources(backend), config, seed);
}
template <class Family>
std::unique_ptr<Engine> CudaEngines<Family>::load(BackendKind backend,
                                                  const std::filesystem::path& folder) {
  return std::make_unique<EngineOn<Cuda, Family>>(cuda_resources(backend), folder);
}

}  // namespace ssm::cli
