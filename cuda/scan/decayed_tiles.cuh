// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/chunks.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/tensor_core.cuh"
#include "ssm/backend/cuda/decayed_chunks.hpp"

namespace ssm::cuda::device {

/// Positions of a chunk, and rows of the tile that a block computes.
inline constexpr int kTile = static_cast<int>(kDecayedTile);

/// Positions of a step of walk_values, a half of a tile.
inline constexpr int kSpan = kTile / 2;

/// [B, L, H, C] in a half type, C contiguous, every row 16-byte aligned.
template <class T>
struct HeadRows {
  SSM_HOST_DEVICE T* at(Index b, Index t, Index h) const {
    return data + b * batch + t * position + h * head;
  }
  SSM_HOST_DEVICE explicit operator bool() const { return data != nullptr; }

  T* data = nullptr;
  Index batch = 0;
  int position = 0;
  Index head = 0;
};
template <class T>
HeadRows<T> head_rows(const View<T, 4, CudaSpace>& x) {
  return {x.data(), x.stride(0), static_cast<int>(x.stride(1)), x.stride(2)};
}

/// What all passes read of a memory that fades, in a half type; sums in float. `workspace` is
/// sizes.tiled_forward_scratch() or tiled_backward_scratch() floats, 16-byte aligned, and more
/// behind them.
template <class T>
struct TiledMemory {
  TiledMemory(const DecayedSizes& n, DeviceSegments segments, float* workspace, bool backward)
      : chunking(segments, n.batch, n.length, n.chunks),
        length(n.length),
        rows(n.rows()),
        heads(static_cast<int>(n.heads)),
        groups(static_cast<int>(n.groups)),
        keys(static_cast<int>(n.keys)),
        values(static_cast<int>(n.values)),
        chunks_of_sequence(static_cast<int>(
            Chunking::at_least_one((n.length + n.chunks.length - 1) / n.chunks.length))) {
    constexpr Index tile_size = kTile * kTile;
    states = reinterpret_cast<T*>(workspace);
    T* const squares = states + n.chunks.places * n.state();
    (n.heads > n.groups ? products : weights) = squares;
    adjoints = squares + n.chunks.places * n.groups * tile_size;
    pairs = adjoints + (backward ? n.chunks.places * n.state() : 0);
    log_sums =
        reinterpret_cast<float*>(pairs + (backward ? n.chunks.places * n.groups * tile_size : 0));
    from_begin = log_sums + n.rows();
    to_end = from_begin + n.rows();
    scale = to_end + n.rows();
    added = scale + n.rows();
    rest = log_sums + (5 * n.rows() + 3) / 4 * 4;
  }
  SSM_HOST_DEVICE Index row(Index b, Index t, Index h) const {
    return (b * length + t) * heads + h;
  }
  SSM_HOST_DEVICE Index state(Index place, Index h) const {
    return (place * heads + h) * keys * values;
  }
  SSM_HOST_DEVICE Index weight(Index place, Index h) const {
    return (place * heads + h) * kTile * kTile;
  }
  /// Where a number of every position of a chunk of a head is, in arrays of position_sums().
  SSM_HOST_DEVICE Index position_sum(Index place, Index h) const {
    return (place * heads + h) * kTile;
  }
  SSM_HOST_DEVICE Index position_sums() const { return chunking.places * heads * kTile; }
  SSM_HOST_DEVICE Index pair(Index place, Index g) const {
    return (place * groups + g) * kTile * kTile;
  }
  /// chunking.at(place), in arithmetic of 32 bits where sequences are not packed.
  __device__ Chunk chunk(int place) const {
    if (chunking.packing.offsets != nullptr) return chunking.at(place);
    const int row = place / chunks_of_sequence;
    const Index begin = (place - row * chunks_of_sequence) * chunking.length;
    const Index end = begin + chunking.length;
    return {{row, row, 0, length}, place, begin, end < length ? end : length, true};
  }

  HeadRows<const T> q{}, k{}, v{};
  Chunking chunking;
  Index length;
  Index rows;  // B·L·H
  int heads;
  int groups;
  int keys;
  int values;
  int chunks_of_sequence;
  T* states;              // [places, H, K, V]       that enter the chunks
  T* weights = nullptr;   // [places, H, 128, 128]   fade·(q_t·k_m); null where heads share keys
  T* products = nullptr;  // [places, G, 128, 128]   q_t·k_m, 0 where m > t; null if nobody reads it
  T* adjoints;            // [places, H, K, V]       that enter the chunks from behind
  T* pairs;               // [places, G, 128, 128]   Σ_h fade·scale_m·(dy_t·v_m)
  float* log_sums;        // [B, L, H]   l_begin + … + l_t
  float* from_begin;      // [B, L, H]   e^{l_begin + … + l_t}
  float* to_end;          // [B, L, H]   e^{l_{t+1} + … + l_{end−1}}
  float* scale;           // [B, L, H]   of v
  float* added;           // [B, L, H]   to_end·scale
  float* rest;            // 16-byte aligned
};

/// Factors of the chunks. Decays: scale(b, t, h) of the value, rate(h), with l_t = scale·rate.
template <class T, class Decays>
struct TiledFactors {
  static constexpr int heads = 8;  // of a block, a warp each

  TiledMemory<T> a;
  Decays decays;
  float* spans;  // [2, B, L, H]   as from_begin and to_end, of spans of a chunk; or null
};

/// A block: a chunk of a few neighboring heads. Numbers pass through shared memory, as those of a
/// head lie far from each other.
template <class T, class Decays>
__global__ void __launch_bounds__(32 * TiledFactors<T, Decays>::heads)
    tiled_factors_kernel(const __grid_constant__ TiledFactors<T, Decays> f) {
  constexpr int heads = TiledFactors<T, Decays>::heads, arrays = 7;
  constexpr int own = kTile / 32;  // neighboring positions of a lane
  static_assert(own == 4);
  __shared__ float4 numbers[arrays][heads][kTile / own + 1];
  const auto& a = f.a;
  const int head_tiles = (a.heads + heads - 1) / heads;
  const Chunk chunk = a.chunking.at(blockIdx.x / head_tiles);
  const int first_head = static_cast<int>(blockIdx.x) % head_tiles * heads;
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  const Index b = chunk.s.batch;
  const auto at = [&](int array, int h, int t) -> float& {
    return reinterpret_cast<float*>(numbers[array][h])[t];
  };
  /// g(t, head of the block) of those that exist, neighbors in memory by neighboring threads.
  const auto each = [&](auto g) {
    for (int i = static_cast<int>(threadIdx.x); i < rows * heads; i += 32 * heads)
      if (first_head + i % heads < a.heads) g(i / heads, i % heads);
  };
  each([&](int t, int h) { at(3, h, t) = f.decays.scale(b, chunk.begin + t, first_head + h); });
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(threadIdx.x) / 32;
  if (first_head + head < a.heads) {
    const double rate = f.decays.rate(first_head + head);
    float scale[own];
    double sum[own];
    double total = 0;
#pragma unroll
    for (int r = 0; r < own; ++r) {
      scale[r] = lane * own + r < rows ? at(3, head, lane * own + r) : 0.0f;
      sum[r] = total += scale[r] * rate;
    }
    double before = total;
    for (int step = 1; step < 32; step *= 2) {
      const double other = __shfl_up_sync(0xffffffffu, before, step);
      if (lane >= step) before += other;
    }
    const double all = __shfl_sync(0xffffffffu, before, 31);
    const double half = __shfl_sync(0xffffffffu, before, 15);
    before -= total;
    float own_numbers[arrays][own];
#pragma unroll
    for (int r = 0; r < own; ++r) {
      const double until = before + sum[r];
      const float to_end = expf(static_cast<float>(all - until));
      own_numbers[0][r] = static_cast<float>(until);
      own_numbers[1][r] = expf(static_cast<float>(until));
      own_numbers[2][r] = to_end;
      own_numbers[3][r] = scale[r];
      own_numbers[4][r] = to_end * scale[r];
      if (f.spans == nullptr) continue;
      const bool is_later = lane >= 16;
      own_numbers[5][r] = expf(static_cast<float>(is_later ? until - half : until));
      own_numbers[6][r] = expf(static_cast<float>((is_later ? all : half) - until));
    }
#pragma unroll
    for (int i = 0; i < arrays; ++i)
      if (i < 5 || f.spans != nullptr)
        numbers[i][head][lane] = {own_numbers[i][0], own_numbers[i][1], own_numbers[i][2],
                                  own_numbers[i][3]};
  }
  __syncthreads();
  each([&](int t, int h) {
    const Index row = a.row(b, chunk.begin + t, first_head + h);
    a.log_sums[row] = at(0, h, t);
    a.from_begin[row] = at(1, h, t);
    a.to_end[row] = at(2, h, t);
    a.scale[row] = at(3, h, t);
    a.added[row] = at(4, h, t);
    if (f.spans == nullptr) return;
    f.spans[row] = at(5, h, t);
    f.spans[a.rows + row] = at(6, h, t);
  });
}

/// Values that a block takes.
SSM_HOST_DEVICE constexpr int value_tile(int values) { return values <= 64 ? 64 : kTile; }
SSM_HOST_DEVICE constexpr int value_tiles(int values) {
  return (values + value_tile(values) - 1) / value_tile(values);
}

/// States that enter the chunks: S = fade·S + Σ_t weight_t·left_t ⊗ right_t along the chunks of a
/// sequence, or against them. `start` and `end` may be null.
template <class T>
struct StateWalk {
  HeadRows<const T> left;   // of a group, K wide
  HeadRows<const T> right;  // of a head, V wide
  const float* weight;
  T* states;
  Operand<const float, 4> start;
  Operand<float, 4> end;
  bool backwards;
};

/// out_r = factor_r·x_r·S + Σ_m weight(r, m)·scale_m·z_m, of turned weights
/// Σ_m weight(m, r)·scale_m·z_m; y_r = row_scale_r·out_r + skip·skipped_r, rounded.
template <class T>
struct ValueProduct {
  HeadRows<const T> x;
  const T* states;
  const float* factor;
  HeadRows<const T> z;
  const float* scale;  // [B, L, H]   null for 1
  bool turned;
  bool has_state;
  HeadRows<T> y;
  const float* row_scale;  // [B, L, H]   null for 1
  HeadRows<const T> skipped;
  Operand<const float, 1> skip;
};

/// Values, span after span along the chunks of a sequence or against them, states in registers:
///   y_r = factor_r·x_r·S + Σ_m weight(r, m)·z_m,   then   S = fade·S + Σ_m added_m·k_m ⊗ z_m
/// with weights turned on the way back. Factors are those of spans. `start` and `end` may be null.
template <class T>
struct WalkedValues {
  HeadRows<const T> x;  // of a group, K wide
  HeadRows<const T> k;  // of a group, K wide
  HeadRows<const T> z;  // of a head, V wide
  const float* spans;   // [2, B, L, H]   from a span's begin, to its end
  bool backwards;
  HeadRows<T> y;
  T* states;  // that enter the chunks: only on the way back
  Operand<const float, 4> start;
  Operand<float, 4> end;
};

/// Sums over a chunk of a head, in parts of 32 positions or keys that are yet to be added, with
/// w(t, m) = fade·(q_t·k_m)·(dy_t·v_m):
///   rows        [4, places, H, 128]   Σ_{m<t} scale_m·w(t, m), parts of m up to that of t
///   columns     [4, places, H, 128]   Σ_{t>m} w(t, m), parts of t from that of m on
///   diagonal    [places, H, 128]      dy_t·v_t
///   of_states   [parts, places, H, 128]   q_t·S·dy_t of the states that enter, parts of keys
///   of_adjoints [parts, places, H, 128]   k_t·R·v_t of the adjoints
struct PositionSums {
  float* rows = nullptr;
  float* columns = nullptr;
  float* diagonal = nullptr;
  float* of_states = nullptr;
  float* of_adjoints = nullptr;

  explicit operator bool() const { return rows != nullptr; }
};

/// out_r = Σ_h factor_r·S·z_r + Σ_m pair(r, m)·x_m, of turned pairs Σ_m pair(m, r)·x_m.
template <class T>
struct KeyProduct {
  HeadRows<const T> z;
  const T* states;
  const float* factor;
  HeadRows<const T> x;
  bool turned;
  bool has_state;
  HeadRows<T> y;              // null if only the sums are wanted
  HeadRows<const T> partner;  // of the sums partner_r·S·z_r
  float* sums;                // as PositionSums, or null
};

template <class T>
void walk_states(const TiledMemory<T>& a, const StateWalk<T>& walk, Stream stream,
                 const char* operation);
/// a.weights and a.products, which are not null.
template <class T>
void multiply_weights(const TiledMemory<T>& a, Stream stream, const char* operation);
/// a.pairs, and the sums of pairs unless those are null; then a.products have been computed.
template <class T>
void multiply_pairs(const TiledMemory<T>& a, const HeadRows<const T>& dy, const PositionSums& sums,
                    Stream stream, const char* operation);
template <class T>
void multiply_values(const TiledMemory<T>& a, const ValueProduct<T>& product, Stream stream,
                     const char* operation);
template <class T>
void multiply_keys(const TiledMemory<T>& a, const KeyProduct<T>& product, Stream stream,
                   const char* operation);
template <class T>
void walk_values(const TiledMemory<T>& a, const WalkedValues<T>& walk, Stream stream,
                 const char* operation);
/// Whether walk_values can and is worth it: sequences of several chunks, and blocks for about half
/// of the multiprocessors.
template <class T>
bool walks_values(const TiledMemory<T>& a, const char* operation);

/// The passes, in the order in which they are made.
template <class T>
struct TiledPasses {
  TiledMemory<T> a;
  bool scales;  // the scale of v is not 1
  Stream stream;
  const char* operation;

  template <class Decays>
  void prepare(const Decays& decays, float* spans = nullptr) const {
    using Factors = TiledFactors<T, Decays>;
    const Index blocks = a.chunking.places * ((a.heads + Factors::heads - 1) / Factors::heads);
    if (blocks > 0)
      launch(tiled_factors_kernel<T, Decays>, dim3(static_cast<unsigned>(blocks)),
             32 * Factors::heads, 0, stream, operation, Factors{a, decays, spans});
    multiply_weights(a, stream, operation);
  }
  void states(const Operand<const float, 4>& initial_state,
              const Operand<float, 4>& final_state) const {
    if (a.chunking.whole && !initial_state && !final_state) return;  // nobody reads the zeros
    walk_states(a, {a.k, a.v, a.added, a.states, initial_state, final_state, false}, stream,
                operation);
  }
  void adjoints(const HeadRows<const T>& dy, const Operand<const float, 4>& dfinal_state,
                const Operand<float, 4>& dinitial_state) const {
    if (a.chunking.whole && !dfinal_state && !dinitial_state) return;
    walk_states(a, {a.q, dy, a.from_begin, a.adjoints, dfinal_state, dinitial_state, true}, stream,
                operation);
  }
  /// Where `has_initial` says whether there is an initial state.
  ValueProduct<T> outputs(bool has_initial) const {
    return {.x = a.q,
            .states = a.states,
            .factor = a.from_begin,
            .z = a.v,
            .scale = scales ? a.scale : nullptr,
            .turned = false,
            .has_state = has_initial || !a.chunking.whole,
            .y = {},
            .row_scale = nullptr,
            .skipped = {},
            .skip = {}};
  }
  /// Of scale·v.
  ValueProduct<T> value_gradients(const HeadRows<const T>& dy, bool has_final) const {
    return {.x = a.k,
            .states = a.adjoints,
            .factor = a.to_end,
            .z = dy,
            .scale = nullptr,
            .turned = true,
            .has_state = has_final || !a.chunking.whole,
            .y = {},
            .row_scale = nullptr,
            .skipped = {},
            .skip = {}};
  }
  void query_gradients(const HeadRows<const T>& dy, const HeadRows<T>& dq, bool has_initial,
                       const PositionSums& sums = {}) const {
    multiply_keys(a,
                  {.z = dy,
                   .states = a.states,
                   .factor = a.from_begin,
                   .x = a.k,
                   .turned = false,
                   .has_state = has_initial || !a.chunking.whole,
                   .y = dq,
                   .partner = a.q,
                   .sums = sums.of_states},
                  stream, operation);
  }
  void key_gradients(const HeadRows<T>& dk, bool has_final, const PositionSums& sums = {}) const {
    multiply_keys(a,
                  {.z = a.v,
                   .states = a.adjoints,
                   .factor = a.added,
                   .x = a.q,
                   .turned = true,
                   .has_state = has_final || !a.chunking.whole,
                   .y = dk,
                   .partner = a.k,
                   .sums = sums.of_adjoints},
                  stream, operation);
  }
};

}  // namespace ssm::cuda::device
