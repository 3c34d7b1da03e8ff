// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/processors.hpp"

namespace ssm::cpu {

/// What a CPU context owns: how many threads it may use, and the FFT plans made so far.
///   ssm::Context<ssm::Cpu> ctx(ssm::cpu::Resources(4));
class Resources {
 public:
  Resources() : Resources(default_thread_count()) {}
  explicit Resources(int threads)
      : threads_(std::clamp(threads, 1, ThreadPool::max_workers)), owned_(new Owned) {}
  Resources(Resources&& other) noexcept : threads_(other.threads_), owned_(other.owned_) {
    other.owned_ = nullptr;
  }
  Resources& operator=(Resources&& other) noexcept {
    std::swap(threads_, other.threads_);
    std::swap(owned_, other.owned_);
    return *this;
  }
  ~Resources() { delete owned_; }

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
    const platform::Locked lock(owned_->mutex);
    for (const Entry* entry = owned_->plans; entry != nullptr; entry = entry->next)
      if (entry->type == &PlanEntry<Plan>::tag && entry->length == length &&
          entry->threads == threads_)
        return static_cast<const PlanEntry<Plan>*>(entry)->plan;
    auto* const made = new PlanEntry<Plan>(length, threads_);
    made->next = owned_->plans;
    owned_->plans = made;
    return made->plan;
  }

 private:
  struct Entry {
    virtual ~Entry() = default;
    const char* type;
    Index length;
    int threads;
    Entry* next = nullptr;
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
    Owned() = default;
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    ~Owned() {
      while (plans != nullptr) {
        Entry* const last = plans;
        plans = last->next;
        delete last;
      }
    }
    ThreadPool pool;
    platform::Mutex mutex;   // of the plans
    Entry* plans = nullptr;  // the latest; each has the one before
  };
  int threads_;
  Owned* owned_;  // std::unique_ptr takes long to compile
};

}  // namespace ssm::cpu
