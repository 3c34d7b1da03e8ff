// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernel/chunks.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/decayed_chunks.hpp"

namespace ssm::cuda::device {

constexpr int kDecayedBlock = 4;  // a thread computes 4 × 4 numbers of a matrix

SSM_HOST_DEVICE constexpr Index decayed_blocks(Index n) {
  return (n + kDecayedBlock - 1) / kDecayedBlock;
}

/// sum += left ⊗ right
template <class T>
SSM_DEVICE void add_outer_product(const T (&left)[kDecayedBlock], const T (&right)[kDecayedBlock],
                                  T (&sum)[kDecayedBlock][kDecayedBlock]) {
  SSM_UNROLL
  for (int r = 0; r < kDecayedBlock; ++r) {
    SSM_UNROLL
    for (int s = 0; s < kDecayedBlock; ++s) sum[r][s] += left[r] * right[s];
  }
}

/// What all passes over a memory that fades read; `scale` is of v, null for 1.
template <class T>
struct DecayedMemory {
  DecayedMemory(const DecayedSizes& sizes, DeviceSegments segments, double* sums, T* workspace)
      : chunking(segments, sizes.batch, sizes.length, sizes.chunks),
        length(sizes.length),
        heads(sizes.heads),
        groups(sizes.groups),
        keys(sizes.keys),
        values(sizes.values),
        log_decay_sums(sums),
        from_begin(workspace),
        to_end(from_begin + sizes.rows()),
        scale(to_end + sizes.rows()),
        weights(scale + sizes.rows()),
        states(weights + sizes.rows() * sizes.chunks.length),
        adjoints(states + sizes.chunks.places * sizes.state()),
        pairs(adjoints + sizes.chunks.places * sizes.state()),
        rest(pairs + sizes.batch * sizes.length * sizes.groups * sizes.chunks.length) {}

  SSM_DEVICE Index row(Index b, Index t, Index h) const { return (b * length + t) * heads + h; }
  SSM_DEVICE Index state(Index place, Index h, Index c, Index j) const {
    return ((place * heads + h) * keys + c) * values + j;
  }
  SSM_DEVICE Index group_of(Index h) const { return h / (heads / groups); }
  SSM_DEVICE T value(Index b, Index t, Index h, Index j) const {
    return scales ? scale[row(b, t, h)] * v(b, t, h, j) : v(b, t, h, j);
  }
  /// e^{l_{m+1} + … + l_t}
  SSM_DEVICE T fade(Index b, Index t, Index m, Index h) const {
    return std::exp(static_cast<T>(log_decay_sums[row(b, t, h)] - log_decay_sums[row(b, m, h)]));
  }
  /// e^{sum of a chunk's l}
  SSM_DEVICE T fade_over(const Chunk& chunk, Index h) const {
    return chunk.end > chunk.begin ? from_begin[row(chunk.s.batch, chunk.end - 1, h)] : T{1};
  }
  /// The product of query t and key m where it counts, faded.
  SSM_DEVICE T& weight(Index b, Index t, Index h, Index m, const Chunk& chunk) const {
    return weights[row(b, t, h) * chunking.length + m - chunk.begin];
  }
  SSM_DEVICE T& pair(Index b, Index t, Index g, Index m, const Chunk& chunk) const {
    return pairs[((b * length + t) * groups + g) * chunking.length + m - chunk.begin];
  }

  Operand<const T, 4> q{}, k{}, v{};
  Chunking chunking;
  Index length;
  Index heads;
  Index groups;
  Index keys;
  Index values;
  bool scales = false;
  double* log_decay_sums;  // [B, L, H]   of l, from the chunk's first position to t
  T* from_begin;           // [B, L, H]   e^{l_begin + … + l_t}
  T* to_end;               // [B, L, H]   e^{l_{t+1} + … + l_{end−1}}
  T* scale;                // [B, L, H]
  T* weights;              // [B, L, H, chunk]
  T* states;               // [places, H, K, V]   what chunks add, then what enters them
  T* adjoints;             // [places, H, K, V]   likewise, backwards
  T* pairs;                // [B, L, G, chunk]    Σ_h fade·(dy_t·v_m)
  T* rest;
};

/// Sums of log decays over every chunk of a head, and their exponentials. LogDecay gives l_t of
/// (b, t, h).
template <class T, class LogDecay>
struct DecayedFactors {
  SSM_DEVICE void operator()(Index i) const {
    const Chunk chunk = a.chunking.at(i / a.heads);
    const Index h = i % a.heads;
    const Index b = chunk.s.batch;
    double sum = 0;
    for (Index t = chunk.begin; t < chunk.end; ++t) {
      sum += log_decay(b, t, h);
      a.log_decay_sums[a.row(b, t, h)] = sum;
      a.from_begin[a.row(b, t, h)] = std::exp(static_cast<T>(sum));
    }
    for (Index t = chunk.begin; t < chunk.end; ++t)
      a.to_end[a.row(b, t, h)] = std::exp(static_cast<T>(sum - a.log_decay_sums[a.row(b, t, h)]));
  }

  DecayedMemory<T> a;
  LogDecay log_decay;
};

/// A block of weights: fade(t, m)·(q_t·k_m) of the heads of a group.
template <class T>
struct DecayedWeights {
  SSM_DEVICE void operator()(Index i) const {
    const Index blocks = decayed_blocks(a.chunking.length);
    const Chunk chunk = a.chunking.at(i / blocks / blocks / a.groups);
    const Index g = i / blocks / blocks % a.groups;
    const Index b = chunk.s.batch;
    const Index t = chunk.begin + i / blocks % blocks * kDecayedBlock;
    const Index m = chunk.begin + i % blocks * kDecayedBlock;
    if (m > t || t >= chunk.end) return;
    T sum[kDecayedBlock][kDecayedBlock] = {};
    for (Index c = 0; c < a.keys; ++c) {
      T q[kDecayedBlock];
      T k[kDecayedBlock];
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        q[r] = t + r < chunk.end ? a.q(b, t + r, g, c) : T{0};
        k[r] = m + r < chunk.end ? a.k(b, m + r, g, c) : T{0};
      }
      add_outer_product(q, k, sum);
    }
    const Index shared = a.heads / a.groups;
    for (Index h = g * shared; h < (g + 1) * shared; ++h) {
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        SSM_UNROLL
        for (int s = 0; s < kDecayedBlock; ++s) {
          if (t + r >= chunk.end || m + s >= chunk.end) continue;
          a.weight(b, t + r, h, m + s, chunk) =
              m + s <= t + r ? a.fade(b, t + r, m + s, h) * sum[r][s] : T{0};
        }
      }
    }
  }

  DecayedMemory<T> a;
};

/// A block of what a chunk adds to the state, Σ_m to_end_m·k_m ⊗ v_m; or of what it hands to the
/// adjoint in front of it, Σ_t from_begin_t·q_t ⊗ dy_t.
template <class T>
struct DecayedOuterProducts {
  SSM_DEVICE void operator()(Index i) const {
    const Index columns = decayed_blocks(a.values);
    const Index rows = decayed_blocks(a.keys);
    const Index j = i % columns;
    const Index c = i / columns % rows * kDecayedBlock;
    const Index h = i / columns / rows % a.heads;
    const Chunk chunk = a.chunking.at(i / columns / rows / a.heads);
    const Index b = chunk.s.batch;
    const Index g = a.group_of(h);
    T sum[kDecayedBlock][kDecayedBlock] = {};
    for (Index t = chunk.begin; t < chunk.end; ++t) {
      const T factor = backwards ? a.from_begin[a.row(b, t, h)] : a.to_end[a.row(b, t, h)];
      T left[kDecayedBlock];
      T right[kDecayedBlock];
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        left[r] = T{0};
        if (c + r < a.keys)
          left[r] = factor * (backwards ? a.q(b, t, g, c + r) : a.k(b, t, g, c + r));
        right[r] = T{0};
        if (j + r * columns < a.values)
          right[r] = backwards ? dy(b, t, h, j + r * columns) : a.value(b, t, h, j + r * columns);
      }
      add_outer_product(left, right, sum);
    }
    T* const to = backwards ? a.adjoints : a.states;
    SSM_UNROLL
    for (int r = 0; r < kDecayedBlock; ++r) {
      SSM_UNROLL
      for (int s = 0; s < kDecayedBlock; ++s)
        if (c + r < a.keys && j + s * columns < a.values)
          to[a.state(chunk.place, h, c + r, j + s * columns)] = sum[r][s];
    }
  }

  DecayedMemory<T> a;
  Operand<const T, 4> dy;
  bool backwards;
};

/// From what chunks add, the state that enters each, or the adjoint that enters it from behind. An
/// element of a head's state of a sequence.
template <class T>
struct DecayedJoin {
  SSM_DEVICE void operator()(Index i) const {
    const Index j = i % a.values;
    const Index c = i / a.values % a.keys;
    const Index h = i / a.values / a.keys % a.heads;
    const Sequence s = a.chunking.packing.sequence(i / a.values / a.keys / a.heads);
    const Index first = a.chunking.first(s);
    const Index count = a.chunking.count(s);
    T* const entries = backwards ? a.adjoints : a.states;
    T state = value_or(T{0}, start, s.row, h, c, j);
    for (Index n = 0; n < count; ++n) {
      const Chunk chunk = chunk_of(s, first, backwards ? count - 1 - n : n);
      T& entry = entries[a.state(chunk.place, h, c, j)];
      const T added = has_added ? entry : T{0};
      entry = state;
      state = a.fade_over(chunk, h) * state + added;
    }
    if (final_state) final_state(s.row, h, c, j) = state;
  }
  SSM_DEVICE Chunk chunk_of(const Sequence& s, Index first, Index n) const {
    const Index begin = s.begin + n * a.chunking.length;
    const Index end = begin + a.chunking.length;
    return {s, first + n, begin, end < s.end ? end : s.end, true};
  }

  DecayedMemory<T> a;
  Operand<const T, 4> start;
  Operand<T, 4> final_state;
  bool has_added;  // false where nobody asks what the chunks add: one chunk each, no final state
  bool backwards;
};

/// A block of outputs: Σ_{m≤t} weight(t, m)·v_m + from_begin_t·q_t·S. put(b, t, h, j, value)
template <class T, class Put>
struct DecayedOutputs {
  SSM_DEVICE void operator()(Index i) const {
    const Index columns = decayed_blocks(a.values);
    const Index blocks = decayed_blocks(a.chunking.length);
    const Index j = i % columns;
    const Index h = i / columns / blocks % a.heads;
    const Chunk chunk = a.chunking.at(i / columns / blocks / a.heads);
    const Index b = chunk.s.batch;
    const Index g = a.group_of(h);
    const Index t = chunk.begin + i / columns % blocks * kDecayedBlock;
    if (t >= chunk.end) return;
    T sum[kDecayedBlock][kDecayedBlock] = {};
    for (Index c = 0; has_state && c < a.keys; ++c) {
      T q[kDecayedBlock];
      T state[kDecayedBlock];
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        q[r] = t + r < chunk.end ? a.q(b, t + r, g, c) : T{0};
        state[r] = j + r * columns < a.values
                       ? a.states[a.state(chunk.place, h, c, j + r * columns)]
                       : T{0};
      }
      add_outer_product(q, state, sum);
    }
    SSM_UNROLL
    for (int r = 0; r < kDecayedBlock; ++r) {
      const T factor = t + r < chunk.end ? a.from_begin[a.row(b, t + r, h)] : T{0};
      SSM_UNROLL
      for (int s = 0; s < kDecayedBlock; ++s) sum[r][s] *= factor;
    }
    const Index end = t + kDecayedBlock < chunk.end ? t + kDecayedBlock : chunk.end;
    for (Index m = chunk.begin; m < end; ++m) {
      T weight[kDecayedBlock];
      T value[kDecayedBlock];
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        weight[r] = t + r < chunk.end ? a.weight(b, t + r, h, m, chunk) : T{0};
        value[r] = j + r * columns < a.values ? a.value(b, m, h, j + r * columns) : T{0};
      }
      add_outer_product(weight, value, sum);
    }
    SSM_UNROLL
    for (int r = 0; r < kDecayedBlock; ++r) {
      SSM_UNROLL
      for (int s = 0; s < kDecayedBlock; ++s)
        if (t + r < chunk.end && j + s * columns < a.values)
          put(b, t + r, h, j + s * columns, sum[r][s]);
    }
  }

  DecayedMemory<T> a;
  bool has_state;  // false where every state that enters is zero
  Put put;
};

/// A block of gradients of values: Σ_{t≥m} weight(t, m)·dy_t + to_end_m·k_m·R, with R the adjoint
/// that enters from behind. put(b, m, h, j, value)
template <class T, class Put>
struct DecayedValueGradients {
  SSM_DEVICE void operator()(Index i) const {
    const Index columns = decayed_blocks(a.values);
    const Index blocks = decayed_blocks(a.chunking.length);
    const Index j = i % columns;
    const Index h = i / columns / blocks % a.heads;
    const Chunk chunk = a.chunking.at(i / columns / blocks / a.heads);
    const Index b = chunk.s.batch;
    const Index g = a.group_of(h);
    const Index m = chunk.begin + i / columns % blocks * kDecayedBlock;
    if (m >= chunk.end) return;
    T sum[kDecayedBlock][kDecayedBlock] = {};
    for (Index c = 0; has_adjoint && c < a.keys; ++c) {
      T k[kDecayedBlock];
      T adjoint[kDecayedBlock];
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        k[r] = m + r < chunk.end ? a.k(b, m + r, g, c) : T{0};
        adjoint[r] = j + r * columns < a.values
                         ? a.adjoints[a.state(chunk.place, h, c, j + r * columns)]
                         : T{0};
      }
      add_outer_product(k, adjoint, sum);
    }
    SSM_UNROLL
    for (int r = 0; r < kDecayedBlock; ++r) {
      const T factor = m + r < chunk.end ? a.to_end[a.row(b, m + r, h)] : T{0};
      SSM_UNROLL
      for (int s = 0; s < kDecayedBlock; ++s) sum[r][s] *= factor;
    }
    for (Index t = m; t < chunk.end; ++t) {
      T weight[kDecayedBlock];
      T gradient[kDecayedBlock];
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        weight[r] = m + r < chunk.end ? a.weight(b, t, h, m + r, chunk) : T{0};
        gradient[r] = j + r * columns < a.values ? dy(b, t, h, j + r * columns) : T{0};
      }
      add_outer_product(weight, gradient, sum);
    }
    SSM_UNROLL
    for (int r = 0; r < kDecayedBlock; ++r) {
      SSM_UNROLL
      for (int s = 0; s < kDecayedBlock; ++s)
        if (m + r < chunk.end && j + s * columns < a.values)
          put(b, m + r, h, j + s * columns, sum[r][s]);
    }
  }

  DecayedMemory<T> a;
  Operand<const T, 4> dy;
  bool has_adjoint;
  Put put;
};

/// A block of pairs: Σ_h fade(t, m)·(dy_t·v_m) over the heads of a group.
template <class T>
struct DecayedPairs {
  SSM_DEVICE void operator()(Index i) const {
    const Index blocks = decayed_blocks(a.chunking.length);
    const Chunk chunk = a.chunking.at(i / blocks / blocks / a.groups);
    const Index g = i / blocks / blocks % a.groups;
    const Index b = chunk.s.batch;
    const Index t = chunk.begin + i / blocks % blocks * kDecayedBlock;
    const Index m = chunk.begin + i % blocks * kDecayedBlock;
    if (m > t || t >= chunk.end) return;
    T sum[kDecayedBlock][kDecayedBlock] = {};
    const Index shared = a.heads / a.groups;
    for (Index h = g * shared; h < (g + 1) * shared; ++h) {
      T product[kDecayedBlock][kDecayedBlock] = {};
      for (Index j = 0; j < a.values; ++j) {
        T gradient[kDecayedBlock];
        T value[kDecayedBlock];
        SSM_UNROLL
        for (int r = 0; r < kDecayedBlock; ++r) {
          gradient[r] = t + r < chunk.end ? dy(b, t + r, h, j) : T{0};
          value[r] = m + r < chunk.end ? a.value(b, m + r, h, j) : T{0};
        }
        add_outer_product(gradient, value, product);
      }
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        SSM_UNROLL
        for (int s = 0; s < kDecayedBlock; ++s)
          if (t + r < chunk.end && m + s <= t + r)
            sum[r][s] += a.fade(b, t + r, m + s, h) * product[r][s];
      }
    }
    SSM_UNROLL
    for (int r = 0; r < kDecayedBlock; ++r) {
      SSM_UNROLL
      for (int s = 0; s < kDecayedBlock; ++s)
        if (t + r < chunk.end && m + s < chunk.end) a.pair(b, t + r, g, m + s, chunk) = sum[r][s];
    }
  }

  DecayedMemory<T> a;
  Operand<const T, 4> dy;
};

/// A block of gradients of queries or of keys:
///   dq_t = Σ_{m≤t} pair(t, m)·k_m + Σ_h from_begin_t·S·dy_t
///   dk_m = Σ_{t≥m} pair(t, m)·q_t + Σ_h to_end_m·R·v_m
template <class T>
struct DecayedKeyGradients {
  SSM_DEVICE void operator()(Index i) const {
    const Index columns = decayed_blocks(a.keys);
    const Index blocks = decayed_blocks(a.chunking.length);
    const Index c = i % columns;
    const Index g = i / columns / blocks % a.groups;
    const Chunk chunk = a.chunking.at(i / columns / blocks / a.groups);
    const Index b = chunk.s.batch;
    const Index t = chunk.begin + i / columns % blocks * kDecayedBlock;
    if (t >= chunk.end) return;
    T sum[kDecayedBlock][kDecayedBlock] = {};
    const Index shared = a.heads / a.groups;
    for (Index h = g * shared; has_state && h < (g + 1) * shared; ++h)
      add_state(chunk, h, t, c, columns, sum);
    const Index past = t + kDecayedBlock < chunk.end ? t + kDecayedBlock : chunk.end;
    const Index end = of_keys ? chunk.end : past;
    for (Index m = of_keys ? t : chunk.begin; m < end; ++m) {
      T pair[kDecayedBlock];
      T other[kDecayedBlock];
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        pair[r] = T{0};
        if (t + r < chunk.end)
          pair[r] = of_keys ? a.pair(b, m, g, t + r, chunk) : a.pair(b, t + r, g, m, chunk);
        other[r] = T{0};
        if (c + r * columns < a.keys)
          other[r] = of_keys ? a.q(b, m, g, c + r * columns) : a.k(b, m, g, c + r * columns);
      }
      add_outer_product(pair, other, sum);
    }
    SSM_UNROLL
    for (int r = 0; r < kDecayedBlock; ++r) {
      SSM_UNROLL
      for (int s = 0; s < kDecayedBlock; ++s)
        if (t + r < chunk.end && c + s * columns < a.keys)
          to(b, t + r, g, c + s * columns) = sum[r][s];
    }
  }
  SSM_DEVICE void add_state(const Chunk& chunk, Index h, Index t, Index c, Index columns,
                            T (&sum)[kDecayedBlock][kDecayedBlock]) const {
    const Index b = chunk.s.batch;
    const T* const states = of_keys ? a.adjoints : a.states;
    T product[kDecayedBlock][kDecayedBlock] = {};
    for (Index j = 0; j < a.values; ++j) {
      T value[kDecayedBlock];
      T state[kDecayedBlock];
      SSM_UNROLL
      for (int r = 0; r < kDecayedBlock; ++r) {
        value[r] = T{0};
        if (t + r < chunk.end) value[r] = of_keys ? a.value(b, t + r, h, j) : dy(b, t + r, h, j);
        state[r] =
            c + r * columns < a.keys ? states[a.state(chunk.place, h, c + r * columns, j)] : T{0};
      }
      add_outer_product(value, state, product);
    }
    SSM_UNROLL
    for (int r = 0; r < kDecayedBlock; ++r) {
      if (t + r >= chunk.end) continue;
      const Index row = a.row(b, t + r, h);
      const T factor = of_keys ? a.to_end[row] : a.from_begin[row];
      SSM_UNROLL
      for (int s = 0; s < kDecayedBlock; ++s) sum[r][s] += factor * product[r][s];
    }
  }

  DecayedMemory<T> a;
  Operand<const T, 4> dy;
  Operand<T, 4> to;
  bool has_state;
  bool of_keys;
};

/// The passes, in the order in which they are made.
template <class T>
struct DecayedPasses {
  DecayedMemory<T> a;
  Stream stream;
  const char* operation;

  Index blocks() const { return decayed_blocks(a.chunking.length); }
  Index chunk_heads() const { return a.chunking.places * a.heads; }
  Index sequence_states() const {
    return a.chunking.packing.sequences * a.heads * a.keys * a.values;
  }

  template <class LogDecay>
  void factors(LogDecay log_decay) const {
    for_each_index(chunk_heads(), stream, operation, DecayedFactors<T, LogDecay>{a, log_decay});
  }
  void weights() const {
    for_each_index(a.chunking.places * a.groups * blocks() * blocks(), stream, operation,
                   DecayedWeights<T>{a});
  }
  /// The states that enter the chunks; what leaves the last ones goes to final_state.
  void states(const Operand<const T, 4>& initial_state, const Operand<T, 4>& final_state) const {
    join(false, {}, initial_state, final_state);
  }
  /// The adjoints that enter the chunks from behind.
  void adjoints(const Operand<const T, 4>& dy, const Operand<const T, 4>& dfinal_state,
                const Operand<T, 4>& dinitial_state) const {
    join(true, dy, dfinal_state, dinitial_state);
  }
  template <class Put>
  void outputs(bool has_state, Put put) const {
    for_each_index(chunk_heads() * blocks() * decayed_blocks(a.values), stream, operation,
                   DecayedOutputs<T, Put>{a, has_state || !a.chunking.whole, put});
  }
  template <class Put>
  void value_gradients(const Operand<const T, 4>& dy, bool has_adjoint, Put put) const {
    for_each_index(chunk_heads() * blocks() * decayed_blocks(a.values), stream, operation,
                   DecayedValueGradients<T, Put>{a, dy, has_adjoint || !a.chunking.whole, put});
  }
  void pairs(const Operand<const T, 4>& dy) const {
    for_each_index(a.chunking.places * a.groups * blocks() * blocks(), stream, operation,
                   DecayedPairs<T>{a, dy});
  }
  void key_gradients(const Operand<const T, 4>& dy, const Operand<T, 4>& to, bool has_state,
                     bool of_keys) const {
    for_each_index(a.chunking.places * a.groups * blocks() * decayed_blocks(a.keys), stream,
                   operation,
                   DecayedKeyGradients<T>{a, dy, to, has_state || !a.chunking.whole, of_keys});
  }

 private:
  void join(bool backwards, const Operand<const T, 4>& dy, const Operand<const T, 4>& start,
            const Operand<T, 4>& end) const {
    const bool has_added = !a.chunking.whole || end;
    if (!has_added && !start) return;  // nobody reads the zeros
    if (has_added)
      for_each_index(chunk_heads() * decayed_blocks(a.keys) * decayed_blocks(a.values), stream,
                     operation, DecayedOuterProducts<T>{a, dy, backwards});
    for_each_index(sequence_states(), stream, operation,
                   DecayedJoin<T>{a, start, end, has_added, backwards});
  }
};

/// The only position of every sequence: S = fade·S + k ⊗ scale·v, y = q·S.
/// Factors: fade(b, h), scale(b, h)
template <class T, class Factors, class Put>
struct DecayedStep {
  /// One value; neighbors read neighbors where values are contiguous.
  SSM_DEVICE void operator()(Index i) const {
    const Index j = i % a.values;
    const Index h = i / a.values % a.heads;
    const Index b = i / a.values / a.heads;
    const T fade = factors.fade(b, h);
    const T value = factors.scale(b, h) * a.v(b, 0, h, j);
    T sum{0};
    for (Index c = 0; c < a.keys; ++c) sum += advance(b, h, c, j, fade, value);
    put(b, 0, h, j, sum);
  }
  /// One value by a warp, for keys that are contiguous.
  SSM_DEVICE void operator()(Index i, Lanes lanes) const {
    const Index j = i % a.values;
    const Index h = i / a.values % a.heads;
    const Index b = i / a.values / a.heads;
    const T fade = factors.fade(b, h);
    const T value = factors.scale(b, h) * a.v(b, 0, h, j);
    const T sum = lanes.sum(a.keys, [&](Index c) { return advance(b, h, c, j, fade, value); });
    if (lanes.first()) put(b, 0, h, j, sum);
  }
  SSM_DEVICE T advance(Index b, Index h, Index c, Index j, T fade, T value) const {
    const Index g = a.group_of(h);
    const T state = fade * value_or(T{0}, initial_state, b, h, c, j) + a.k(b, 0, g, c) * value;
    if (final_state) final_state(b, h, c, j) = state;
    return a.q(b, 0, g, c) * state;
  }

  DecayedMemory<T> a;
  Factors factors;
  Operand<const T, 4> initial_state;
  Operand<T, 4> final_state;
  Put put;
};

/// Whether sequences are of one position each, which is one kernel.
template <class T>
bool is_decayed_step(const DecayedMemory<T>& a) {
  return a.length == 1 && a.chunking.packing.offsets == nullptr;
}
template <class T, class Factors, class Put>
void step_decayed(const DecayedStep<T, Factors, Put>& step, Stream stream, const char* operation) {
  const auto& a = step.a;
  const Index values = a.chunking.packing.sequences * a.heads * a.values;
  if (step.initial_state && step.initial_state.strides[2] == 1)
    for_each_row(values, stream, operation, step);
  else
    for_each_index(values, stream, operation, step);
}

}  // namespace ssm::cuda::device
