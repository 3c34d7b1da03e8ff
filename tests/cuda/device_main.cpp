// SPDX-License-Identifier: Apache-2.0
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>

#include "ssm/backend/cuda/launch.hpp"
#include "ssm/laws/allocation_count.hpp"

namespace ssm::cuda {
extern std::atomic<std::size_t> page_locked_allocations;
}

int main(int count, char** arguments) {
  if (ssm::cuda::device_count() == 0) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  ssm::laws::more_allocations = [] { return ssm::cuda::page_locked_allocations.load(); };
  return doctest::Context(count, arguments).run();
}
