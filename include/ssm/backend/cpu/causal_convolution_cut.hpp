// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/backend/cpu/fft_length.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/op/causal_convolution.hpp"

namespace ssm::cpu {

/// Positions of the longest sequence of a batch or a packed row.
inline Index longest_sequence(Index length, Segments segments) {
  if (segments.empty()) return length;
  Index longest = 0;
  for (std::size_t i = 1; i < segments.size(); ++i)
    longest = std::max(longest, segments[i] - segments[i - 1]);
  return longest;
}

/// Into what a causal convolution is cut: blocks of positions and, of the same length, parts of the kernel.
///   y_i = Σ_j kernel_j * x_{i−j}
/// Small blocks stay in the cache, large ones have fewer products; the choice is by counted operations, so that it depends
/// on nothing but the shape.
struct ConvolutionCut {
  Index block = 4;   // positions
  Index parts = 1;   // of the kernel
  Index blocks = 1;  // of the longest sequence
  double cost = 0;   // in cycles a register

  /// The cheapest cut for a batch of sequences. `terms` ≥ 1 of the kernel reach the longest of them.
  static ConvolutionCut best(Index batch, Index length, Segments segments, Index terms) {
    const Index longest = longest_sequence(length, segments);
    ConvolutionCut found = with_block(fft_length(longest), batch, length, segments, terms);
    for (Index blocks = 2; blocks <= 4096 && longest / blocks >= least_block;
         blocks += std::max<Index>(1, blocks / 4)) {
      const Index block = fft_length((longest + blocks - 1) / blocks);
      const ConvolutionCut cut = with_block(block, batch, length, segments, terms);
      if (cut.cost < found.cost) found = cut;
    }
    return found;
  }

  /// What the sum costs term by term.
  static double direct_cost(Index batch, Index length, Segments segments, Index terms) {
    double cost = 0;
    for_each_sequence(segments.empty() ? 1 : batch, length, segments, [&](Sequence s) {
      const auto positions = static_cast<double>(s.end - s.begin);
      const auto reach = std::min(static_cast<double>(terms), positions);
      cost += direct_position * positions + direct_term * reach * (positions - 0.5 * (reach - 1));
    });
    return cost * (segments.empty() ? static_cast<double>(batch) : 1);
  }

 private:
  // Cycles a register of a current core with 32 registers, measured.
  static constexpr double transform_level = 1.3;  // of one transform
  static constexpr double transform_ends = 3;     // reading and writing the operands
  static constexpr double beyond_cache =
      1.2;                                // a level of blocks that leave the second-level cache
  static constexpr double product = 2.8;  // one part with one block
  static constexpr double direct_term = 0.6;
  static constexpr double direct_position = 4;
  static constexpr Index least_block = 16;
  static constexpr Index cached_block = 2048;

  static ConvolutionCut with_block(Index block, Index batch, Index length, Segments segments,
                                   Index terms) {
    ConvolutionCut cut{.block = block, .parts = (terms + block - 1) / block};
    const auto size = static_cast<double>(block);
    const double levels = std::log2(size);
    const double far = std::max(0.0, std::log2(size / static_cast<double>(cached_block)));
    const double transform =
        size * (transform_level * levels + beyond_cache * far + transform_ends);
    for_each_sequence(segments.empty() ? 1 : batch, length, segments, [&](Sequence s) {
      const Index count = (s.end - s.begin + block - 1) / block;
      const Index full = std::min(count, cut.parts);
      const auto products = static_cast<double>(full * (full + 1) / 2 + (count - full) * cut.parts);
      cut.cost += static_cast<double>(count) * 2 * transform + product * size * products;
      cut.blocks = std::max(cut.blocks, count);
    });
    if (segments.empty()) cut.cost *= static_cast<double>(batch);
    cut.cost += static_cast<double>(cut.parts) * transform;
    return cut;
  }
};

/// How the work of a convolution is shared: a unit is a register of channels and a share of the sequences. Threads take units
/// or, where these are too few, the blocks of a sequence.
struct ConvolutionShape {
  template <class T>
  ConvolutionShape(const CausalConvolution<T, HostSpace>& a, Index lanes, const Threads& threads,
                   Index wanted_units)
      : channels(a.x.extent(2)),
        sequences(sequence_count(a.x.extent(0), a.segments)),
        terms(std::min(a.kernel.extent(1), longest_sequence(a.x.extent(1), a.segments))),
        cut(ConvolutionCut::best(a.x.extent(0), a.x.extent(1), a.segments, terms)),
        groups((channels + lanes - 1) / lanes),
        shares(std::clamp<Index>(wanted_units / std::max<Index>(groups, 1), 1,
                                 std::max<Index>(sequences, 1))),
        unit_threads(threads.at_most(1)),
        block_threads(threads.at_most(1)) {
    constexpr Index least_work = 8192;  // elements below which a thread is not worth waking
    if (a.x.size() < least_work) return;
    unit_threads = threads.at_most(groups * shares);
    if (unit_threads == threads || cut.blocks <= unit_threads) return;
    unit_threads = threads.at_most(1);
    block_threads = threads;
  }

  Index channels, sequences, terms;
  ConvolutionCut cut;
  Index groups, shares;
  Threads unit_threads, block_threads;
};

}  // namespace ssm::cpu
