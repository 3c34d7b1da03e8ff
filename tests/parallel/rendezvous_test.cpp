// SPDX-License-Identifier: Apache-2.0
#include "ssm/parallel/rendezvous.hpp"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace ssm::test {
namespace {

using namespace std::chrono_literals;

std::string reason_of(const auto& run) {
  try {
    run();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

/// A port that is free, as far as one can know.
int free_port() {
  for (int port = 20000 + static_cast<int>(::getpid()) % 20000;; ++port)
    if (detail::Socket::listen("127.0.0.1", port)) return port;
}

MeetingPlace place_of(const std::map<std::string, const char*>& environment) {
  return meeting_place([&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second;
  });
}

TEST_CASE("a launcher's environment says where its processes meet") {
  std::map<std::string, const char*> environment{{"MASTER_ADDR", "node7"},
                                                 {"MASTER_PORT", "29500"}};
  CHECK(place_of(environment).host == "node7");
  CHECK(place_of(environment).port == 29500);
  environment["TORCHELASTIC_USE_AGENT_STORE"] = "True";  // torchrun listens there itself
  environment["TORCHELASTIC_RUN_ID"] = "run";
  CHECK(place_of(environment).port == 29501);
  CHECK(place_of(environment).run == "run");
  environment["SSM_PORT"] = "31000";
  CHECK(place_of(environment).port == 31000);
  environment["SSM_PORT"] = "65536";
  CHECK(reason_of([&] { place_of(environment); }) ==
        "the environment has SSM_PORT=65536, which is no port");

  environment = {{"SLURM_JOB_ID", "4123456"}, {"SLURM_STEP_ID", "2"}};
  for (const auto& [nodes, first] : {std::pair("gpu[03-05,9]", "gpu03"), std::pair("a7", "a7"),
                                     std::pair("a7,b2", "a7"), std::pair("n[4,6]", "n4")}) {
    environment["SLURM_STEP_NODELIST"] = nodes;
    CHECK(place_of(environment).host == first);
  }
  CHECK(place_of(environment).port == 20000 + 3456);
  CHECK(place_of(environment).run == "4123456.2");
  CHECK(reason_of([] { place_of({}); }) ==
        "the processes of this run do not know where to meet: set MASTER_ADDR and MASTER_PORT, the "
        "machine of the first one and a free port");
}

TEST_CASE("processes meet, and all learn what the first one tells") {
  const MeetingPlace place{.host = "127.0.0.1", .port = free_port(), .run = "a run"};
  constexpr int size = 3;
  std::array<std::array<std::byte, 128>, size> told{};
  told[0].fill(std::byte{42});
  std::array<std::atomic<bool>, size> is_alarmed{};
  std::vector<std::thread> ranks;
  for (int rank = size; rank-- > 0;)
    ranks.emplace_back([&, rank] {
      const auto own = static_cast<std::size_t>(rank);
      Rendezvous all(place, rank, size, 20s);
      all.broadcast(told[own]);
      all.watch([&, own](const std::string&) { is_alarmed[own] = true; });
      std::this_thread::sleep_for(30ms * rank);  // they end one after the other
    });
  // Strangers, and processes of another run, are not let in.
  std::this_thread::sleep_for(20ms);
  {
    const auto stranger = detail::Socket::connect(place.host, place.port, 1s);
    if (stranger) stranger.send(std::as_bytes(std::span("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")));
  }
  CHECK(reason_of([&] {
          Rendezvous(MeetingPlace{place.host, place.port, "other"}, 1, size, 1s);
        }).starts_with("rank 1 of 3: the first rank was not at 127.0.0.1, port "));
  for (auto& rank : ranks) rank.join();
  for (std::size_t rank = 0; rank < size; ++rank) {
    CHECK(told[rank] == told[0]);
    CHECK(!is_alarmed[rank]);
  }
}

TEST_CASE("a process that ends without a farewell is heard of by all others") {
  constexpr int size = 3;
  for (int ended = 0; ended < size; ++ended) {
    const MeetingPlace place{.host = "127.0.0.1", .port = free_port(), .run = ""};
    std::array<std::string, size> reasons;
    std::vector<std::thread> ranks;
    for (int rank = 0; rank < size; ++rank)
      ranks.emplace_back([&, rank] {
        std::atomic<bool> is_told = false;
        std::string& reason = reasons[static_cast<std::size_t>(rank)];
        try {
          Rendezvous all(place, rank, size, 20s);
          all.watch([&](const std::string& text) {
            reason = text;
            is_told = true;
          });
          if (rank == ended) throw std::runtime_error("the disk is full");
          for (int i = 0; i < 2000 && !is_told; ++i) std::this_thread::sleep_for(10ms);
        } catch (const std::runtime_error&) {
        }
      });
    for (auto& rank : ranks) rank.join();
    for (int rank = 0; rank < size; ++rank)
      if (rank != ended)
        CHECK(reasons[static_cast<std::size_t>(rank)] == rank_text(ended, size) + " has ended");
  }
}

TEST_CASE("a process that nobody comes to says so, and a port that is taken too") {
  const int port = free_port();
  CHECK(reason_of([&] {
          Rendezvous({"127.0.0.1", port, ""}, 0, 3, 50ms);
        }) == "2 of 3 ranks did not come to 127.0.0.1, port " + std::to_string(port) +
                  " within 0 seconds");
  CHECK(reason_of([&] {
          Rendezvous({"127.0.0.1", port, ""}, 2, 3, 50ms);
        }) == "rank 2 of 3: the first rank was not at 127.0.0.1, port " + std::to_string(port) +
                  " within 0 seconds");
  const auto taken = detail::Socket::listen("127.0.0.1", port);
  REQUIRE(taken);
  CHECK(reason_of([&] {
          Rendezvous({"127.0.0.1", port, ""}, 0, 3, 50ms);
        }) == "the ranks cannot meet at 127.0.0.1, port " + std::to_string(port) +
                  ": Address already in use; SSM_PORT names another port");
}

}  // namespace
}  // namespace ssm::test
