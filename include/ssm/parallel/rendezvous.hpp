// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "ssm/core/communicator.hpp"
#include "ssm/parallel/socket.hpp"

namespace ssm {

/// Where the processes of a run find their first one.
struct MeetingPlace {
  std::string host;
  int port = 0;
  std::string run;  // what the launcher calls it: processes of another run are not let in
};

/// Reads it from the environment: MASTER_ADDR and MASTER_PORT, as torchrun makes them and scripts
/// for srun do; else the first node of a step of srun, at a port by the number of the job.
/// SSM_PORT is a port of its own. Where torchrun listens at MASTER_PORT itself, it is the one
/// behind.
/// variable   how a variable of the environment is read; null where there is none
/// Throws     ArgumentError  where nothing says so
template <class Variable>
MeetingPlace meeting_place(const Variable& variable) {
  const auto text = [&](const char* name) {
    const char* const value = variable(name);
    return std::string(value == nullptr ? "" : value);
  };
  const auto number = [&](const char* name, int largest) {
    const std::string value = text(name);
    int result = -1;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (error != std::errc() || end != value.data() + value.size() || result < 0 ||
        result > largest)
      throw ArgumentError(message({"the environment has ", name, "=", value, ", which is no ",
                                   largest == 65535 ? "port" : "number"}));
    return result;
  };
  MeetingPlace place{.host = text("MASTER_ADDR"), .run = text("TORCHELASTIC_RUN_ID")};
  if (place.run.empty()) place.run = text("SLURM_JOB_ID") + "." + text("SLURM_STEP_ID");
  if (!text("MASTER_PORT").empty()) {
    place.port = number("MASTER_PORT", 65535);
    if (text("TORCHELASTIC_USE_AGENT_STORE") == "True") place.port += place.port < 65535 ? 1 : -1;
  } else if (!text("SLURM_JOB_ID").empty()) {
    place.port = 20000 + number("SLURM_JOB_ID", 2147483647) % 20000;
  }
  if (!text("SSM_PORT").empty()) place.port = number("SSM_PORT", 65535);
  if (place.host.empty()) {  // node[03-05,7] or node03,node05: the first one
    std::string nodes = text("SLURM_STEP_NODELIST");
    const std::size_t end = nodes.find_first_of("[,");
    place.host = nodes.substr(0, end);
    if (end != std::string::npos && nodes[end] == '[') {
      const std::size_t last = nodes.find_first_of("-,]", end);
      if (last != std::string::npos) place.host += nodes.substr(end + 1, last - end - 1);
    }
  }
  if (place.host.empty() || place.port == 0)
    throw ArgumentError(
        "the processes of this run do not know where to meet: set MASTER_ADDR and MASTER_PORT, the "
        "machine of the first one and a free port");
  return place;
}
inline MeetingPlace meeting_place() {
  return meeting_place([](const char* name) { return std::getenv(name); });
}

/// Processes that were started together meet: all learn what the first one tells them, and each
/// hears when another ends without a farewell, which its end makes. Beside that nothing is sent:
/// this brings other communicators together.
///   ssm::Rendezvous all(ssm::meeting_place(), here.rank, here.size);
/// The first process listens, the others connect. Its end in an exception is no farewell.
class Rendezvous {
  using Time = std::chrono::milliseconds;

 public:
  /// patience   how long a process waits for the others
  /// Throws     CommunicationError
  Rendezvous(MeetingPlace place, int rank, int size, Time patience = std::chrono::minutes(2))
      : place_(std::move(place)), rank_(rank), size_(size), patience_(patience) {
    if (rank == 0)
      receive_others();
    else
      find_first();
  }
  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;
  ~Rendezvous() {
    is_over_ = true;
    if (watcher_.joinable()) watcher_.join();
    if (std::uncaught_exceptions() > exceptions_) return;
    for (const Peer& peer : peers_) send(peer.connection, {.kind = farewell, .rank = rank_});
  }

  /// Every process gets what the first one has.
  void broadcast(std::span<std::byte> bytes) {
    for (const Peer& peer : peers_) {
      const bool is_done =
          rank_ == 0 ? peer.connection.send(bytes) : peer.connection.receive(bytes);
      if (!is_done) throw CommunicationError(ended_text(peer.rank));
    }
  }

  /// From here on `ended(reason)` is called, once and on another thread, when a process ends
  /// without a farewell.
  void watch(std::function<void(const std::string& reason)> ended) {
    watcher_ = std::thread([this, ended = std::move(ended)] { keep_watch(ended); });
  }

 private:
  static constexpr std::uint32_t hello = 0x314d5353, welcome = 0x324d5353, farewell = 0x334d5353,
                                 has_ended = 0x344d5353;
  struct Note {
    std::uint32_t kind = 0;
    std::int32_t rank = 0, size = 0;
    std::uint32_t padding = 0;
    std::uint64_t run = 0;
  };
  struct Peer {
    detail::Socket connection;
    int rank = 0;
  };

  static bool send(const detail::Socket& to, const Note& note) {
    return to.send(std::as_bytes(std::span(&note, 1)));
  }
  static bool receive(const detail::Socket& from, Note& note) {
    return from.receive(std::as_writable_bytes(std::span(&note, 1)));
  }
  std::uint64_t run_number() const {
    std::uint64_t hash = 14695981039346656037u;  // FNV-1a
    for (const char c : place_.run) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
    return hash;
  }
  std::string place_text() const { return message({place_.host, ", port ", place_.port}); }
  std::string ended_text(int rank) const { return rank_text(rank, size_) + " has ended"; }
  std::string waiting_text() const {
    return message({" within ", patience_.count() / 1000, " seconds"});
  }

  void receive_others() {
    const auto end = std::chrono::steady_clock::now() + patience_;
    const detail::Socket place = detail::Socket::listen(place_.host, place_.port);
    if (!place)
      throw CommunicationError(
          message({"the ranks cannot meet at ", place_text(), ": ",
                   std::generic_category().message(errno), "; SSM_PORT names another port"}));
    while (static_cast<int>(peers_.size()) + 1 < size_) {
      const auto left = std::chrono::duration_cast<Time>(end - std::chrono::steady_clock::now());
      if (left.count() <= 0)
        throw CommunicationError(
            message({size_ - 1 - static_cast<int>(peers_.size()), " of ", size_,
                     " ranks did not come to ", place_text(), waiting_text()}));
      detail::Socket connection = place.accept(left);
      if (!connection) continue;
      connection.limit(std::chrono::seconds(5));  // strangers may say nothing
      Note note;
      const bool is_ours =
          receive(connection, note) && note.kind == hello && note.size == size_ &&
          note.run == run_number() && note.rank > 0 && note.rank < size_ &&
          std::ranges::none_of(peers_, [&](const Peer& peer) { return peer.rank == note.rank; });
      if (!is_ours || !send(connection, {.kind = welcome, .size = size_})) continue;
      connection.limit(patience_);
      peers_.push_back({std::move(connection), note.rank});
    }
  }
  void find_first() {
    const auto end = std::chrono::steady_clock::now() + patience_;
    while (true) {
      detail::Socket connection =
          detail::Socket::connect(place_.host, place_.port, std::chrono::seconds(10));
      Note note{.kind = hello, .rank = rank_, .size = size_, .run = run_number()};
      if (connection && send(connection, note) && receive(connection, note) &&
          note.kind == welcome) {
        connection.limit(patience_);
        peers_.push_back({std::move(connection), 0});
        return;
      }
      if (std::chrono::steady_clock::now() > end)
        throw CommunicationError(message({rank_text(rank_, size_), ": the first rank was not at ",
                                          place_text(), waiting_text()}));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }

  void keep_watch(const std::function<void(const std::string&)>& ended) {
    std::vector<bool> is_gone(peers_.size());
    while (!is_over_) {
      bool is_quiet = true;
      for (std::size_t i = 0; i < peers_.size(); ++i) {
        const Peer& peer = peers_[i];
        if (is_gone[i] || !peer.connection.is_ready(Time(0))) continue;
        is_quiet = false;
        is_gone[i] = true;  // each says one thing
        Note note;
        const bool has_spoken = receive(peer.connection, note);
        if (has_spoken && note.kind == farewell) continue;
        const int rank = has_spoken && note.kind == has_ended ? note.rank : peer.rank;
        if (rank_ == 0)
          for (std::size_t other = 0; other < peers_.size(); ++other)
            if (!is_gone[other]) send(peers_[other].connection, {.kind = has_ended, .rank = rank});
        return ended(ended_text(rank));
      }
      if (is_quiet) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }

  MeetingPlace place_;
  int rank_, size_;
  Time patience_;
  std::vector<Peer> peers_;  // the first one has all, the others have it
  std::thread watcher_;
  std::atomic<bool> is_over_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace ssm
