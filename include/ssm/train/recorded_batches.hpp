// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <any>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/recording.hpp"

namespace ssm {

/// What a recorded batch depends on beside the contents of memory.
struct RecordedBatch {
  const void* context = nullptr;
  std::uint64_t deallocations = 0;  // none since: all memory is where it was
  std::uint64_t memory = 0;         // parameters, tokens, logits and states
  Index length = 0;
  double scale = 0;
  Index predicted = 0;  // where the loss is taken in parts
  bool is_fresh = false;
  bool is_first = false;  // of the update: gradients start from zero
  bool is_last = false;   // gradients are summed over the ranks

  void add(const auto& tensor) {
    const auto place = reinterpret_cast<std::uintptr_t>(tensor.data());
    memory = memory * 31 + place * 7 + static_cast<std::uint64_t>(tensor.size());
  }
  bool operator==(const RecordedBatch&) const = default;
};

/// A batch runs as it is at first, which allocates; those like it are one launch. Where something
/// cannot be recorded, as states that grow, nothing is from then on.
class RecordedBatches {
 public:
  bool can_record() const { return can_record_; }
  /// Batches so far that were one launch.
  Index launched() const { return launched_; }

  /// `most` recordings are kept.
  template <class B, class Run>
  void run(Context<B>& ctx, const RecordedBatch& now, std::size_t most, const Run& run) {
    using Recording = RecordingOf<B>;
    const auto found =
        std::ranges::find(recorded_, now, &std::pair<RecordedBatch, std::any>::first);
    if (found == recorded_.end()) {
      if (recorded_.size() >= most) recorded_.clear();
      recorded_.emplace_back(now, std::make_shared<Recording>());
      return run();
    }
    try {
      (*std::any_cast<std::shared_ptr<Recording>&>(found->second))(ctx, run);
      ++launched_;
    } catch (const NotRecordable&) {
      can_record_ = false;
      run();
    }
  }

 private:
  std::vector<std::pair<RecordedBatch, std::any>> recorded_;  // with the backend's Recording
  bool can_record_ = true;
  Index launched_ = 0;
};

}  // namespace ssm
