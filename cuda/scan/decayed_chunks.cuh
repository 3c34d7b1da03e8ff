// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/decayed_chunk_gradients.cuh"
#include "scan/decayed_memory.cuh"

namespace ssm::cuda::device {

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

}  // namespace ssm::cuda::device
