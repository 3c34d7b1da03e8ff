// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>

#include "engine.hpp"
#include "ssm/io/model_family.hpp"

namespace ssm::cli {

/// The engines of a family of models on each backend. A family is a struct as in h3_family.hpp; its sources
/// FAMILY_on_cpu.cpp, FAMILY_on_reference.cpp and FAMILY_on_cuda.cpp instantiate these, each in a program part of its own because they take
/// long to compile.
template <class Family>
struct CpuEngines {
  static std::unique_ptr<Engine> make(int threads, const typename Family::Config& config,
                                      Seed seed);
  static std::unique_ptr<Engine> load(int threads, const std::filesystem::path& folder);
};
template <class Family>
struct ReferenceEngines {
  static std::unique_ptr<Engine> make(const typename Family::Config& config, Seed seed);
  static std::unique_ptr<Engine> load(const std::filesystem::path& folder);
};
/// Only of families that say `runs_on_cuda`, in programs that are built with ssm::cuda.
template <class Family>
struct CudaEngines {
  static std::unique_ptr<Engine> make(BackendKind backend, const typename Family::Config& config,
                                      Seed seed);
  static std::unique_ptr<Engine> load(BackendKind backend, const std::filesystem::path& folder);
};

template <class Family>
void require_cuda() {
#ifdef SSM_WITH_CUDA
  if (!Family::runs_on_cuda)
    throw ArgumentError("models of the family '" + std::string(name_of(Family::kind)) +
                        "' do not run on the cuda backend");
#else
  throw ArgumentError("this program was built without CUDA: configure it with SSM_BUILD_CUDA=ON");
#endif
}

/// A model with fresh weights.
template <class Family>
std::unique_ptr<Engine> make_engine(const Machine& machine, const typename Family::Config& config,
                                    Seed seed) {
  if (machine.backend == BackendKind::cpu)
    return CpuEngines<Family>::make(machine.threads, config, seed);
  if (machine.backend == BackendKind::reference)
    return ReferenceEngines<Family>::make(config, seed);
  require_cuda<Family>();
#ifdef SSM_WITH_CUDA
  if constexpr (Family::runs_on_cuda)
    return CudaEngines<Family>::make(machine.backend, config, seed);
#endif
  return nullptr;
}

/// A model from a folder.
template <class Family>
std::unique_ptr<Engine> load_engine(const Machine& machine, const std::filesystem::path& folder) {
  if (machine.backend == BackendKind::cpu) return CpuEngines<Family>::load(machine.threads, folder);
  if (machine.backend == BackendKind::reference) return ReferenceEngines<Family>::load(folder);
  require_cuda<Family>();
#ifdef SSM_WITH_CUDA
  if constexpr (Family::runs_on_cuda) return CudaEngines<Family>::load(machine.backend, folder);
#endif
  return nullptr;
}

}  // namespace ssm::cli
