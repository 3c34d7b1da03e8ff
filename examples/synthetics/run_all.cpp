// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "experiment.hpp"
#include "progress.hpp"  // duration_text
#include "run_folder.hpp"
#include "ssm/core/error.hpp"
#include "ssm/platform.hpp"
#include "stop_signal.hpp"

namespace synthetics {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// What a run throws out of its report when another run has failed.
struct Abandoned {};

/// The runs, who takes the next one, and how far they are.
class Pool {
 public:
  Pool(const Settings& settings, const Plan& plan,
       const std::function<void(const std::vector<Run>&)>& finished)
      : settings_(settings), plan_(plan), finished_(finished) {
    for (Index seed = 0; seed < plan.seeds; ++seed)
      for (const Index width : plan.widths)
        for (const std::string& model : plan.models) {
          Run run{.model = model, .seed = static_cast<std::uint64_t>(seed), .width = width};
          resume(settings, RunFolder(plan.folder, run), run);
          const bool is_done = run.is_finished(settings);
          done_ += is_done;
          slots_.push_back({.run = std::move(run), .is_done = is_done});
        }
    made_before_ = fraction();
  }

  void work() {
    for (;;) {
      Slot* slot = nullptr;
      {
        const std::lock_guard lock(mutex_);
        while (next_ < slots_.size() && slots_[next_].is_done) ++next_;
        if (next_ == slots_.size() || failure_ || signal_.is_received()) return;
        slot = &slots_[next_++];
        slot->is_running = true;
      }
      perform(*slot);
    }
  }

  /// Returns when all runs are done, one has failed, or a stop is wanted.
  void watch() {
    const bool is_terminal = ssm::platform::is_terminal(2);
    std::size_t shown = 0;
    std::unique_lock lock(mutex_);
    while (!failure_ && done_ < slots_.size() && !signal_.is_received()) {
      changed_.wait_for(lock, std::chrono::milliseconds(500));
      if (is_terminal)
        std::fprintf(stderr, "\r\033[K%s", progress().c_str());
      else if (percent() / 5 > shown)  // a file gets twenty lines
        std::fprintf(stderr, "%s\n", progress().c_str());
      shown = percent() / 5;
      std::fflush(stderr);
    }
    if (is_terminal) std::fputs("\r\033[K", stderr);
  }

  std::vector<Run> results() {
    if (failure_) std::rethrow_exception(failure_);
    return finished_runs();
  }

 private:
  struct Slot {
    Run run;
    bool is_running = false;
    bool is_done = false;
  };

  void perform(Slot& slot) {
    const auto start = Clock::now();
    const double seconds = slot.run.seconds;  // before it was stopped
    const RunFolder folder(plan_.folder, slot.run);
    try {
      const Data data = make_data(settings_, slot.run.seed);
      Settings settings = settings_;
      settings.width = slot.run.width;
      const Course course{
          .state = folder.state(),
          .epochs = static_cast<Index>(slot.run.epochs.size()),
          .report =
              [&](Epoch epoch) {
                const std::lock_guard lock(mutex_);
                if (failure_) throw Abandoned();
                slot.run.epochs.push_back(epoch);
                slot.run.seconds = seconds + seconds_since(start);
                changed_.notify_one();
              },
          .before_keeping = [&] { folder.write(settings_, slot.run); },
          .is_stop_wanted =
              [&] { return signal_.is_received() || slot.run.is_finished(settings_); }};
      model_named(slot.run.model).train(settings, data, slot.run.seed, course);
      const std::lock_guard lock(mutex_);
      slot.is_running = false;
      slot.is_done = slot.run.is_finished(settings_);
      if (!slot.is_done) return;
      folder.finish(settings_, slot.run);
      ++done_;
      finished_(finished_runs());
    } catch (const Abandoned&) {
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex_);
      if (!failure_)
        failure_ = std::make_exception_ptr(ssm::Error(
            slot.run.model + " from seed " + std::to_string(slot.run.seed) + ": " + error.what()));
    }
    changed_.notify_one();
  }

  std::vector<Run> finished_runs() const {
    std::vector<Run> runs;
    for (const Slot& slot : slots_)
      if (slot.is_done) runs.push_back(slot.run);
    return runs;
  }

  double fraction() const {
    Index epochs = 0;
    for (const Slot& slot : slots_)
      epochs += slot.is_done ? settings_.epochs : static_cast<Index>(slot.run.epochs.size());
    return static_cast<double>(epochs) /
           (static_cast<double>(settings_.epochs) * static_cast<double>(slots_.size()));
  }
  std::size_t percent() const { return static_cast<std::size_t>(100 * fraction()); }

  /// "1/6 runs  h3 #0: epoch 34/200, 46.2 %  s4d #0: epoch 41/200, 40.0 %  ETA 8:20"
  std::string progress() const {
    std::string text = std::to_string(done_) + "/" + std::to_string(slots_.size()) + " runs";
    for (const Slot& slot : slots_) {
      if (!slot.is_running || slot.run.epochs.empty()) continue;
      char numbers[64];
      std::snprintf(numbers, sizeof(numbers), "%zu/%td, %.1f %%", slot.run.epochs.size(),
                    settings_.epochs, 100 * slot.run.epochs.back().accuracy);
      text += "  " + slot.run.model;
      if (settings_.task == "mqar") text += " " + std::to_string(slot.run.width);
      text += " #" + std::to_string(slot.run.seed) + ": epoch " + numbers;
    }
    const double done = fraction(), made = done - made_before_;
    if (made > 0)
      text += "  ETA " + ssm::cli::duration_text(seconds_since(start_) * (1 - done) / made);
    return text;
  }

  const Settings& settings_;
  const Plan& plan_;
  const ssm::cli::StopSignal signal_;
  const std::function<void(const std::vector<Run>&)>& finished_;
  const Clock::time_point start_ = Clock::now();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Slot> slots_;
  std::size_t next_ = 0;
  std::size_t done_ = 0;
  double made_before_ = 0;  // part of all epochs
  std::exception_ptr failure_;
};

}  // namespace

std::vector<Run> run_all(const Settings& settings, const Plan& plan,
                         const std::function<void(const std::vector<Run>&)>& finished) {
  Pool pool(settings, plan, finished);
  std::vector<std::thread> workers;
  for (Index job = 0; job < plan.jobs; ++job) workers.emplace_back([&] { pool.work(); });
  if (plan.jobs > 0) pool.watch();
  for (std::thread& worker : workers) worker.join();
  return pool.results();
}

}  // namespace synthetics
