// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/core/scalar.hpp"  // Token
#include "ssm/core/tensor.hpp"

namespace ssm {

/// Sequences of symbols, each with a class: bytes of text, operators and digits, gray values.
struct LabeledSequences {
  Index symbols = 256;  // those that may occur are 0 … symbols − 1
  Index classes = 2;
  std::vector<std::uint8_t> values{};   // of all sequences, one behind the other
  std::vector<std::size_t> offsets{0};  // where each begins, and the end
  std::vector<Token> labels{};          // of each

  Index count() const { return static_cast<Index>(labels.size()); }
  std::span<const std::uint8_t> operator[](Index i) const {
    const auto begin = offsets[static_cast<std::size_t>(i)];
    return std::span(values).subspan(begin, offsets[static_cast<std::size_t>(i) + 1] - begin);
  }
  Index longest() const {
    Index longest = 0;
    for (Index i = 0; i < count(); ++i)
      longest = std::max(longest, static_cast<Index>((*this)[i].size()));
    return longest;
  }

  /// Throws  ArgumentError  for an empty sequence, a symbol or a class that may not occur
  void add(std::span<const std::uint8_t> sequence, Token label) {
    if (sequence.empty()) throw ArgumentError("labeled sequences: a sequence is empty");
    if (label < 0 || label >= classes)
      throw ArgumentError(message({"labeled sequences: class ", label, " of ", classes}));
    for (const std::uint8_t value : sequence)
      if (value >= symbols)
        throw ArgumentError(message({"labeled sequences: symbol ", Index{value}, " of ", symbols}));
    values.insert(values.end(), sequence.begin(), sequence.end());
    offsets.push_back(values.size());
    labels.push_back(label);
  }
};

/// What a classifier is trained on, and what its accuracy is measured on.
struct ClassificationData {
  LabeledSequences training;
  LabeledSequences test;
};

/// Some sequences side by side, padded behind their ends.
struct SequenceBatch {
  DynamicTensor<Token, 2> tokens;   // [B, L]: symbol + 1, padding 0
  DynamicTensor<float, 3> numbers;  // [B, L, 1]: a symbol as a number from −1 to 1, padding 0
  DynamicTensor<Token, 2> targets;  // [B, L]: the class at the last position of each, else −100

  /// Fills all three with the sequences of these numbers. Lengths are rounded up to a multiple of
  /// `granularity`, so that batches come in few shapes.
  void fill(const LabeledSequences& data, std::span<const Index> chosen, Index granularity = 1) {
    Index length = 1;
    for (const Index i : chosen) length = std::max(length, static_cast<Index>(data[i].size()));
    length = (length + granularity - 1) / granularity * granularity;
    const auto rows = static_cast<Index>(chosen.size());
    tokens.resize({rows, length});
    numbers.resize({rows, length, Index{1}});
    targets.resize({rows, length});
    const float scale = 2.0F / static_cast<float>(std::max<Index>(1, data.symbols - 1));
    for (Index b = 0; b < rows; ++b) {
      const Index i = chosen[static_cast<std::size_t>(b)];
      const std::span<const std::uint8_t> sequence = data[i];
      const auto end = static_cast<Index>(sequence.size());
      for (Index t = 0; t < length; ++t) {
        const bool is_inside = t < end;
        const std::uint8_t symbol = is_inside ? sequence[static_cast<std::size_t>(t)] : 0;
        tokens(b, t) = is_inside ? symbol + 1 : 0;
        numbers(b, t, 0) = is_inside ? scale * static_cast<float>(symbol) - 1 : 0;
        targets(b, t) = t + 1 == end ? data.labels[static_cast<std::size_t>(i)] : -100;
      }
    }
  }
};

}  // namespace ssm
