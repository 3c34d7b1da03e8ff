// SPDX-License-Identifier: Apache-2.0
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "ssm/backend/cuda/launch.hpp"

int main(int count, char** arguments) {
  if (ssm::cuda::device_count() == 0) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  return doctest::Context(count, arguments).run();
}
