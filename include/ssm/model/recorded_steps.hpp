// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include "ssm/core/recording.hpp"

namespace ssm {

/// Steps of states that the caller keeps. Where the backend records work, those of one state are
/// one launch each from the second on, as long as no memory is given back.
template <class B>
class RecordedSteps {
 public:
  /// state   what the step reads and updates
  /// other   a number that what is queued depends on beside
  /// size    how much the state holds, a function: one that grows does so in what runs apart, else
  ///         its steps are not recorded
  template <class Size, class Run>
  void operator()(Context<B>& ctx, const void* state, Index other, Size size, Run run) {
    if constexpr (records<B>) {
      const auto now = [&] { return Key(state, other, B::Space::deallocations()); };
      if (alike_ == now()) return recording_(ctx, run);
      recording_ = recording_of_reader<B>();
      const Index before = size();
      const auto apart = ctx.resources().runs_apart();
      run();
      const bool is_recordable = size() == before || ctx.resources().runs_apart() > apart;
      alike_ = is_recordable ? std::optional(now()) : std::nullopt;
    } else {
      run();
    }
  }

 private:
  using Key = std::tuple<const void*, Index, std::uint64_t>;
  std::optional<Key> alike_;
  [[no_unique_address]] RecordingOf<B> recording_ = recording_of_reader<B>();
};

}  // namespace ssm
