// SPDX-License-Identifier: Apache-2.0
#include "ranks.hpp"

#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "ssm/family/options.hpp"  // OptionError
#include "ssm/parallel/launched_rank.hpp"
#ifdef SSM_WITH_MPI
#include "ssm/parallel/mpi.hpp"
#endif

namespace ssm::cli {
namespace {

/// Null for a process alone.
std::unique_ptr<Communicator> launched_ranks() {
  const std::optional<LaunchedRank> here = launched_rank();
  if (!here || here->size == 1) return nullptr;
  const std::string started =
      message({here->launcher, " started ", here->size, " processes of this program"});
#ifdef SSM_WITH_MPI
  std::unique_ptr<Communicator> ranks = Mpi::world();
  if (ranks->size() == here->size) return ranks;
  throw ArgumentError(started + ", which MPI does not bring together: start them with mpirun, or " +
                      "with an srun that knows this MPI");
#else
  throw ArgumentError(started + ", which was built without MPI and cannot bring them together");
#endif
}

[[noreturn]] void end_rank(const Communicator& ranks, const char* reason, int status) {
  if (ranks.rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  std::cerr << "ssm: " << rank_text(ranks.rank(), ranks.size()) << ": " << reason << std::endl;
  std::_Exit(status);  // without a farewell to the others, for which MPI would wait
}

}  // namespace

void run_on_ranks(const std::function<void(Communicator*)>& command) {
  const std::unique_ptr<Communicator> ranks = launched_ranks();
  if (ranks == nullptr) return command(nullptr);
  try {
    command(ranks.get());
  } catch (const OptionError& error) {
    end_rank(*ranks, error.what(), 2);
  } catch (const std::exception& error) {
    end_rank(*ranks, error.what(), 1);
  }
}

}  // namespace ssm::cli
