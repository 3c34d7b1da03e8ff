// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include "ssm/platform.hpp"

namespace ssm::cpu {

/// The threads of one context. They are started by the first call that needs them and end with the
/// pool. The caller works too, as worker 0. Parts are shared out evenly; a worker that is done
/// takes parts of the others, so that a core which is busy with something else does fewer. Between
/// parts a worker offers its core to others from time to time, so that the system seldom takes it
/// in the middle of a part, which the call would wait for. Whoever has nothing to do waits for some
/// microseconds and then sleeps. A child made by fork() starts
/// threads of its own. One call at a time; a call from inside a part runs on its own thread.
class ThreadPool {
 public:
  /// call(of, part, worker) does one part; a worker does one part at a time.
  struct Task {
    void (*call)(void* of, int part, int worker);
    void* of;
  };
  static constexpr int max_workers = 1024;
  static constexpr int max_parts = 0xffff;

  ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { dismiss(); }

  /// Does parts 0 … parts−1 once each on at most `workers` threads. Throws what a part threw; then
  /// some may not be done.
  void run(int workers, int parts, Task task) {
    workers = is_running_ ? 1 : std::min({workers, parts, max_workers});
    if (workers > 1) workers = hire(workers);
    if (workers <= 1) {
      for (int part = 0; part < parts; ++part) task.call(task.of, part, 0);
      return;
    }
    is_running_ = true;
    crew_->run(workers, parts, task);
    is_running_ = false;
    if (crew_->error == nullptr) return;
    const std::exception_ptr error = crew_->error;
    crew_->error = nullptr;
    std::rethrow_exception(error);
  }

 private:
  /// How long to wait without giving the core away: about what it costs to sleep and be woken.
  static constexpr std::int64_t spin_time = 50'000;  // ns
  /// How long to work without offering the core: less than the system lets a thread run while
  /// another waits.
  static constexpr std::int64_t turn_time = 1'000'000;  // ns

  struct Crew;

  /// One thread sleeps until another says that something has become true.
  class Event {
   public:
    template <class Condition>
    void wait(Condition&& is_ready) {
      signal_.lock();
      has_waiter_ = true;
      while (!is_ready()) signal_.wait();
      has_waiter_ = false;
      signal_.unlock();
    }
    /// After what the other waits for has become true. Costs a read where nobody sleeps.
    void notify() {
      if (!has_waiter_) return;
      signal_.lock();
      signal_.wake();
      signal_.unlock();
    }

   private:
    platform::Signal signal_;
    std::atomic<bool> has_waiter_{false};
  };

  /// A worker, and its parts of the present call.
  struct alignas(64) Worker {
    std::atomic<std::uint64_t> share{
        0};  // number of the call, workers that may take parts, parts left
    std::atomic<std::uint32_t> call{0};  // changes when there is something to do
    Event event;
    platform::Thread thread;
    Crew* crew = nullptr;
    int number = 0;
    std::int64_t turn_end = 0;  // when to offer the core
  };

  struct Crew {
    explicit Crew(int count) : size(count), workers(new Worker[static_cast<std::size_t>(count)]) {}
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;
    ~Crew() { delete[] workers; }

    const long process = platform::process();
    const int size;
    Worker* const workers;  // owned
    int hired = 1;
    std::uint32_t call = 0;
    int parts = 0;
    Task task{};
    std::atomic<int> unfinished{0};
    Event event;  // for the caller
    std::atomic<bool> has_failed{false};
    std::exception_ptr error;
    std::atomic<bool> is_over{false};

    /// Starts threads until there are `size` workers or the system refuses. They leave signals to
    /// the program's own.
    void hire() {
      const platform::WithoutSignals theirs;
      for (; hired < size; ++hired) {
        Worker& next = worker(hired);
        next.crew = this;
        next.number = hired;
        if (!next.thread.start(start, &next)) break;
      }
    }

    void dismiss() {
      is_over = true;
      for (int w = 1; w < hired; ++w) {
        ++worker(w).call;
        worker(w).event.notify();
        worker(w).thread.join();
      }
    }

    void run(int count, int part_count, Task what) {
      task = what;
      parts = part_count;
      has_failed = false;
      unfinished = part_count;
      ++call;
      for (int w = 0; w < count; ++w) {
        const auto left = static_cast<std::uint64_t>(end_of(w, count) - end_of(w - 1, count));
        worker(w).share =
            std::uint64_t{call} << 32 | static_cast<std::uint64_t>(count) << 16 | left;
      }
      for (int w = 1; w < count; ++w) {
        worker(w).call = call;
        worker(w).event.notify();
      }
      take(0);
      const auto is_done = [this] { return unfinished == 0; };
      if (!spin(is_done)) event.wait(is_done);
    }

    Worker& worker(int w) const { return workers[w]; }
    int end_of(int w, int count) const { return parts * (w + 1) / count; }

    /// Does the worker's own parts, then what the others have not begun. The caller does not offer
    /// its core: what lies between calls waits for it alone.
    void take(int self) {
      int done = 0;
      for (int i = 0; i < size; ++i) {
        const int owner = (self + i) % size;
        while (const std::uint64_t share = take_from(worker(owner).share, self)) {
          const int count = static_cast<int>(share >> 16 & 0xffff);
          do_part(end_of(owner, count) - static_cast<int>(share & 0xffff), self);
          ++done;
          if (self > 0 && now() >= worker(self).turn_end) {
            finish(done);
            done = 0;
            platform::yield();
            worker(self).turn_end = now() + turn_time;
          }
        }
      }
      finish(done);
    }
    void finish(int done) {
      if (done > 0 && unfinished.fetch_sub(done) == done) event.notify();
    }

    /// The share as it was before a part was taken from it, or 0. What is taken belongs to a call
    /// that waits for it; whoever comes late finds nothing, or a share of the next call.
    static std::uint64_t take_from(std::atomic<std::uint64_t>& share, int self) {
      std::uint64_t seen = share;
      while ((seen & 0xffff) != 0 && self < static_cast<int>(seen >> 16 & 0xffff))
        if (share.compare_exchange_weak(seen, seen - 1)) return seen;
      return 0;
    }

    void do_part(int part, int self) {
      if (has_failed) return;
      try {
        task.call(task.of, part, self);
      } catch (...) {
        if (!has_failed.exchange(true)) error = std::current_exception();
      }
    }

    static void* start(void* worker) {
      const Worker& self = *static_cast<const Worker*>(worker);
      self.crew->work(self.number);
      return nullptr;
    }
    void work(int self) {
      Worker& mine = worker(self);
      for (std::uint32_t seen = 0;;) {
        const auto is_called = [&] { return mine.call != seen; };
        if (!spin(is_called)) mine.event.wait(is_called);
        seen = mine.call;
        if (is_over) return;
        take(self);
      }
    }
  };

  /// Sees to it that there are workers enough; returns how many there are, at most `workers`.
  int hire(int workers) {
    if (crew_ == nullptr || crew_->process != platform::process() || crew_->size < workers) {
      dismiss();
      crew_ = new Crew(workers);
      crew_->hire();
    }
    return std::min(workers, crew_->hired);
  }

  void dismiss() {
    // One of the parent's stays where it is: its threads are not here and cannot be joined.
    if (crew_ != nullptr && crew_->process == platform::process()) {
      crew_->dismiss();
      delete crew_;
    }
    crew_ = nullptr;
  }

  /// Whether `is_ready` became true within the time that is worth waiting without giving the core
  /// away.
  template <class Condition>
  static bool spin(Condition&& is_ready) {
    const std::int64_t end = now() + spin_time;
    do {
      for (int i = 0; i < 16; ++i) {
        if (is_ready()) return true;
        pause();
      }
    } while (now() < end);
    return false;
  }
  static std::int64_t now() { return platform::now(); }  // ns
  /// Lets the other thread of a core go first.
  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  Crew* crew_ = nullptr;  // owned; std::unique_ptr takes long to compile
  bool is_running_ = false;
};

}  // namespace ssm::cpu
