// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>

#include "engine_on.hpp"

namespace ssm::cli {

std::unique_ptr<Engine> make_cpu_engine(int threads, const H3LanguageModelConfig& config,
                                        Seed seed);
std::unique_ptr<Engine> load_cpu_engine(int threads, const std::filesystem::path& folder);
int cpu_thread_count(int threads);

}  // namespace ssm::cli
