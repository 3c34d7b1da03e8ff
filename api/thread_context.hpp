// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>

#include "ssm/core/context.hpp"

namespace ssm::api {

/// The calling thread's context of a backend: calls of all primitives share its threads and its
/// scratch memory, which is as large as the largest call so far needed. A backend of a device has
/// one for each stream, so that calls on two streams do not share memory.
template <class B>
Context<B>& thread_context([[maybe_unused]] int threads, [[maybe_unused]] void* stream) {
  if constexpr (requires { B::Resources::borrow(stream); }) {
    constexpr std::size_t most_streams = 16;
    thread_local std::map<void*, Context<B>> contexts;
    const auto found = contexts.find(stream);
    if (found != contexts.end()) return found->second;
    if (contexts.size() >= most_streams) contexts.clear();
    return contexts.try_emplace(stream, B::Resources::borrow(stream)).first->second;
  } else {
    thread_local Context<B> ctx;
    if constexpr (requires { ctx.resources().set_threads(threads); })
      ctx.resources().set_threads(threads);
    return ctx;
  }
}

}  // namespace ssm::api
