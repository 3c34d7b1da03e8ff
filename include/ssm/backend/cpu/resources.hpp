// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/processors.hpp"

namespace ssm::cpu {

/// What a CPU context owns: how many threads it may use, and the FFT plans made so far.
///   ssm::Context<ssm::Cpu> ctx(ssm::cpu::Resources(4));
class Resources {
 public:
  Resources() : Resources(default_thread_count()) {}
  explicit Resources(int threads)
      : threads_(std::clamp(threads, 1, ThreadPool::max_workers)),
        owned_(std::make_unique<Owned>()) {}

  Threads threads() const { return {threads_, owned_->pool}; }
  void set_threads(int threads) { threads_ = std::clamp(threads, 1, ThreadPool::max_workers); }

  /// Calls body(begin, end) for ranges that together are 0 … count−1, on the context's threads.
  template <class Body>
  void for_ranges(Index count, const Body& body) const {
    parallel(threads(), count, 1, [&](Range range, int) { body(range.begin, range.end); });
  }

  /// The plan of this type and length, made for all threads at the first call and kept; safe from
  /// any thread.
  template <class Plan>
  const Plan& plan(Index length) {
    const std::lock_guard lock(owned_->mutex);
    for (const auto& entry : owned_->plans)
      if (entry->type == &PlanEntry<Plan>::tag && entry->length == length &&
          entry->threads == threads_)
        return static_cast<const PlanEntry<Plan>&>(*entry).plan;
    auto made = std::make_unique<PlanEntry<Plan>>(length, threads_);
    const Plan& result = made->plan;
    owned_->plans.push_back(std::move(made));
    return result;
  }

 private:
  struct Entry {
    virtual ~Entry() = default;
    const char* type;
    Index length;
    int threads;
  };
  template <class Plan>
  struct PlanEntry : Entry {
    PlanEntry(Index n, int thread_count) : plan(n, thread_count) {
      this->type = &tag;
      this->length = n;
      this->threads = thread_count;
    }
    static constexpr char tag = 0;  // its address names the type without run-time type information
    Plan plan;
  };
  struct Owned {  // stays where it is when the resources are moved
    ThreadPool pool;
    std::mutex mutex;  // of the plans
    std::vector<std::unique_ptr<Entry>> plans;
  };
  int threads_;
  std::unique_ptr<Owned> owned_;
};

}  // namespace ssm::cpu
