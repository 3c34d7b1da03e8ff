// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernel/chunks.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/cascaded_scan.hpp"

namespace ssm::cuda::device {

template <class T>
struct CascadedSource {
  Operand<const T, 3> u, dt, B;
  Operand<const Wide<T>, 2> A;
  Operand<const Wide<T>, 3> initial_state;
};

/// What the passes over a cascaded scan of at most M sources read. Arrays of all scans have those
/// of the sources first and the cascaded one's as element M.
template <class T, int M>
struct CascadedOperands {
  using W = Wide<T>;

  CascadedOperands(const ssm::CascadedScan<T, CudaSpace>& a, DeviceSegments segments,
                   SequenceChunks chunks)
      : gate(operand(a.gate)),
        dt(operand(a.dt)),
        A(operand(a.A)),
        C(operand(a.C)),
        initial_state(operand(a.initial_state)),
        chunking(segments, a.dt.extent(0), a.dt.extent(1), chunks),
        channels(a.A.extent(0)),
        states(a.A.extent(1)),
        count(static_cast<int>(a.sources.size())) {
    for (int i = 0; i < count; ++i) {
      const auto& s = a.sources[static_cast<std::size_t>(i)];
      sources[i] = {
          operand(View<const T, 3, CudaSpace>(s.u)), operand(View<const T, 3, CudaSpace>(s.dt)),
          operand(View<const T, 3, CudaSpace>(s.B)), operand(View<const W, 2, CudaSpace>(s.A)),
          operand(View<const W, 3, CudaSpace>(s.initial_state))};
    }
  }

  /// Whether element i of an array of all scans is one.
  SSM_DEVICE bool has(int i) const { return i < count || i == M; }
  /// Element n, d of a [m + 1, N, D] array of a place.
  SSM_DEVICE Index at(Index place, int i, Index n, Index d) const {
    const Index scan = place * (count + 1) + (i == M ? count : i);
    return (scan * states + n) * channels + d;
  }
  /// Element d of a [m + 1, D] array of a place.
  SSM_DEVICE Index step_at(Index place, int i, Index d) const {
    return (place * (count + 1) + (i == M ? count : i)) * channels + d;
  }
  /// Element n, d of a [m, N, D] array of a place.
  SSM_DEVICE Index through_at(Index place, int i, Index n, Index d) const {
    return ((place * count + i) * states + n) * channels + d;
  }
  SSM_DEVICE void load_rates(Index n, Index d, W (&rate)[M + 1]) const {
    SSM_UNROLL
    for (int i = 0; i < M; ++i) rate[i] = i < count ? sources[i].A(d, n) : W{0};
    rate[M] = A(d, n);
  }
  SSM_DEVICE W step(int i, Index b, Index t, Index d) const {
    return widened(i == M ? dt(b, t, d) : sources[i].dt(b, t, d));
  }
  SSM_DEVICE W gate_at(Index b, Index t, Index d) const {
    return count > 0 ? widened(gate(b, t, d)) : W{0};
  }
  /// All scans by one position; decay[i] is what they fade by.
  SSM_DEVICE void advance(Index b, Index t, Index n, Index d, const W (&rate)[M + 1],
                          W (&decay)[M + 1], const W (&before)[M + 1], W (&after)[M + 1]) const {
    W sum{0};
    SSM_UNROLL
    for (int i = 0; i < M; ++i) {
      decay[i] = W{1};
      after[i] = W{0};
      if (i >= count) continue;
      const W step = widened(sources[i].dt(b, t, d));
      decay[i] = std::exp(step * rate[i]);
      after[i] = decay[i] * before[i] +
                 step * widened(sources[i].B(b, t, n)) * widened(sources[i].u(b, t, d));
      sum += after[i];
    }
    decay[M] = std::exp(widened(dt(b, t, d)) * rate[M]);
    after[M] = decay[M] * before[M] + gate_at(b, t, d) * sum;
  }

  CascadedSource<T> sources[M];
  Operand<const T, 3> gate, dt;
  Operand<const W, 2> A;
  Operand<const T, 3> C;
  Operand<const W, 3> initial_state;
  Chunking chunking;
  Index channels;
  Index states;
  int count;
};

/// Where the parts of the workspace that both directions have begin.
template <class T, int M>
struct CascadedScratch {
  using W = Wide<T>;

  CascadedScratch(W* workspace, const CascadedOperands<T, M>& a)
      : entries(workspace),
        through(entries + a.chunking.places * (a.count + 1) * a.states * a.channels),
        steps(through + a.chunking.places * a.count * a.states * a.channels),
        rest(steps + a.chunking.places * (a.count + 1) * a.channels) {}

  W* entries;  // [places, m + 1, N, D]   what chunks do to zero states, then what enters them
  W* through;  // [places, m, N, D]       what a source's state in front makes of the cascaded one
  W* steps;    // [places, m + 1, D]      sums of dt
  W* rest;
};

/// A state of a channel over a chunk, from zero states.
template <class T, int M>
struct CascadedChunkPass {
  using W = Wide<T>;

  SSM_DEVICE void operator()(Index index) const {
    const Index d = index % a.channels;
    const Index n = index / a.channels % a.states;
    const Chunk chunk = a.chunking.at(index / a.channels / a.states);
    const Index b = chunk.s.batch;
    W rate[M + 1];
    W state[M + 1] = {};
    W faded[M];
    W through[M] = {};
    W steps[M + 1] = {};
    a.load_rates(n, d, rate);
    SSM_UNROLL
    for (int i = 0; i < M; ++i) faded[i] = W{1};
    for (Index t = chunk.begin; t < chunk.end; ++t) {
      W decay[M + 1];
      W after[M + 1];
      a.advance(b, t, n, d, rate, decay, state, after);
      const W gate = a.gate_at(b, t, d);
      SSM_UNROLL
      for (int i = 0; i <= M; ++i) {
        state[i] = after[i];
        if (a.has(i)) steps[i] += a.step(i, b, t, d);
      }
      SSM_UNROLL
      for (int i = 0; i < M; ++i) {
        faded[i] *= decay[i];
        through[i] = decay[M] * through[i] + gate * faded[i];
      }
    }
    SSM_UNROLL
    for (int i = 0; i <= M; ++i) {
      if (!a.has(i)) continue;
      scratch.entries[a.at(chunk.place, i, n, d)] = state[i];
      if (i < M) scratch.through[a.through_at(chunk.place, i, n, d)] = through[i < M ? i : 0];
      if (n == 0) scratch.steps[a.step_at(chunk.place, i, d)] = steps[i];
    }
  }

  CascadedOperands<T, M> a;
  CascadedScratch<T, M> scratch;
};

/// From what chunks do to zero states, the states that enter each; a state of a channel of a
/// sequence.
template <class T, int M>
struct CascadedJoin {
  using W = Wide<T>;

  SSM_DEVICE void operator()(Index index) const {
    const Index d = index % a.channels;
    const Index n = index / a.channels % a.states;
    const Sequence s = a.chunking.packing.sequence(index / a.channels / a.states);
    const Index first = a.chunking.first(s);
    const Index count = a.chunking.count(s);
    W rate[M + 1];
    W state[M + 1] = {};
    a.load_rates(n, d, rate);
    SSM_UNROLL
    for (int i = 0; i < M; ++i)
      if (i < a.count) state[i] = value_or(W{0}, a.sources[i].initial_state, s.row, d, n);
    state[M] = value_or(W{0}, a.initial_state, s.row, d, n);
    for (Index place = first; place < first + count; ++place) {
      W own[M + 1];
      SSM_UNROLL
      for (int i = 0; i <= M; ++i) {
        own[i] = W{0};
        if (!a.has(i)) continue;
        W& entry = scratch.entries[a.at(place, i, n, d)];
        own[i] = entry;
        entry = state[i];
      }
      if (a.chunking.whole) return;
      W cascaded = own[M] + std::exp(rate[M] * scratch.steps[a.step_at(place, M, d)]) * state[M];
      SSM_UNROLL
      for (int i = 0; i < M; ++i) {
        if (i >= a.count) continue;
        cascaded += scratch.through[a.through_at(place, i, n, d)] * state[i];
        state[i] = own[i] + std::exp(rate[i] * scratch.steps[a.step_at(place, i, d)]) * state[i];
      }
      state[M] = cascaded;
    }
  }

  CascadedOperands<T, M> a;
  CascadedScratch<T, M> scratch;
};

/// The states that enter the chunks.
template <class T, int M>
void enter_cascaded_chunks(const CascadedOperands<T, M>& a, const CascadedScratch<T, M>& scratch,
                           Stream stream, const char* operation) {
  const Index states = a.states * a.channels;
  if (!a.chunking.whole)
    for_each_index(a.chunking.places * states, stream, operation,
                   CascadedChunkPass<T, M>{a, scratch});
  for_each_index(a.chunking.packing.sequences * states, stream, operation,
                 CascadedJoin<T, M>{a, scratch});
}

/// Calls run.template operator()<M>() with room for `count` sources.
template <class Run>
void with_cascaded_sources(std::size_t count, Run&& run) {
  if (count <= 1) return run.template operator()<1>();
  if (count <= 2) return run.template operator()<2>();
  if (count <= 4) return run.template operator()<4>();
  run.template operator()<8>();
}

}  // namespace ssm::cuda::device
