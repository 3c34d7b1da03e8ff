// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/error.hpp"
#include "ssm/core/tensor_view.hpp"

namespace ssm {

/// Work that cannot be recorded, as it reads numbers of the host that change from call to call.
/// What was to be recorded has not been done.
class NotRecordable : public Error {
 public:
  using Error::Error;
};

/// Whether a backend's calls are queued and can be recorded: its Resources have a class Recording,
/// and a class Arrival by which the host reads numbers without waiting for what is queued behind.
template <class B>
inline constexpr bool records = !B::Space::host_readable && requires {
  typename B::Resources::Recording;
  typename B::Resources::Arrival;
};

namespace detail {
struct NoRecording {};
struct NoArrival {};
template <class B>
auto recording_of() {
  if constexpr (records<B>)
    return std::type_identity<typename B::Resources::Recording>();
  else
    return std::type_identity<NoRecording>();
}
template <class B>
auto arrival_of() {
  if constexpr (records<B>)
    return std::type_identity<typename B::Resources::Arrival>();
  else
    return std::type_identity<NoArrival>();
}
}  // namespace detail

/// The Recording of a backend; an empty class where it has none.
template <class B>
using RecordingOf = typename decltype(detail::recording_of<B>())::type;
/// Likewise its Arrival.
template <class B>
using ArrivalOf = typename decltype(detail::arrival_of<B>())::type;

/// A few numbers of a backend's memory on their way to the host, for owners of any backend. Where
/// nothing is queued they are there at once.
///   Arriving<double> norm;
///   norm.start(ctx, sum);   …   const double total = norm.wait<B>()[0];
template <class V>
class Arriving {
 public:
  template <class B>
  void start(Context<B>& ctx, const View<const V, 1, typename B::Space>& from) {
    values_.resize(static_cast<std::size_t>(from.size()));
    if constexpr (records<B>) {
      if (!arrival_) arrival_ = std::make_shared<ArrivalOf<B>>();
      arrival<B>().start(ctx, from.data(), bytes());
    } else {
      B::Space::copy(values_.data(), from.data(), bytes());
    }
  }
  /// Valid until the next start.
  template <class B>
  std::span<const V> wait() {
    if constexpr (records<B>) arrival<B>().wait(values_.data(), bytes());
    return values_;
  }

 private:
  std::size_t bytes() const { return values_.size() * sizeof(V); }
  template <class B>
  ArrivalOf<B>& arrival() {
    return *static_cast<ArrivalOf<B>*>(arrival_.get());
  }

  std::vector<V> values_;
  std::shared_ptr<void> arrival_;
};

/// A Recording of calls that write no parameters of a layer.
template <class B>
RecordingOf<B> recording_of_reader() {
  if constexpr (records<B>)
    return RecordingOf<B>(true);
  else
    return {};
}

/// Runs a part of a call that reads numbers of the host which change from call to call: where the
/// call is recorded, every time in its place between what is recorded. `run` is kept by value and
/// has its own frame; what it reads and writes must be there at every call.
template <class B, class Run>
void run_apart(Context<B>& ctx, Run run) {
  if constexpr (records<B>)
    ctx.resources().run_apart(ctx, std::move(run));
  else
    run();
}

/// Runs a part of a call that changes numbers of the host and queues nothing: where the call is
/// recorded, every time. `run` is kept by value; what it reads and writes must be there at every
/// call.
template <class B, class Run>
void run_on_host(Context<B>& ctx, Run run) {
  if constexpr (records<B>)
    ctx.resources().run_on_host(std::move(run));
  else
    run();
}

}  // namespace ssm
