// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"  // Index
#include "ssm/core/random.hpp"

namespace ssm {

/// Where a layer's first values come from: a seed, and threads that share the drawing of large
/// tensors. It converts from a seed and to one, so whoever needs no threads says `Seed`. The values
/// depend on the seed alone.
///   initializer.fork("in_proj").fill_uniform(p.weight.data(), p.weight.size(), -bound, bound);
class Initializer {
 public:
  /// Calls body(begin, end) for ranges that together are 0 … count−1, on one thread or on several.
  using Body = std::function<void(Index begin, Index end)>;
  using Loop = std::function<void(Index count, const Body& body)>;

  Initializer(Seed seed, Loop loop = {}) : seed_(seed), loop_(std::move(loop)) {}
  operator Seed() const { return seed_; }

  /// A Loop for contexts without threads of their own: one thread for each processor, for the
  /// length of the call.
  static void on_new_threads(Index count, const Body& body) {
    const Index parts = std::max<Index>(1, std::thread::hardware_concurrency());
    std::vector<std::jthread> threads;
    for (Index part = 1; part < parts; ++part)
      threads.emplace_back([&body, begin = count * part / parts, end = count * (part + 1) / parts] {
        body(begin, end);
      });
    body(0, count / parts);
  }

  /// An independent stream for a part, by number or by name, drawn by the same threads.
  Initializer fork(std::uint64_t part) const { return {seed_.fork(part), loop_}; }
  Initializer fork(std::string_view name) const { return {seed_.fork(name), loop_}; }

  /// to[i] = low + (high − low) · Random(seed).uniform(i)
  template <class T>
  void fill_uniform(T* to, Index count, double low, double high) const {
    const Random random(seed_);
    for_ranges(count, [&](Index begin, Index end) {
      random.fill_uniform(to + begin, static_cast<std::uint64_t>(begin), end - begin, low, high);
    });
  }
  /// to[i] = deviation · Random(seed).normal(i)
  template <class T>
  void fill_normal(T* to, Index count, double deviation) const {
    const Random random(seed_);
    for_ranges(count, [&](Index begin, Index end) {
      random.fill_normal(to + begin, static_cast<std::uint64_t>(begin), end - begin, deviation);
    });
  }

 private:
  void for_ranges(Index count, const Body& body) const {
    constexpr Index least = 1 << 14;  // numbers for which another thread is worth waking
    if (loop_ && count >= 2 * least)
      loop_(count, body);
    else
      body(0, count);
  }

  Seed seed_;
  Loop loop_;
};

}  // namespace ssm
