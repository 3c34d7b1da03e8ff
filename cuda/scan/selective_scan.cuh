// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/activation_functions.cuh"
#include "kernel/chunks.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/selective_scan.hpp"

namespace ssm::cuda::device {

/// What the passes over a selective scan read.
template <class T>
struct SelectiveOperands {
  using W = Wide<T>;

  SelectiveOperands(const ssm::SelectiveScan<T, CudaSpace>& a, DeviceSegments segments,
                    SequenceChunks chunks)
      : u(operand(a.u)),
        dt(operand(a.dt)),
        A(operand(a.A)),
        B(operand(a.B)),
        C(operand(a.C)),
        skip(operand(a.skip)),
        dt_bias(operand(a.dt_bias)),
        gate(operand(a.gate)),
        initial_state(operand(a.initial_state)),
        chunking(segments, a.u.extent(0), a.u.extent(1), chunks),
        channels(a.A.extent(0)),
        states(a.A.extent(1)),
        dt_softplus(a.dt_softplus) {}

  SSM_DEVICE W raw_step(Index b, Index t, Index d) const {
    return widened(dt(b, t, d)) + value_or(W{0}, dt_bias, d);
  }
  /// Δ
  SSM_DEVICE W step(Index b, Index t, Index d) const {
    const W raw = raw_step(b, t, d);
    return dt_softplus ? activate<W>(ActivationKind::softplus, raw) : raw;
  }
  /// Element n, d of a [N, D] array of a place.
  SSM_DEVICE Index at(Index place, Index n, Index d) const {
    return (place * states + n) * channels + d;
  }

  Operand<const T, 3> u, dt;
  Operand<const W, 2> A;
  Operand<const T, 3> B, C;
  Operand<const W, 1> skip, dt_bias;
  Operand<const T, 3> gate;
  Operand<const W, 3> initial_state;
  Chunking chunking;
  Index channels;
  Index states;
  bool dt_softplus;
};

/// From what chunks do to a zero state, the state that enters each: forwards from the initial
/// state, or backwards from the gradient of the final one. A state n of channel d of a sequence.
template <class T>
struct SelectiveJoin {
  using W = Wide<T>;

  SSM_DEVICE void operator()(Index i) const {
    const Index d = i % a.channels;
    const Index n = i / a.channels % a.states;
    const Sequence s = a.chunking.packing.sequence(i / a.channels / a.states);
    const Index first = a.chunking.first(s);
    const Index count = a.chunking.count(s);
    const W rate = a.A(d, n);
    W state = value_or(W{0}, start, s.row, d, n);
    for (Index c = 0; c < count; ++c) {
      const Index place = first + (backwards ? count - 1 - c : c);
      W& entry = entries[a.at(place, n, d)];
      const W own = a.chunking.whole ? W{0} : entry;
      entry = state;
      if (!a.chunking.whole) state = std::exp(rate * steps[place * a.channels + d]) * state + own;
    }
    if (final_state) final_state(s.row, d, n) = state;
  }

  SelectiveOperands<T> a;
  W* entries;      // [places, N, D]   what chunks do, then what enters them
  const W* steps;  // [places, D]      sums of Δ
  Operand<const W, 3> start;
  Operand<W, 3> final_state;
  bool backwards;
};

template <class T>
void join_selective_chunks(const SelectiveJoin<T>& join, Stream stream, const char* operation) {
  const auto& a = join.a;
  for_each_index(a.chunking.packing.sequences * a.states * a.channels, stream, operation, join);
}

/// A channel of a chunk: its outputs, or where only_state is set what it does to a zero state.
template <class T>
struct SelectivePass {
  using W = Wide<T>;
  static constexpr int tile = 4;  // positions whose sums overlap
  static constexpr int width = kSelectiveStates;

  SSM_DEVICE void operator()(Index i) const {
    const Chunk chunk = a.chunking.at(i / a.channels);
    const Index d = i % a.channels;
    W state[width] = {};
    W rate[width] = {};
    W steps_so_far{0};
    // Once without positions too: the state passes through.
    const Index tiles = Chunking::at_least_one((chunk.end - chunk.begin + tile - 1) / tile);
    for (Index n = 0; chunk.exists && n < tiles; ++n)
      run_tile(chunk, chunk.begin + n * tile, d, state, rate, steps_so_far);
    if (only_state) steps[i] = steps_so_far;
  }

  SSM_DEVICE void run_tile(const Chunk& chunk, Index begin, Index d, W (&state)[width],
                           W (&rate)[width], W& steps_so_far) const {
    const Index b = chunk.s.batch;
    const bool is_first = begin == chunk.begin;
    const bool is_last = begin + tile >= chunk.end;
    const bool holds_all = a.states <= width;
    W step[tile];
    W input[tile];
    W sum[tile];
    SSM_UNROLL
    for (int k = 0; k < tile; ++k) {
      step[k] = input[k] = sum[k] = W{0};
      if (begin + k >= chunk.end) continue;
      step[k] = a.step(b, begin + k, d);
      input[k] = step[k] * widened(a.u(b, begin + k, d));
      steps_so_far += step[k];
    }
    for (Index first = 0; first < a.states; first += width) {
      if (is_first || !holds_all) {
        SSM_UNROLL
        for (int j = 0; j < width; ++j) {
          const bool exists = first + j < a.states;
          rate[j] = exists ? a.A(d, first + j) : W{0};
          state[j] = exists ? entering(chunk, is_first, first + j, d) : W{0};
        }
      }
      SSM_UNROLL
      for (int k = 0; k < tile; ++k) {
        if (begin + k >= chunk.end) continue;
        SSM_UNROLL
        for (int j = 0; j < width; ++j) {
          if (first + j >= a.states) continue;
          state[j] = std::exp(step[k] * rate[j]) * state[j] +
                     input[k] * widened(a.B(b, begin + k, first + j));
          if (!only_state) sum[k] += widened(a.C(b, begin + k, first + j)) * state[j];
        }
      }
      if (is_last || !holds_all) {
        SSM_UNROLL
        for (int j = 0; j < width; ++j)
          if (first + j < a.states) keep(chunk, is_last, first + j, d, state[j]);
      }
    }
    if (only_state) return;
    SSM_UNROLL
    for (int k = 0; k < tile; ++k)
      if (begin + k < chunk.end) write(b, begin + k, d, step[k], sum[k]);
  }

  SSM_DEVICE W entering(const Chunk& chunk, bool is_first, Index n, Index d) const {
    if (is_first && only_state) return W{0};
    if (is_first && a.chunking.whole) return value_or(W{0}, a.initial_state, chunk.s.row, d, n);
    return entries[a.at(chunk.place, n, d)];
  }
  SSM_DEVICE void keep(const Chunk& chunk, bool is_last, Index n, Index d, W state) const {
    if (!is_last || only_state)
      entries[a.at(chunk.place, n, d)] = state;
    else if (a.chunking.whole && final_state)
      final_state(chunk.s.row, d, n) = state;
  }
  SSM_DEVICE void write(Index b, Index t, Index d, W step, W sum) const {
    W output = sum + value_or(W{0}, a.skip, d) * widened(a.u(b, t, d));
    if (a.gate) output *= activate<W>(ActivationKind::silu, widened(a.gate(b, t, d)));
    y(b, t, d) = narrowed<T>(output);
    if (dt_used) dt_used(b, t, d) = narrowed<T>(step);
  }

  SelectiveOperands<T> a;
  W* entries;  // [places, N, D]
  W* steps;    // [places, D]
  bool only_state;
  Operand<W, 3> final_state;
  Operand<T, 3> dt_used;
  Operand<T, 3> y;
};

}  // namespace ssm::cuda::device
