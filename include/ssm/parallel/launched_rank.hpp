// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "ssm/core/communicator.hpp"

namespace ssm {

/// What a launcher says of this process.
struct LaunchedRank {
  int rank = 0;   // among all processes
  int size = 1;   // how many there are
  int local = 0;  // rank among those of this machine: the number of its device
  std::string_view launcher = {};
};

/// Reads it from the environment that mpirun (Open MPI, MPICH), srun or torchrun make; none where
/// the process was started alone.
/// variable   how a variable of the environment is read; null where there is none
/// Throws     ArgumentError  for variables that are no rank among a number of processes
template <class Variable>
std::optional<LaunchedRank> launched_rank(const Variable& variable) {
  struct Names {
    std::string_view launcher;
    const char *rank, *size, *local;
  };
  constexpr Names all[] = {
      {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
      {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"},
      {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"},
      {"mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"}};
  const auto number = [&](const char* name, int largest) -> std::optional<int> {
    const char* const value = variable(name);
    if (value == nullptr) return std::nullopt;
    const std::string_view text = value;
    int result = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
    if (error != std::errc() || end != text.data() + text.size() || result < 0 || result > largest)
      throw ArgumentError(message(
          {"the environment has ", name, "=", text, ", which is no rank or number of processes"}));
    return result;
  };
  constexpr int most = 1 << 24;
  for (const Names& names : all) {
    const auto size = number(names.size, most);
    if (!size || variable(names.rank) == nullptr) continue;
    const auto rank = number(names.rank, *size - 1);
    return LaunchedRank{.rank = *rank,
                        .size = *size,
                        .local = number(names.local, most).value_or(0),
                        .launcher = names.launcher};
  }
  return std::nullopt;
}
inline std::optional<LaunchedRank> launched_rank() {
  return launched_rank([](const char* name) { return std::getenv(name); });
}

}  // namespace ssm
