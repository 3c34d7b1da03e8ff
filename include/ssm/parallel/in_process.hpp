// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ssm/core/communicator.hpp"

namespace ssm {

/// Ranks that are threads of this process.
///   ssm::InProcess::run(4, [](ssm::Communicator& ranks) {
///     ssm::Context<ssm::Cpu> ctx(ssm::cpu::Resources(1));
///     …
///   });
/// Sums are taken in the order of ranks. What a rank throws ends the others' calls.
class InProcess final : public Communicator {
  /// What all ranks share, those of splits too: one lock, one reason to end.
  struct Hub {
    std::mutex mutex;
    std::condition_variable changed;
    std::string failure;  // why a rank has ended
    std::chrono::milliseconds patience{};
  };
  struct Group {
    std::shared_ptr<Hub> hub;
    int size = 0;
    std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> letters;  // by from and to
    int arrived = 0;
    std::size_t meetings = 0;
    std::vector<void*> published;
    std::vector<int> colors;
    std::map<int, std::shared_ptr<Group>> parts;  // of the split that is being made, by color
  };

 public:
  /// Calls body(communicator) on so many threads, and returns when all have ended.
  /// patience   how long a rank waits for another
  /// Throws     what the first rank that ended by an exception threw
  template <class Body>
  static void run(int ranks, const Body& body,
                  std::chrono::milliseconds patience = std::chrono::minutes(10)) {
    if (ranks < 1) throw ArgumentError(message({"InProcess: ", ranks, " ranks"}));
    const auto hub = std::make_shared<Hub>();
    hub->patience = patience;
    const auto group = make_group(hub, ranks);
    std::exception_ptr first;
    const auto run_rank = [&](int rank) {
      InProcess communicator(group, rank);
      const auto fail = [&](const std::string& reason) {
        const std::lock_guard lock(hub->mutex);
        if (!hub->failure.empty()) return;
        first = std::current_exception();
        hub->failure = rank_text(rank, ranks) + " has ended: " + reason;
        hub->changed.notify_all();
      };
      try {
        body(static_cast<Communicator&>(communicator));
      } catch (const std::exception& error) {
        fail(error.what());
      } catch (...) {
        fail("an exception of its own");
      }
    };
    std::vector<std::thread> threads;
    for (int rank = 1; rank < ranks; ++rank) threads.emplace_back(run_rank, rank);
    run_rank(0);
    for (std::thread& thread : threads) thread.join();
    if (first) std::rethrow_exception(first);
  }

  int rank() const override { return rank_; }
  int size() const override { return group_->size; }

  void sum(std::span<float> elements) override { sum_of(elements); }
  void sum(std::span<double> elements) override { sum_of(elements); }

  void exchange(std::span<const std::byte> sent, int to, std::span<std::byte> received,
                int from) override {
    std::unique_lock lock(group_->hub->mutex);
    require_running();
    if (to >= 0) {
      group_->letters[{rank_, to}].emplace_back(sent.begin(), sent.end());
      group_->hub->changed.notify_all();
    }
    if (from < 0) return;
    auto& letters = group_->letters[{from, rank_}];
    wait(
        lock, [&] { return !letters.empty(); }, from);
    const std::vector<std::byte> letter = std::move(letters.front());
    letters.pop_front();
    if (letter.size() != received.size())
      throw CommunicationError(
          message({rank_text(from, size()), " sent ", letter.size(), " bytes where ",
                   rank_text(rank_, size()), " expects ", received.size()}));
    std::copy(letter.begin(), letter.end(), received.begin());
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    publish(bytes.data());
    if (rank_ != root && !bytes.empty())
      std::memcpy(bytes.data(), group_->published[static_cast<std::size_t>(root)], bytes.size());
    meet();
  }

  std::unique_ptr<Communicator> split(int color) override {
    {
      const std::lock_guard lock(group_->hub->mutex);
      group_->colors[static_cast<std::size_t>(rank_)] = color;
    }
    meet();
    const auto& colors = group_->colors;
    std::shared_ptr<Group> part;
    {
      const std::lock_guard lock(group_->hub->mutex);
      part = group_->parts[color];
      if (!part)
        part = group_->parts[color] = make_group(
            group_->hub, static_cast<int>(std::count(colors.begin(), colors.end(), color)));
    }
    const auto rank = static_cast<int>(std::count(colors.begin(), colors.begin() + rank_, color));
    meet();
    if (rank_ == 0) group_->parts.clear();
    meet();
    return std::unique_ptr<Communicator>(new InProcess(std::move(part), rank));
  }

 private:
  InProcess(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  static std::shared_ptr<Group> make_group(const std::shared_ptr<Hub>& hub, int size) {
    auto group = std::make_shared<Group>();
    group->hub = hub;
    group->size = size;
    group->published.resize(static_cast<std::size_t>(size));
    group->colors.resize(static_cast<std::size_t>(size));
    return group;
  }

  /// Each rank sums its part of the elements and writes it to all.
  template <class T>
  void sum_of(std::span<T> elements) {
    publish(elements.data());
    const auto count = elements.size(), ranks = static_cast<std::size_t>(size());
    const auto own = static_cast<std::size_t>(rank_);
    for (std::size_t i = count * own / ranks; i < count * (own + 1) / ranks; ++i) {
      T total{};
      for (void* part : group_->published) total += static_cast<T*>(part)[i];
      for (void* part : group_->published) static_cast<T*>(part)[i] = total;
    }
    meet();
  }
  void publish(void* data) {
    {
      const std::lock_guard lock(group_->hub->mutex);
      group_->published[static_cast<std::size_t>(rank_)] = data;
    }
    meet();
  }
  /// Waits until all ranks are here.
  void meet() {
    std::unique_lock lock(group_->hub->mutex);
    require_running();
    const std::size_t meeting = group_->meetings;
    if (++group_->arrived == group_->size) {
      group_->arrived = 0;
      ++group_->meetings;
      group_->hub->changed.notify_all();
      return;
    }
    wait(
        lock, [&] { return group_->meetings != meeting; }, -1);
  }
  template <class Condition>
  void wait(std::unique_lock<std::mutex>& lock, const Condition& is_done, int from) {
    Hub& hub = *group_->hub;
    const bool in_time =
        hub.changed.wait_for(lock, hub.patience, [&] { return !hub.failure.empty() || is_done(); });
    if (in_time && is_done()) return;
    require_running();
    throw CommunicationError(
        message({rank_text(rank_, size()), ": nothing has come from ",
                 from < 0 ? std::string("some other rank") : rank_text(from, size()), " for ",
                 hub.patience.count() / 1000, " seconds"}));
  }
  void require_running() const {
    if (!group_->hub->failure.empty()) throw CommunicationError(group_->hub->failure);
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace ssm
