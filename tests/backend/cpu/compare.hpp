// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
#include "support/layout.hpp"

namespace ssm::test {

/// Runs body(ctx) on the CPU with one thread and with two; scratch memory starts as NaN.
template <class F>
void on_each_thread_count(F&& body) {
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    Context<Cpu> ctx{cpu::Resources(threads)};
    ctx.workspace().fill_with_nan(true);
    body(ctx);
  }
}

}  // namespace ssm::test
