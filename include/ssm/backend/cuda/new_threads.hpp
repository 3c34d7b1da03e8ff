// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

#include "ssm/core/error.hpp"  // Index

namespace ssm::cuda {

/// Threads for contexts without any of their own, whose work is elsewhere: one for each processor,
/// for the length of a call.
struct NewThreads {
  /// Calls body(begin, end) for ranges that together are 0 … count−1.
  template <class Body>
  void for_ranges(Index count, const Body& body) const {
    const Index parts = std::max<Index>(1, std::thread::hardware_concurrency());
    std::vector<std::jthread> threads;
    for (Index part = 1; part < parts; ++part)
      threads.emplace_back([&body, begin = count * part / parts, end = count * (part + 1) / parts] {
        body(begin, end);
      });
    body(0, count / parts);
  }
};

}  // namespace ssm::cuda
