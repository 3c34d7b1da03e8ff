// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "ssm/core/random.hpp"
#include "ssm/core/scalar.hpp"  // Token
#include "ssm/core/tensor_view.hpp"

namespace ssm {

/// A text read by several streams at once, spread over it, each window by window: window s+1 of a stream begins where
/// window s ends, and after the last one the stream goes on near the beginning of the text. So a state can be carried from
/// window to window, and window s is a function of the seed and s alone: training resumes at any step.
///   tokens   window[0 … length−1]        targets   the same window one token later
/// The text must outlive it.
/// Throws  ArgumentError  for a text without a whole window and its last target
class TextStreams {
 public:
  TextStreams(std::span<const Token> text, Index length, Index streams, Seed seed)
      : text_(text), length_(length), streams_(streams) {
    if (length < 1 || streams < 1)
      throw ArgumentError("text streams: length and streams must be at least 1");
    if (static_cast<Index>(text.size()) < length + 1)
      throw ArgumentError("a text of " + std::to_string(text.size()) +
                          " tokens is too short for windows of " + std::to_string(length) +
                          " and their targets");
    begins_ = static_cast<Index>(text.size()) - length;
    first_ = static_cast<Index>(Random(seed).below(0, static_cast<std::uint64_t>(begins_)));
  }

  Index length() const { return length_; }
  Index streams() const { return streams_; }

  /// The window and, behind it, the last target: length + 1 tokens.
  std::span<const Token> window(Index stream, Index step) const {
    const Index spread = begins_ / streams_ * stream + begins_ % streams_ * stream / streams_;
    const Index walked = step % begins_ * (length_ % begins_) % begins_;
    const Index begin = (first_ + spread + walked) % begins_;
    return text_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(length_) + 1);
  }

  /// Window `step` of the streams first, first + 1, … as a batch [B, length] and its targets.
  void fill(Index first, Index step, const View<Token, 2>& tokens,
            const View<Token, 2>& targets) const {
    for (Index b = 0; b < tokens.extent(0); ++b) {
      const auto source = window(first + b, step);
      std::copy_n(source.data(), length_, tokens.select(0, b).data());
      std::copy_n(source.data() + 1, length_, targets.select(0, b).data());
    }
  }

 private:
  std::span<const Token> text_;
  Index length_;
  Index streams_;
  Index begins_ = 1;  // positions where a window may begin
  Index first_ = 0;
};

}  // namespace ssm
