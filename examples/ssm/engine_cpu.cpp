// SPDX-License-Identifier: Apache-2.0
#include "engines.hpp"
#include "ssm/backend/cpu.hpp"

namespace ssm::cli {
namespace {

cpu::Resources resources(int threads) {
  return threads > 0 ? cpu::Resources(threads) : cpu::Resources();
}

}  // namespace

std::unique_ptr<Engine> make_cpu_engine(int threads, const H3LanguageModelConfig& config,
                                        Seed seed) {
  return std::make_unique<EngineOn<Cpu>>(resources(threads), config, seed);
}
std::unique_ptr<Engine> load_cpu_engine(int threads, const std::filesystem::path& folder) {
  return std::make_unique<EngineOn<Cpu>>(resources(threads), folder);
}
int cpu_thread_count(int threads) { return resources(threads).threads(); }

}  // namespace ssm::cli
