// SPDX-License-Identifier: Apache-2.0
#include "ranks.hpp"

#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "ssm/family/options.hpp"  // OptionError
#include "ssm/parallel/launched_rank.hpp"
#ifdef SSM_WITH_MPI
#include "ssm/parallel/mpi.hpp"
#endif
#ifdef SSM_WITH_CUDA
#include "ssm/backend/cuda/nccl.hpp"
#include "ssm/parallel/rendezvous.hpp"
#endif

namespace ssm::cli {
namespace {

/// What brought the processes together, and what they reach each other by.
struct LaunchedRanks {
  std::unique_ptr<Communicator> hosts;
#ifdef SSM_WITH_CUDA
  std::unique_ptr<Nccl> devices;
  std::unique_ptr<Rendezvous> meeting;
#endif
  Communicator* ranks() const {
#ifdef SSM_WITH_CUDA
    if (devices) return devices.get();
#endif
    return hosts.get();
  }
};

/// The processes of MPI; null where it does not know all that were started.
std::unique_ptr<Communicator> ranks_of_mpi([[maybe_unused]] const LaunchedRank& here) {
#ifdef SSM_WITH_MPI
  if (here.launcher == "torchrun") return nullptr;
  std::unique_ptr<Communicator> ranks = Mpi::world();
  if (ranks->size() == here.size) return ranks;
#endif
  return nullptr;
}

#ifdef SSM_WITH_CUDA
/// A device for each process of a machine, unless the launcher shows each its own alone.
void join_devices(const LaunchedRank& here, BackendOptions& backend, LaunchedRanks& all) {
  cuda::load_nccl();
  backend.device = cuda::device_count() == 1 ? 0 : here.local;
  cuda::NcclId id{};
  const auto bytes = std::as_writable_bytes(std::span(id));
  if (here.rank == 0) id = cuda::create_nccl_id();
  all.hosts = ranks_of_mpi(here);
  if (all.hosts) {
    all.hosts->broadcast(bytes, 0);
  } else {
    all.meeting = std::make_unique<Rendezvous>(meeting_place(), here.rank, here.size);
    all.meeting->broadcast(bytes);
  }
  all.devices = std::make_unique<Nccl>(id, here.rank, here.size, Device{backend.device});
  if (all.meeting)
    all.meeting->watch([&ranks = *all.devices](const std::string& reason) { ranks.end(reason); });
}
#endif

LaunchedRanks launched_ranks(const LaunchedRank& here, [[maybe_unused]] BackendOptions& backend) {
  LaunchedRanks all;
#ifdef SSM_WITH_CUDA
  if (backend.backend.starts_with("cuda")) {
    join_devices(here, backend, all);
    return all;
  }
#endif
  all.hosts = ranks_of_mpi(here);
  if (all.hosts) return all;
  const std::string started =
      message({here.launcher, " started ", here.size, " processes of this program"});
#ifdef SSM_WITH_MPI
  throw ArgumentError(started + ", which MPI does not bring together: start them with mpirun, or " +
                      "with an srun that knows this MPI; NCCL is for --backend cuda");
#else
  throw ArgumentError(started + ", which was built without MPI and cannot bring them together");
#endif
}

[[noreturn]] void end_rank(const LaunchedRank& here, const char* reason, int status) {
  if (here.rank > 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  std::cerr << "ssm: " << rank_text(here.rank, here.size) << ": " << reason << std::endl;
  std::_Exit(status);  // without a farewell to the others, for which MPI would wait
}

}  // namespace

void run_on_ranks(BackendOptions& backend, const std::function<void(Communicator*)>& command) {
  const std::optional<LaunchedRank> here = launched_rank();
  if (!here || here->size == 1) return command(nullptr);
  const LaunchedRanks all = launched_ranks(*here, backend);
  try {
    command(all.ranks());
  } catch (const OptionError& error) {
    end_rank(*here, error.what(), 2);
  } catch (const std::exception& error) {
    end_rank(*here, error.what(), 1);
  }
}

}  // namespace ssm::cli
