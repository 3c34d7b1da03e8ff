// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "ssm/core/communicator.hpp"

namespace ssm {

/// Ranks that are processes of MPI, as mpirun and srun start them.
///   const auto ranks = ssm::Mpi::world();
///   ssm::LanguageModelTrainer trainer(ctx, layer, parameters, {.ranks = ranks.get()});
/// A program that links the component ssm::mpi. MPI is begun with the first world, if it is not yet
/// begun, and then ended with it; a world that goes while an exception is on its way leaves that to
/// the launcher, which ends the other processes.
class Mpi final : public Communicator {
 public:
  /// All processes that were started together.
  /// patience   how long a rank waits for another
  static std::unique_ptr<Mpi> world(std::chrono::milliseconds patience = std::chrono::minutes(10)) {
    int is_begun = 0;
    MPI_Initialized(&is_begun);
    int level = 0;
    if (!is_begun && MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
      throw CommunicationError("MPI cannot be begun");
    return std::unique_ptr<Mpi>(
        new Mpi(MPI_COMM_WORLD, patience, is_begun ? Owner::nobody : Owner::world));
  }
  ~Mpi() override {
    const bool is_failing = std::uncaught_exceptions() > exceptions_;
    if (owner_ == Owner::part && !is_failing) MPI_Comm_free(&ranks_);
    if (owner_ == Owner::world && !is_failing) MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void sum(std::span<float> elements) override { sum_of(elements, MPI_FLOAT); }
  void sum(std::span<double> elements) override { sum_of(elements, MPI_DOUBLE); }

  void exchange(std::span<const std::byte> sent, int to, std::span<std::byte> received,
                int from) override {
    const std::size_t longest = std::max(sent.size(), received.size());
    for (std::size_t begin = 0; begin == 0 || begin < longest; begin += largest_message) {
      std::array<MPI_Request, 2> requests{MPI_REQUEST_NULL, MPI_REQUEST_NULL};
      const std::span<const std::byte> out = part_of(sent, begin);
      const std::span<std::byte> in = part_of(received, begin);
      const auto has_part = [&](std::size_t size) { return begin == 0 || begin < size; };
      if (to >= 0 && has_part(sent.size()))
        require(MPI_Isend(out.data(), static_cast<int>(out.size()), MPI_BYTE, to, 0, ranks_,
                          &requests[0]));
      if (from >= 0 && has_part(received.size()))
        require(MPI_Irecv(in.data(), static_cast<int>(in.size()), MPI_BYTE, from, 0, ranks_,
                          &requests[1]));
      std::array<MPI_Status, 2> statuses{};
      wait(requests, statuses, from >= 0 ? from : to);
      if (from < 0 || !has_part(received.size())) continue;
      int bytes = 0;
      MPI_Get_count(&statuses[1], MPI_BYTE, &bytes);
      if (static_cast<std::size_t>(bytes) != in.size())
        throw CommunicationError(message({rank_text(from, size_), " sent ", bytes, " bytes where ",
                                          rank_text(rank_, size_), " expects ", in.size()}));
    }
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    for (std::size_t begin = 0; begin < bytes.size(); begin += largest_message) {
      const std::span<std::byte> part = part_of(bytes, begin);
      std::array<MPI_Request, 1> requests{MPI_REQUEST_NULL};
      std::array<MPI_Status, 1> statuses{};
      require(MPI_Ibcast(part.data(), static_cast<int>(part.size()), MPI_BYTE, root, ranks_,
                         &requests[0]));
      wait(requests, statuses, root == rank_ ? -1 : root);
    }
  }

  std::unique_ptr<Communicator> split(int color) override {
    MPI_Comm part = MPI_COMM_NULL;
    require(MPI_Comm_split(ranks_, color, rank_, &part));
    return std::unique_ptr<Communicator>(new Mpi(part, patience_, Owner::part));
  }

 private:
  enum class Owner { nobody, part, world };
  static constexpr std::size_t largest_message = std::size_t{1} << 30;  // bytes: counts are int

  Mpi(MPI_Comm ranks, std::chrono::milliseconds patience, Owner owner)
      : ranks_(ranks), patience_(patience), owner_(owner) {
    MPI_Comm_set_errhandler(ranks_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(ranks_, &rank_);
    MPI_Comm_size(ranks_, &size_);
  }

  template <class T>
  static std::span<T> part_of(std::span<T> all, std::size_t begin) {
    begin = std::min(begin, all.size());
    return all.subspan(begin, std::min(largest_message, all.size() - begin));
  }
  template <class T>
  void sum_of(std::span<T> elements, MPI_Datatype type) {
    constexpr std::size_t most = largest_message / sizeof(T);
    for (std::size_t begin = 0; begin < elements.size(); begin += most) {
      const std::span<T> part = elements.subspan(begin, std::min(most, elements.size() - begin));
      std::array<MPI_Request, 1> requests{MPI_REQUEST_NULL};
      std::array<MPI_Status, 1> statuses{};
      require(MPI_Iallreduce(MPI_IN_PLACE, part.data(), static_cast<int>(part.size()), type,
                             MPI_SUM, ranks_, &requests[0]));
      wait(requests, statuses, -1);
    }
  }
  /// Asks again and again, at first without a pause, and no longer than patience lasts.
  template <std::size_t N>
  void wait(std::array<MPI_Request, N>& requests, std::array<MPI_Status, N>& statuses,
            int from) const {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    for (int attempt = 0;; ++attempt) {
      int is_done = 0;
      require(MPI_Testall(static_cast<int>(N), requests.data(), &is_done, statuses.data()));
      if (is_done) return;
      if (attempt < 200) continue;  // on a busy machine a yield would cost more than a sleep
      if (Clock::now() - begin > patience_)
        throw CommunicationError(
            message({rank_text(rank_, size_), ": nothing has come from ",
                     from < 0 ? std::string("some other rank") : rank_text(from, size_), " for ",
                     patience_.count() / 1000, " seconds"}));
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
  void require(int code) const {
    if (code == MPI_SUCCESS) return;
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    MPI_Error_string(code, text.data(), &length);
    throw CommunicationError(rank_text(rank_, size_) + ": " +
                             std::string(text.data(), static_cast<std::size_t>(length)));
  }

  MPI_Comm ranks_;
  std::chrono::milliseconds patience_;
  Owner owner_;
  int rank_ = 0;
  int size_ = 1;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace ssm
