// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "ssm/core/scalar.hpp"  // Token
#include "ssm/core/sequence_cut.hpp"
#include "ssm/core/stretch.hpp"
#include "ssm/core/tensor_view.hpp"

namespace ssm {

/// Where the documents of a batch's windows begin and end on a rank, whose rows lie one behind the
/// other. A row without positions there has one document, which is empty.
class WindowDocuments {
 public:
  /// tokens   [rows, L]   of the whole windows
  /// own                  the positions of the rank
  /// end                  the last token of every document
  void find(const View<const Token, 2>& tokens, Stretch own, Token end) {
    offsets_.assign(1, 0);
    first_.clear();
    parts_.clear();
    begin_ = own.begin;
    for (Index row = 0; row < tokens.extent(0); ++row) {
      // Whether position t has one before it, of the same document.
      const auto is_within = [&](Index t) {
        return t > 0 && t < tokens.extent(1) && tokens(row, t - 1) != end;
      };
      first_.push_back(count());
      Index before = 0;
      while (is_within(own.begin - before)) ++before;
      parts_.push_back({.before = before, .continues = is_within(own.begin)});
      for (Index t = own.begin; t + 1 < own.end; ++t)
        if (tokens(row, t) == end) {
          offsets_.push_back(row * own.length() + t + 1 - own.begin);
          parts_.push_back({});
        }
      offsets_.push_back((row + 1) * own.length());
      parts_.back().goes_on = is_within(own.end);
    }
    first_.push_back(count());
  }

  Index count() const { return static_cast<Index>(offsets_.size()) - 1; }
  /// As segments of one row: one more than there are.
  const std::vector<Index>& offsets() const { return offsets_; }
  const std::vector<SequencePart>& parts() const { return parts_; }
  Index first_of(Index row) const { return first_[static_cast<std::size_t>(row)]; }
  Index last_of(Index row) const { return first_of(row + 1) - 1; }
  /// Whether the first document of a row is the one that the window begins in.
  bool begins_in_first(Index row) const {
    return begin_ == parts_[static_cast<std::size_t>(first_of(row))].before;
  }

 private:
  std::vector<Index> offsets_{0};
  std::vector<Index> first_;  // of each row, and behind the last
  std::vector<SequencePart> parts_;
  Index begin_ = 0;
};

}  // namespace ssm
