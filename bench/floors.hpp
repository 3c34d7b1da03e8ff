// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "../tests/support/test_tensor.hpp"
#include "ssm/backend/cpu.hpp"

namespace ssm::bench {

inline double seconds_of(auto&& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Fused multiply-adds of whole registers a second that this machine does just now, on `threads`
/// threads.
template <class T>
double fused_rate(int threads) {
  using Register = cpu::Batch<T, xsimd::default_arch>;
  cpu::ThreadPool pool;
  const cpu::Threads crew(threads, pool);
  constexpr int independent = 12;
  constexpr Index rounds = 400000;
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const double seconds = seconds_of([&] {
      cpu::parallel(crew, threads, 1, [&](cpu::Range, int) {
        Register sum[independent];
        for (auto& s : sum) s = Register(T{1});
        Register factor(T(0.999)), addend(T(1e-3));
        benchmark::DoNotOptimize(factor);
        for (Index i = 0; i < rounds; ++i)
          cpu::unrolled<independent>([&](auto j) { sum[j] = xsimd::fma(sum[j], factor, addend); });
        for (auto& s : sum) benchmark::DoNotOptimize(s);
      });
    });
    best = std::max(best, static_cast<double>(independent * rounds * threads) / seconds);
  }
  return best;
}

/// Bytes a second read from memory that no cache holds: each thread in one stream or in four,
/// whichever is the faster.
inline double read_rate(int threads) {
  using Register = cpu::Batch<float, xsimd::default_arch>;
  constexpr Index lanes = cpu::lane_count<float, xsimd::default_arch>;
  cpu::ThreadPool pool;
  const cpu::Threads crew(threads, pool);
  // Written once: pages that never were are all one page, which a cache holds.
  static const DynamicTensor<float, 1> memory = [] {
    DynamicTensor<float, 1> written({Index{1} << 26});
    std::fill_n(written.data(), written.size(), 1.F);
    return written;
  }();
  const Index steps = memory.size() / (4 * lanes);
  double best = 0;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const bool one_stream = repeat % 2 == 0;
    const double seconds = seconds_of([&] {
      cpu::parallel(crew, steps, 1, [&](cpu::Range range, int) {
        const Index count = range.end - range.begin;
        const float* from = memory.data() + 4 * range.begin * lanes;
        const Index step = (one_stream ? 4 : 1) * lanes, apart = one_stream ? lanes : count * lanes;
        Register sum[4] = {Register(0.F), Register(0.F), Register(0.F), Register(0.F)};
        for (Index i = 0; i < count; ++i)
          cpu::unrolled<4>(
              [&](auto j) { sum[j] += Register::load_aligned(from + i * step + j * apart); });
        for (auto& s : sum) benchmark::DoNotOptimize(s);
      });
    });
    best = std::max(best, static_cast<double>(memory.size()) * sizeof(float) / seconds);
  }
  return best;
}

/// What the work cannot do without; the slower of the two is its floor.
struct Floor {
  double fused = 0;  // multiply-adds of whole registers
  double bytes = 0;  // from memory
};

/// Runs `body` and reports the median nanoseconds an element, and how often the floor, measured in
/// the same process, fits into the best time: 1 is perfect.
template <class T, class F>
void measure(benchmark::State& state, int threads, double elements, Floor floor, F&& body) {
  std::vector<double> times;
  body();
  for (auto _ : state) times.push_back(seconds_of(body));
  std::nth_element(times.begin(), times.begin() + static_cast<Index>(times.size() / 2),
                   times.end());
  const double median = times[times.size() / 2];
  const double best = *std::min_element(times.begin(), times.end());
  const double arithmetic = floor.fused > 0 ? floor.fused / fused_rate<T>(threads) : 0;
  const double traffic = floor.bytes > 0 ? floor.bytes / read_rate(threads) : 0;
  state.counters["ns/element"] = median / elements * 1e9;
  state.counters["floor/time"] = std::max(arithmetic, traffic) / best;
}

}  // namespace ssm::bench
