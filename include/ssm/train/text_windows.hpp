// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "ssm/core/tensor_view.hpp"
#include "ssm/core/token_view.hpp"

namespace ssm {

/// The windows of a text that a model is trained on, `rows` of them in every update.
///   tokens   window[0 … length−1]        targets   the same window one token later
/// Which window is read is a function of row and step alone, so training resumes at any step. The
/// text, in memory or a file, must outlive it.
/// Cost    reads the windows that are asked for and nothing else
/// Throws  ArgumentError  for a text without a whole window and its last target; and what reading
///                        the text throws
class TextWindows {
 public:
  virtual ~TextWindows() = default;

  /// Where the window of a row begins in the text.
  virtual Index begin_of(Index row, Index step) const = 0;
  /// Whether window step + 1 of a row begins where window `step` ends, so that a state may be
  /// carried from one to the next.
  virtual bool is_continued() const = 0;

  Index length() const { return length_; }
  Index rows() const { return rows_; }

  /// The window and, behind it, the last target: length + 1 tokens.
  std::vector<Token> window(Index row, Index step) const {
    std::vector<Token> tokens(static_cast<std::size_t>(length_) + 1);
    text_.read(begin_of(row, step), tokens);
    return tokens;
  }

  /// Window `step` of the rows first, first + 1, … as a batch [B, length] and its targets.
  void fill(Index first, Index step, const View<Token, 2>& tokens,
            const View<Token, 2>& targets) const {
    std::vector<Token> row(static_cast<std::size_t>(length_) + 1);
    for (Index b = 0; b < tokens.extent(0); ++b) {
      text_.read(begin_of(first + b, step), row);
      std::copy_n(row.data(), length_, tokens.select(0, b).data());
      std::copy_n(row.data() + 1, length_, targets.select(0, b).data());
    }
  }

 protected:
  TextWindows(TokenView text, Index length, Index rows)
      : text_(text), length_(length), rows_(rows) {
    if (length < 1 || rows < 1)
      throw ArgumentError("text windows: length and number must be at least 1");
    if (text.size() <= length)
      throw ArgumentError("a text of " + std::to_string(text.size()) +
                          " tokens is too short for windows of " + std::to_string(length) +
                          " and their targets");
  }
  TextWindows(const TextWindows&) = default;
  TextWindows(TextWindows&&) = default;
  TextWindows& operator=(const TextWindows&) = default;
  TextWindows& operator=(TextWindows&&) = default;

 private:
  TokenView text_;
  Index length_;
  Index rows_;
};

}  // namespace ssm
