// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "ssm/core/random.hpp"
#include "ssm/train/text_windows.hpp"

namespace ssm {

/// A text read by several streams at once, spread over it, each window by window: window s+1 of a
/// stream begins where window s ends, and after the last one the stream goes on near the beginning
/// of the text. So a state can be carried from window to window.
///   const TextStreams streams(text, 256, 16, Seed{1});
/// Throws  as TextWindows
class TextStreams final : public TextWindows {
 public:
  TextStreams(TokenView text, Index length, Index streams, Seed seed)
      : TextWindows(text, length, streams), begins_(text.size() - length) {
    first_ = static_cast<Index>(Random(seed).below(0, static_cast<std::uint64_t>(begins_)));
  }

  Index streams() const { return rows(); }
  bool is_continued() const override { return true; }
  Index begin_of(Index stream, Index step) const override {
    const Index spread = begins_ / streams() * stream + begins_ % streams() * stream / streams();
    const Index walked = product_modulo(step % begins_, length() % begins_, begins_);
    return ((first_ + spread) % begins_ + walked) % begins_;
  }

 private:
  /// a·b mod m of numbers below m, whose product may be beyond an Index in a long text.
  static Index product_modulo(Index a, Index b, Index m) {
    if (b == 0 || a <= std::numeric_limits<Index>::max() / b) return a * b % m;
    Index sum = 0;
    for (; b > 0; b /= 2) {
      if (b % 2 == 1) sum = sum < m - a ? sum + a : sum - (m - a);
      a = a < m - a ? a + a : a - (m - a);
    }
    return sum;
  }

  Index begins_;  // positions where a window may begin
  Index first_ = 0;
};

}  // namespace ssm
