// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/decayed_memory.cuh"

namespace ssm::cuda::device {

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

}  // namespace ssm::cuda::device
