// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "ssm/core/communicator.hpp"
#include "ssm/core/sequence_cut.hpp"
#include "ssm/language_model.hpp"  // BackendOptions

namespace ssm::cli {

/// Calls command(ranks) with the processes that a launcher started together, or null for a process
/// alone. A rank whose command throws says why and ends its process; the launcher ends the others.
/// Where all ranks fail alike the first one is heard: the others wait before they speak.
/// backend  what the command runs on: with a device of its own for each rank, NCCL connects them,
///          and it gets that device
/// Throws   ArgumentError  where the processes cannot reach each other; cuda::Failure; and what the
///                         command of a process alone throws
void run_on_ranks(BackendOptions& backend, const std::function<void(Communicator*)>& command);

/// How windows that ranks share are computed, on every backend of this program.
const AcrossRanks& backends_across_ranks();

}  // namespace ssm::cli
