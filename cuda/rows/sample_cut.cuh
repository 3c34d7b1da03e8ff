// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>

#include "kernel/matrix_elements.cuh"
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/sample.hpp"

namespace ssm::cuda::device {

struct SampleRows {
  Index batch;
  Index vocabulary;
};

/// How much of a row is kept: `amount` tokens, or the fewest whose weights reach `amount` of all
/// weights.
struct SampleShare {
  bool counts;
  double amount;
};

/// One digit of the order of tokens: of a weight's bits, or among equal weights of V − 1 − token.
struct SampleDigit {
  bool of_weight;
  int shift;

  /// −1 for a token that differs from the cut in a higher bit.
  SSM_HOST_DEVICE Index of(std::uint64_t weight, std::uint64_t order, const SampleCut& cut) const {
    if (of_weight) {
      if (((weight ^ cut.weight) >> shift) / sample_digits != 0) return -1;
      return static_cast<Index>((weight >> shift) % sample_digits);
    }
    if (weight != cut.weight || ((order ^ cut.order) >> shift) / sample_digits != 0) return -1;
    return static_cast<Index>((order >> shift) % sample_digits);
  }
};

/// digit_sum[b, slice, digit] ← the share of the tokens of a slice with that digit, and the cut's
/// higher bits.
inline void add_digits(SampleRows rows, const SampleScratch& scratch, SampleDigit digit,
                       bool counts, Stream stream) {
  const Index vocabulary = rows.vocabulary;
  const Index slices = sample_slices(vocabulary);
  for_each_row(rows.batch * slices, stream, "sample", [=] SSM_DEVICE(Index row, Lanes lanes) {
    const Index b = row / slices;
    const Index begin = row % slices * sample_slice;
    const Index left = vocabulary - begin;
    const SampleCut cut = scratch.cut[b];
    const double* const weight = scratch.weight + b * vocabulary;
    double own[sample_digits] = {};
    lanes.each(left < sample_slice ? left : sample_slice, [&](Index i) {
      const Index v = begin + i;
      const Index mine = digit.of(std::bit_cast<std::uint64_t>(weight[v]),
                                  static_cast<std::uint64_t>(vocabulary - 1 - v), cut);
      const double share = counts ? 1.0 : weight[v];
      for (Index d = 0; d < sample_digits; ++d) own[d] += mine == d ? share : 0.0;
    });
    for (Index d = 0; d < sample_digits; ++d) {
      const double sum = lanes.sum(Lanes::count, [&](Index) { return own[d]; });
      if (lanes.first()) scratch.digit_sum[row * sample_digits + d] = sum;
    }
  });
}

/// The cut's digit: the highest with which the share above and at it reaches what is wanted.
inline void choose_digit(SampleRows rows, const SampleScratch& scratch, SampleDigit digit,
                         SampleShare share, bool is_first, Stream stream) {
  const Index slices = sample_slices(rows.vocabulary);
  for_each_row(rows.batch, stream, "sample", [=] SSM_DEVICE(Index b, Lanes lanes) {
    const double* const sums = scratch.digit_sum + b * slices * sample_digits;
    double sum[sample_digits];
    for (Index d = 0; d < sample_digits; ++d)
      sum[d] = lanes.sum(slices, [&](Index slice) { return sums[slice * sample_digits + d]; });
    if (!lanes.first()) return;
    SampleCut cut = scratch.cut[b];
    if (is_first) {
      double total = 0;
      for (Index d = 0; d < sample_digits; ++d) total += sum[d];
      cut.wanted = share.counts ? share.amount : share.amount * total;
    }
    Index chosen = 0;
    for (Index d = sample_digits - 1; d >= 0; --d) {
      if (cut.above + sum[d] >= cut.wanted) {
        chosen = d;
        break;
      }
      if (d > 0) cut.above += sum[d];
    }
    (digit.of_weight ? cut.weight : cut.order) |= static_cast<std::uint64_t>(chosen) << digit.shift;
    scratch.cut[b] = cut;
  });
}

/// Sets the weights of all but the likeliest tokens to zero; equals are kept from the lowest token
/// on.
inline void keep_likeliest(SampleRows rows, const SampleScratch& scratch, SampleShare share,
                           Stream stream) {
  const auto elements = matrix_elements(rows.batch, rows.vocabulary);
  for_each_index(rows.batch, stream, "sample",
                 [=] SSM_DEVICE(Index b) { scratch.cut[b] = SampleCut{}; });
  bool is_first = true;
  const auto descend = [&](bool of_weight, int highest_shift) {
    for (int shift = highest_shift; shift >= 0; shift -= 4) {
      const SampleDigit digit{of_weight, shift};
      add_digits(rows, scratch, digit, share.counts, stream);
      choose_digit(rows, scratch, digit, share, is_first, stream);
      is_first = false;
    }
  };
  descend(true, 60);
  int bits = 0;
  while ((rows.vocabulary - 1) >> bits != 0) bits += 4;
  descend(false, bits - 4);
  const Index vocabulary = rows.vocabulary;
  for_each_index(elements.count, stream, "sample", [=] SSM_DEVICE(Index i) {
    const auto [b, v] = elements.at(i);
    const SampleCut cut = scratch.cut[b];
    const auto weight = std::bit_cast<std::uint64_t>(scratch.weight[i]);
    const auto order = static_cast<std::uint64_t>(vocabulary - 1 - v);
    if (weight < cut.weight || (weight == cut.weight && order < cut.order)) scratch.weight[i] = 0;
  });
}

}  // namespace ssm::cuda::device
