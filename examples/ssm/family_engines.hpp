// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>

#include "engine.hpp"

namespace ssm::cli {

/// The engines of a family of models on each backend. A family is a struct as in h3_family.hpp; its sources
/// FAMILY_on_cpu.cpp and FAMILY_on_reference.cpp instantiate these, each in a program part of its own because they take
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

/// A model with fresh weights.
template <class Family>
std::unique_ptr<Engine> make_engine(const Machine& machine, const typename Family::Config& config,
                                    Seed seed) {
  return machine.backend == BackendKind::cpu
             ? CpuEngines<Family>::make(machine.threads, config, seed)
             : ReferenceEngines<Family>::make(config, seed);
}

/// A model from a folder.
template <class Family>
std::unique_ptr<Engine> load_engine(const Machine& machine, const std::filesystem::path& folder) {
  return machine.backend == BackendKind::cpu ? CpuEngines<Family>::load(machine.threads, folder)
                                             : ReferenceEngines<Family>::load(folder);
}

}  // namespace ssm::cli
