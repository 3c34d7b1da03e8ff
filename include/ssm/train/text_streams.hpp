// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "ssm/core/random.hpp"
#include "ssm/core/tensor_view.hpp"
#include "ssm/core/token_view.hpp"

namespace ssm {

/// A text read by several streams at once, spread over it, each window by window: window s+1 of a
/// stream begins where window s ends, and after the last one the stream goes on near the beginning
/// of the text. So a state can be carried from window to window, and window s is a function of the
/// seed and s alone: training resumes at any step.
///   tokens   window[0 … length−1]        targets   the same window one token later
/// The text, in memory or a file, must outlive it.
/// Cost    reads the windows that are asked for and nothing else
/// Throws  ArgumentError  for a text without a whole window and its last target; and what reading
///                        the text throws
class TextStreams {
 public:
  TextStreams(TokenView text, Index length, Index streams, Seed seed)
      : text_(text), length_(length), streams_(streams) {
    if (length < 1 || streams < 1)
      throw ArgumentError("text streams: length and streams must be at least 1");
    if (text.size() <= length)
      throw ArgumentError("a text of " + std::to_string(text.size()) +
                          " tokens is too short for windows of " + std::to_string(length) +
                          " and their targets");
    begins_ = text.size() - length;
    first_ = static_cast<Index>(Random(seed).below(0, static_cast<std::uint64_t>(begins_)));
  }

  Index length() const { return length_; }
  Index streams() const { return streams_; }

  /// The window and, behind it, the last target: length + 1 tokens.
  std::vector<Token> window(Index stream, Index step) const {
    std::vector<Token> tokens(static_cast<std::size_t>(length_) + 1);
    text_.read(begin_of(stream, step), tokens);
    return tokens;
  }

  /// Window `step` of the streams first, first + 1, … as a batch [B, length] and its targets.
  void fill(Index first, Index step, const View<Token, 2>& tokens,
            const View<Token, 2>& targets) const {
    std::vector<Token> row(static_cast<std::size_t>(length_) + 1);
    for (Index b = 0; b < tokens.extent(0); ++b) {
      text_.read(begin_of(first + b, step), row);
      std::copy_n(row.data(), length_, tokens.select(0, b).data());
      std::copy_n(row.data() + 1, length_, targets.select(0, b).data());
    }
  }

 private:
  Index begin_of(Index stream, Index step) const {
    const Index spread = begins_ / streams_ * stream + begins_ % streams_ * stream / streams_;
    const Index walked = product_modulo(step % begins_, length_ % begins_, begins_);
    return ((first_ + spread) % begins_ + walked) % begins_;
  }
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

  TokenView text_;
  Index length_;
  Index streams_;
  Index begins_ = 1;  // positions where a window may begin
  Index first_ = 0;
};

}  // namespace ssm
