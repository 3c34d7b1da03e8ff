// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ssm/backend/cpu.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/layer/h3.hpp"
#include "support/temporary_folder.hpp"

using namespace ssm;

namespace {

using Layer = H3<H3Config{.channels = 64, .state = 8}>;

/// A layer's gradient with respect to its input: every primitive of it runs in parallel.
std::vector<float> input_gradient(Context<Cpu>& ctx) {
  const Layer layer;
  const auto parameters = layer.initialize<float>(ctx, Seed{1});
  auto gradients = layer.zero_parameters<float>(ctx);
  DynamicTensor<float, 3> x({4, 128, 64}), y({4, 128, 64}), dx({4, 128, 64});
  fill_normal(x, Seed{2});
  auto tape = layer.make_tape<float>(ctx);
  layer.forward(ctx, parameters, x, y, tape);
  layer.backward(ctx, parameters, tape, y, dx, gradients);
  return {dx.data(), dx.data() + dx.size()};
}

/// Runs body in a child process; whether it returned true in good time.
template <class F>
bool holds_in_child(F&& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    bool holds = false;
    try {
      holds = body();
    } catch (...) {
    }
    _exit(holds ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void allow_processors(int count) {
  cpu_set_t now, fewer;
  REQUIRE(sched_getaffinity(0, sizeof(now), &now) == 0);
  CPU_ZERO(&fewer);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&fewer) < count; ++cpu)
    if (CPU_ISSET(cpu, &now)) CPU_SET(cpu, &fewer);
  REQUIRE(sched_setaffinity(0, sizeof(fewer), &fewer) == 0);
}

}  // namespace

TEST_CASE("every index is visited once, by workers below the number of threads") {
  for (const int threads : {1, 2, 3, 8})
    for (const Index count : {0, 1, 2, 7, 64, 1000})
      for (const Index grain : {0, 1, 5, 2000}) {
        CAPTURE(threads);
        CAPTURE(count);
        CAPTURE(grain);
        cpu::Resources resources(threads);
        std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
        std::atomic<bool> in_bounds{true};
        cpu::parallel(resources.threads(), count, grain, [&](cpu::Range range, int worker) {
          if (worker < 0 || worker >= threads || range.begin >= range.end) in_bounds = false;
          for (Index i = range.begin; i < range.end; ++i) ++visits[static_cast<std::size_t>(i)];
        });
        CHECK(in_bounds);
        CHECK(std::all_of(visits.begin(), visits.end(), [](const auto& n) { return n == 1; }));
      }
}

TEST_CASE("parts run on several threads, one at a time on each worker") {
  cpu::Resources resources(3);
  std::vector<std::atomic<int>> running(3);
  std::atomic<int> busy{0};
  std::atomic<bool> alone{true}, met{false};
  for (int call = 0; call < 200 && !(met && call > 50); ++call)
    cpu::parallel(resources.threads(), 64, 1, [&](cpu::Range, int worker) {
      if (++running[static_cast<std::size_t>(worker)] != 1) alone = false;
      if (++busy > 1) met = true;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      --busy;
      --running[static_cast<std::size_t>(worker)];
    });
  CHECK(alone);
  CHECK(met);
}

TEST_CASE("the parts of a loop depend on the number of threads and not on who runs them") {
  const auto parts_of = [](int threads) {
    cpu::Resources resources(threads);
    std::set<std::pair<Index, Index>> parts;
    std::mutex mutex;
    cpu::parallel(resources.threads(), 1000, 10, [&](cpu::Range range, int) {
      const std::lock_guard lock(mutex);
      parts.insert({range.begin, range.end});
    });
    return parts;
  };
  CHECK(parts_of(1).size() == 1);
  for (const int threads : {2, 3, 5})
    for (int again = 0; again < 20; ++again) CHECK(parts_of(threads) == parts_of(threads));
  for (const int threads : {1, 2, 3}) {
    Context<Cpu> once{cpu::Resources(threads)}, again{cpu::Resources(threads)};
    CHECK(input_gradient(once) == input_gradient(again));
  }
}

TEST_CASE("an exception in a worker reaches the caller, and the next loop runs") {
  cpu::Resources resources(2);
  for (int again = 0; again < 50; ++again) {
    for (const Index bad : {0, 63})
      CHECK_THROWS_WITH_AS(cpu::parallel(resources.threads(), 64, 1,
                                         [&](cpu::Range range, int) {
                                           if (range.begin <= bad && bad < range.end)
                                             throw std::runtime_error("part of it");
                                         }),
                           "part of it", std::runtime_error);
    std::atomic<Index> sum{0};
    cpu::parallel(resources.threads(), 64, 1,
                  [&](cpu::Range range, int) { sum += range.end - range.begin; });
    CHECK(sum == 64);
  }
}

TEST_CASE("a loop inside a loop runs on the thread that meets it") {
  cpu::Resources resources(2);
  std::vector<std::atomic<int>> visits(64);
  std::atomic<bool> same_thread{true};
  cpu::parallel(resources.threads(), 8, 1, [&](cpu::Range outer, int) {
    const auto thread = std::this_thread::get_id();
    for (Index i = outer.begin; i < outer.end; ++i)
      cpu::parallel(resources.threads(), 8, 1, [&](cpu::Range inner, int worker) {
        if (std::this_thread::get_id() != thread || worker != 0) same_thread = false;
        for (Index j = inner.begin; j < inner.end; ++j)
          ++visits[static_cast<std::size_t>(i * 8 + j)];
      });
  });
  CHECK(same_thread);
  CHECK(std::all_of(visits.begin(), visits.end(), [](const auto& n) { return n == 1; }));
}

TEST_CASE("two contexts in two threads at once compute what each computes alone") {
  Context<Cpu> alone{cpu::Resources(2)};
  const auto expected = input_gradient(alone);
  std::atomic<int> equal{0};
  const auto compute = [&] {
    Context<Cpu> ctx{cpu::Resources(2)};
    for (int again = 0; again < 5; ++again)
      if (input_gradient(ctx) == expected) ++equal;
  };
  std::thread other(compute);
  compute();
  other.join();
  CHECK(equal == 10);
}

TEST_CASE("a context with one thread starts none") {
  Context<Cpu> ctx{cpu::Resources(1)};
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> elsewhere{false};
  cpu::parallel(ctx.resources().threads(), 1000, 1, [&](cpu::Range, int) {
    if (std::this_thread::get_id() != caller) elsewhere = true;
  });
  CHECK_FALSE(elsewhere);
}

TEST_CASE("the number of threads may change between calls") {
  Context<Cpu> ctx{cpu::Resources(1)};
  for (const int threads : {1, 3, 2, 4, 1}) {
    ctx.resources().set_threads(threads);
    CHECK(ctx.resources().threads() == threads);
    Context<Cpu> fresh{cpu::Resources(threads)};
    CHECK(input_gradient(ctx) == input_gradient(fresh));
  }
  ctx.resources().set_threads(0);
  CHECK(ctx.resources().threads() == 1);
}

TEST_CASE("a child after fork computes with two threads, also when the parent had used them") {
  Context<Cpu> ctx{cpu::Resources(2)};
  const auto expected = input_gradient(ctx);
  for (int again = 0; again < 3; ++again) {
    CHECK(holds_in_child([&] { return input_gradient(ctx) == expected; }));
    CHECK(input_gradient(ctx) == expected);
  }
  CHECK(
      holds_in_child([&] {  // its own context, and one that the parent used and the child gives up
        Context<Cpu> own{cpu::Resources(2)};
        cpu::Resources given_up = std::move(ctx.resources());
        return input_gradient(own) == expected;
      }));
}

TEST_CASE("a child of a child computes too") {
  Context<Cpu> ctx{cpu::Resources(2)};
  const auto expected = input_gradient(ctx);
  CHECK(holds_in_child([&] {
    return input_gradient(ctx) == expected &&
           holds_in_child([&] { return input_gradient(ctx) == expected; });
  }));
}

TEST_CASE("a context has as many threads as the process may use processors") {
  cpu_set_t now;
  REQUIRE(sched_getaffinity(0, sizeof(now), &now) == 0);
  for (const int count : {1, CPU_COUNT(&now)})
    CHECK(holds_in_child([&] {
      unsetenv("OMP_NUM_THREADS");
      allow_processors(count);
      const double limit = std::min(cpu::detail::control_group_limit(), double(count));
      return cpu::Resources().threads() == std::max(1, static_cast<int>(std::ceil(limit)));
    }));
  CHECK(holds_in_child([] {
    setenv("OMP_NUM_THREADS", "1", 1);
    return cpu::Resources().threads() == 1;
  }));
}

TEST_CASE("OMP_NUM_THREADS is read as a number or not at all") {
  CHECK(cpu::detail::wanted_threads(nullptr) == 0);
  CHECK(cpu::detail::wanted_threads("") == 0);
  CHECK(cpu::detail::wanted_threads("all") == 0);
  CHECK(cpu::detail::wanted_threads("-3") == 0);
  CHECK(cpu::detail::wanted_threads("99999999999999") == 0);
  CHECK(cpu::detail::wanted_threads("4") == 4);
  CHECK(cpu::detail::wanted_threads("4,2") == 4);
}

TEST_CASE("the limit of a control group and of those around it holds") {
  const TemporaryFolder folder;
  const std::string root = folder.path().string();
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder.path() / name).parent_path());
    std::ofstream(folder.path() / name) << text;
  };
  const auto limit = [&](const char* path) {
    return cpu::detail::control_group_limit(root.c_str(), path);
  };
  constexpr double unlimited = std::numeric_limits<double>::infinity();
  CHECK(limit("/") == unlimited);
  CHECK(limit("/no/such/group") == unlimited);
  write("pod/cpu.max", "350000 100000\n");
  write("pod/free/cpu.max", "max 100000\n");
  write("pod/half/cpu.max", "50000 100000\n");
  CHECK(limit("/pod") == 3.5);
  CHECK(limit("/pod/free") == 3.5);
  CHECK(limit("/pod/half/") == 0.5);
  CHECK(limit("/pod/half/deeper") == 0.5);
  write("old/cpu.cfs_quota_us", "200000\n");
  write("old/cpu.cfs_period_us", "100000\n");
  write("old/free/cpu.cfs_quota_us", "-1\n");
  write("old/free/cpu.cfs_period_us", "100000\n");
  CHECK(limit("/old") == 2);
  CHECK(limit("/old/free") == 2);
}
