// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <utility>

#include "ssm/core/context.hpp"

namespace ssm::api {

/// What a call runs in beside its tensors.
struct CallPlace {
  int threads = 1;  // of the host
  int device = 0;   // of a device's backend, as the next
  void* stream = nullptr;
};

/// Calls body(ctx) with the calling thread's context of a backend. Calls share its threads and its
/// scratch memory, which is as large as the largest call so far needed. A backend of a device has
/// one for each stream, so that calls on two streams do not share memory.
template <class B, class Body>
decltype(auto) in_thread_context(const CallPlace& place, Body&& body) {
  if constexpr (requires { B::Resources::borrow(place.stream); }) {
    constexpr std::size_t most_streams = 16;
    const typename B::Resources::Scope scope({place.device}, place.stream);
    thread_local std::map<std::pair<int, void*>, Context<B>> contexts;
    const std::pair key(place.device, place.stream);
    auto found = contexts.find(key);
    if (found == contexts.end()) {
      if (contexts.size() >= most_streams) contexts.clear();
      found = contexts.try_emplace(key, B::Resources::borrow(place.stream)).first;
    }
    return std::forward<Body>(body)(found->second);
  } else {
    thread_local Context<B> ctx;
    if constexpr (requires { ctx.resources().set_threads(place.threads); })
      ctx.resources().set_threads(place.threads);
    return std::forward<Body>(body)(ctx);
  }
}

/// A context for the calls of one object: on the host its own, on a device that of the calling
/// thread and the stream.
template <class B>
class OwnContext {
 public:
  explicit OwnContext(int threads) { set_threads(threads); }

  void set_threads(int threads) {
    place_.threads = threads;
    if constexpr (requires { own_.resources().set_threads(threads); })
      own_.resources().set_threads(threads);
  }
  void set_stream(void* stream) { place_.stream = stream; }
  int threads() const { return place_.threads; }
  CallPlace place(int device) const {
    return {.threads = place_.threads, .device = device, .stream = place_.stream};
  }
  /// Calls body(ctx).
  template <class Body>
  decltype(auto) run(int device, Body&& body) const {
    if constexpr (B::Space::host_readable)
      return std::forward<Body>(body)(own_);
    else
      return in_thread_context<B>(place(device), std::forward<Body>(body));
  }

 private:
  struct Nothing {};
  mutable std::conditional_t<B::Space::host_readable, Context<B>, Nothing> own_;  // scratch memory
  CallPlace place_;
};

}  // namespace ssm::api
