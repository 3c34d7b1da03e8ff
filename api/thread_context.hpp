// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"

namespace ssm::api {

/// The calling thread's context of a backend: calls of all primitives share its threads and its
/// scratch memory, which is as large as the largest call so far needed.
template <class B>
Context<B>& thread_context(int threads, [[maybe_unused]] void* stream) {
  thread_local Context<B> ctx;
  if constexpr (requires { ctx.resources().set_threads(threads); })
    ctx.resources().set_threads(threads);
  return ctx;
}

}  // namespace ssm::api
