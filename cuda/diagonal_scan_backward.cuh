// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "diagonal_scan_tile.cuh"

namespace ssm::cuda::device {

template <class T>
struct BackwardLaunch {
  DiagonalScanBackward<T> call;
  const char* workspace;
  const Complex* checkpoints;
  const float2*
      tail_state;  // [S, D, kModes]  gradient that dfinal_state sends to the state before the last chunk
  const float* tail_input;  // [S, D, kChunk]  and to the last chunk's inputs
  float2* partial;          // [D, groups, 3, kModes]  gradients of c, b̄ and ā
  float* partial_skip;      // [D, groups]
  float4* kept_sums;        // [D, groups, sizeof(ChunkSums) / 16, kThreads]  float data only
  int sequences;
  int warps_per_sequence;
  unsigned zero;  // set_words
};

/// Tiles of a block in shared memory, as [chunks, 64] bf16 rows for the sums over chunks.
enum StoredTile { kInputs, kStates, kOutputs, kAdjoints, kStoredTiles };

template <class T>
struct BackwardShared {
  static constexpr int rows = kWarps * 16 * row_tiles<T>;
  static constexpr int tile = rows * 8;  // uint4
  static constexpr int matrix = operand_terms<T> * kFragmentWords;
  static constexpr std::size_t matrices = 4 * matrix + (operand_terms<T> == 1 ? kFragmentWords : 0);
  static constexpr std::size_t tiles = std::size_t{kStoredTiles} * operand_terms<T> * tile;
  static constexpr std::size_t bytes = (matrices + tiles) * 16 + ChannelLayout<T>::table_bytes +
                                       (2 * kWarps * kModes + 4 * kWarps * 8) * sizeof(float2);
};

/// Sums over chunks of one warp: 16 rows (outputs or adjoint states) by 64 columns each.
struct alignas(16) ChunkSums {
  float lower[8][4];     // Σ dyᵀ·state
  float toeplitz[8][4];  // Σ dyᵀ·u, column tiles up to the diagonal
  float lift[8][4];      // Σ adjointᵀ·u
  float row[2][4];       // Σ adjointᵀ·state, diagonal block
};

/// Stores run `v` of row `r` of this lane, one term, in shared memory.
template <class T>
__device__ inline void store_run(uint4* tiles, int which, int r, int v, int term, uint4 words) {
  using S = BackwardShared<T>;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  const int row = warp * 16 * row_tiles<T> + stored_row(g, r);
  tiles[(which * operand_terms<T> + term) * S::tile + row * 8 + stored_vector(row, 4 * v + q)] =
      words;
}

/// Rounds the states of two output tiles to operand pairs, in registers and in shared memory.
template <class T>
__device__ inline void keep_states(uint4* tiles, int which, OperandOf<T>& a, int pair,
                                   const float2 (&state)[2][2 * row_tiles<T>]) {
  using S = BackwardShared<T>;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int r = 0; r < 2 * row_tiles<T>; ++r) {
      const int row = warp * 16 * row_tiles<T> + stored_row(g, r);
      unsigned pairs[operand_terms<T>];
      split_bf16(state[h][r].x, state[h][r].y, pairs);
#pragma unroll
      for (int t = 0; t < operand_terms<T>; ++t) {
        a.pair[t][r / 2][pair][r % 2 + 2 * h] = pairs[t];
        unsigned* const word =
            reinterpret_cast<unsigned*>(tiles + (which * operand_terms<T> + t) * S::tile + row * 8 +
                                        stored_vector(row, 2 * pair + h));
        word[q] = pairs[t];
      }
    }
}

template <class T>
__device__ inline const uint4* stored_address(const uint4* tiles, int which, int term, int row,
                                              int vector) {
  using S = BackwardShared<T>;
  return tiles + (which * operand_terms<T> + term) * S::tile + row * 8 + stored_vector(row, vector);
}

/// Adds the products over all chunks in shared memory to this warp's sums.
template <class T>
__device__ inline void add_products(ChunkSums& sums, const uint4* tiles) {
  constexpr int terms = operand_terms<T>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, which = lane / 8, line = lane % 8;
#pragma unroll 1
  for (int k = 0; k < BackwardShared<T>::rows; k += 16) {
    unsigned outputs[terms][4], adjoints[terms][4];
#pragma unroll
    for (int t = 0; t < terms; ++t) {
      const int row = k + line + 8 * (which / 2), vector = 2 * warp + which % 2;
      load_transposed(outputs[t], stored_address<T>(tiles, kOutputs, t, row, vector));
      load_transposed(adjoints[t], stored_address<T>(tiles, kAdjoints, t, row, vector));
    }
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      unsigned inputs[terms][4], states[terms][4];
#pragma unroll
      for (int t = 0; t < terms; ++t) {
        const int row = k + line + 8 * (which % 2), vector = 2 * pair + which / 2;
        load_transposed(inputs[t], stored_address<T>(tiles, kInputs, t, row, vector));
        load_transposed(states[t], stored_address<T>(tiles, kStates, t, row, vector));
      }
#pragma unroll
      for (int t = 0; t < terms * terms; ++t) {
        const int left = t / terms, right = t % terms;
        if (left + right >= terms) continue;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int tile = 2 * pair + h;
          multiply_tile(sums.lower[tile], outputs[left], states[right][2 * h],
                        states[right][2 * h + 1]);
          multiply_tile(sums.lift[tile], adjoints[left], inputs[right][2 * h],
                        inputs[right][2 * h + 1]);
          if (pair <= warp)
            multiply_tile(sums.toeplitz[tile], outputs[left], inputs[right][2 * h],
                          inputs[right][2 * h + 1]);
          if (pair == warp)
            multiply_tile(sums.row[h], adjoints[left], states[right][2 * h],
                          states[right][2 * h + 1]);
        }
      }
    }
  }
}

/// Adds the sums to `kept` and clears them. Tensor cores truncate when they accumulate: for float data no more than a
/// tile is summed there.
__device__ inline void flush(ChunkSums& sums, float4* kept) {
  float4* const values = reinterpret_cast<float4*>(&sums);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(ChunkSums) / 16); ++i) {
    float4& to = kept[i * kThreads + threadIdx.x];
    to = {to.x + values[i].x, to.y + values[i].y, to.z + values[i].z, to.w + values[i].w};
    values[i] = {0.f, 0.f, 0.f, 0.f};
  }
}

/// Turns the sums of a block into gradients of c, b̄, ā and skip by the chain rule through the powers of ā.
template <class T>
__device__ inline void contract(const ChunkSums& sums, float* scratch,
                                const BackwardLaunch<T>& launch) {
  using Layout = ChannelLayout<T>;
  constexpr int pitch = kChunk + 1;
  float* const lower = scratch;
  float* const toeplitz = lower + kChunk * pitch;
  float* const lift = toeplitz + kChunk * pitch;
  float* const row = lift + kChunk * pitch;  // [4][16][17]
  float* const tap = row + 4 * 16 * 17;      // [kChunk]
  float2* const part_sum = reinterpret_cast<float2*>(lower);
  const int channel = blockIdx.x, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4,
            q = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < 8; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = (16 * warp + g + 8 * (i / 2)) * pitch + 8 * tile + 2 * q + i % 2;
      lower[at] = sums.lower[tile][i];
      toeplitz[at] = sums.toeplitz[tile][i];
      lift[at] = sums.lift[tile][i];
      if (tile < 2)
        row[(warp * 16 + g + 8 * (i / 2)) * 17 + 8 * tile + 2 * q + i % 2] = sums.row[tile][i];
    }
  __syncthreads();
  if (threadIdx.x < kChunk) {
    float sum = 0.f;
    for (int i = 0; i + threadIdx.x < kChunk; ++i) sum += toeplitz[(i + threadIdx.x) * pitch + i];
    tap[threadIdx.x] = sum;
  }
  __syncthreads();
  const char* const base = launch.workspace + channel * Layout::bytes;
  const float2* const table = reinterpret_cast<const float2*>(base + Layout::table_at);
  const float2* const power = reinterpret_cast<const float2*>(base + Layout::powers_at);
  const int mode = threadIdx.x % kModes, part = threadIdx.x / kModes;
  const float2 b = table[kInput * kTablePitch + mode], c = table[kOutput * kTablePitch + mode],
               bc = multiply(b, c);
  float2 da{0.f, 0.f}, db{0.f, 0.f}, dc{0.f, 0.f};
  const auto scale = [](float s, float2 v) { return float2{s * v.x, s * v.y}; };
  for (int i = 16 * part; i < 16 * part + 16; ++i) {
    const int rest = kChunk - 1 - i;
    const float2 here = power[i * kModes + mode], next = power[(i + 1) * kModes + mode];
    const float2 far = power[rest * kModes + mode];
    const float2 dlower{2.f * lower[i * pitch + 2 * mode], -2.f * lower[i * pitch + 2 * mode + 1]};
    dc = multiply_add(dlower, conjugate(next), dc);
    da = multiply_add(dlower, conjugate(scale(i + 1.f, multiply(c, here))), da);
    const float2 dlift{lift[2 * mode * pitch + i], lift[(2 * mode + 1) * pitch + i]};
    db = multiply_add(dlift, conjugate(far), db);
    if (rest > 0)
      da = multiply_add(dlift,
                        conjugate(scale(rest, multiply(b, power[(rest - 1) * kModes + mode]))), da);
    const float dtap = 2.f * tap[i];
    dc = multiply_add(scale(dtap, conjugate(b)), conjugate(here), dc);
    db = multiply_add(scale(dtap, conjugate(c)), conjugate(here), db);
    if (i > 0)
      da = multiply_add(scale(dtap * i, conjugate(bc)), conjugate(power[(i - 1) * kModes + mode]),
                        da);
  }
  if (part == 0) {
    const float* const block = row + (mode / 8) * 16 * 17;
    const int at = 2 * (mode % 8);
    const float2 drow{block[at * 17 + at] + block[(at + 1) * 17 + at + 1],
                      block[(at + 1) * 17 + at] - block[at * 17 + at + 1]};
    da = multiply_add(drow, conjugate(scale(kChunk, power[(kChunk - 1) * kModes + mode])), da);
  }
  __syncthreads();
  part_sum[(part * 3 + 0) * kModes + mode] = dc;
  part_sum[(part * 3 + 1) * kModes + mode] = db;
  part_sum[(part * 3 + 2) * kModes + mode] = da;
  const long long group = static_cast<long long>(channel) * gridDim.y + blockIdx.y;
  if (threadIdx.x == 0) launch.partial_skip[group] = tap[0];
  __syncthreads();
  if (threadIdx.x < 3 * kModes) {
    float2 sum{0.f, 0.f};
    for (int p = 0; p < kWarps; ++p) {
      const float2 v = part_sum[p * 3 * kModes + threadIdx.x];
      sum = {sum.x + v.x, sum.y + v.y};
    }
    launch.partial[group * 3 * kModes + threadIdx.x] = sum;
  }
}

/// The adjoint walk of channel blockIdx.x over sequences blockIdx.y, blockIdx.y + gridDim.y, …
template <class T, bool GatedIn, bool GatedOut, bool Chained>
__global__ void __launch_bounds__(kThreads, operand_terms<T> == 1 ? 2 : 1)
    scan_backward(const BackwardLaunch<T> launch) {
  constexpr int terms = operand_terms<T>, rows = row_tiles<T>, R = 2 * rows;
  using Layout = ChannelLayout<T>;
  using Shared = BackwardShared<T>;
  extern __shared__ uint4 shared[];
  uint4* const tiles = shared + Shared::matrices;
  float2* const table = reinterpret_cast<float2*>(tiles + Shared::tiles);
  float2* const carries = table + kTableRows * kTablePitch;
  const DiagonalScanBackward<T>& call = launch.call;
  const int channel = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4,
            q = lane % 4;
  const char* const base = launch.workspace + channel * Layout::bytes;
  // In shared memory: as many terms as the data has. Further terms and the gates' matrices come through the cache.
  const auto staged = [&](int slot, int which) {
    stage(shared + slot * Shared::matrix, base + which * Layout::matrix_bytes, Shared::matrix * 16);
    const uint4* const first = shared + slot * Shared::matrix;
    return Packed{first, terms > 1
                             ? first + kFragmentWords
                             : reinterpret_cast<const uint4*>(base + which * Layout::matrix_bytes) +
                                   kFragmentWords};
  };
  const auto cached = [&](int which) {
    const uint4* const first = reinterpret_cast<const uint4*>(base + which * Layout::matrix_bytes);
    return Packed{first, first + kFragmentWords};
  };
  Packed lift = staged(0, kLift);
  if constexpr (terms == 1) {
    stage(shared + 4 * Shared::matrix, lift.rest, kFragmentWords * 16);
    lift.rest = shared + 4 * Shared::matrix;
  }
  const Packed raise = staged(1, kRaise), correlate = staged(2, kBackward);
  const Packed spread = staged(3, kSpread), toeplitz = cached(kToeplitz), lower = cached(kLower);
  stage(reinterpret_cast<uint4*>(table), base + Layout::table_at, Layout::table_bytes);
  wait_for_copies();
  __syncthreads();

  const int share = Chained ? launch.warps_per_sequence : 1, side = kWarps / share;
  const Chain walk{carries + warp * kModes,
                   carries + 2 * kWarps * kModes + (warp / share) * share * 8, table, share,
                   share - 1 - warp % share};
  const Chain again{carries + (kWarps + warp) * kModes, nullptr, table, 1, 0};
  const float skip = call.parameters.skip != nullptr ? call.parameters.skip[channel] : 0.f;
  ChunkSums sums{};
  constexpr bool flushed = terms == 3;
  constexpr int pieces = sizeof(ChunkSums) / 16;
  float4* const kept =
      launch.kept_sums +
      (static_cast<long long>(channel) * gridDim.y + blockIdx.y) * pieces * kThreads;
  if constexpr (flushed)
    for (int i = 0; i < pieces; ++i) kept[i * kThreads + threadIdx.x] = {0.f, 0.f, 0.f, 0.f};
  for (int first = blockIdx.y * side; first < launch.sequences; first += gridDim.y * side) {
    const int s = first + warp / share;
    const Range range = sequence_range<tile_positions<T>>(call.shape, s);
    const long long item = static_cast<long long>(s) * call.shape.channels + channel;
    walk.carry[lane] = {0.f, 0.f};
    __syncwarp();
    const T* const x = at(call.x, range, channel);
    const T* const dy = at(call.dy, range, channel);
    T* const dx = at(call.dx, range, channel);
    const T* const gate_in = GatedIn ? at(call.gate_in, range, channel) : nullptr;
    const T* const gate_out = GatedOut ? at(call.gate_out, range, channel) : nullptr;
    T* const dgate_in = GatedIn ? at(call.dgate_in, range, channel) : nullptr;
    T* const dgate_out = GatedOut ? at(call.dgate_out, range, channel) : nullptr;
    const bool vector = is_aligned(x) && is_aligned(dy) && is_aligned(dx) && is_aligned(gate_in) &&
                        is_aligned(gate_out) && is_aligned(dgate_in) && is_aligned(dgate_out);
    const int common = call.shape.segments != nullptr ? range.length : call.shape.length;
    const int tile_count = (common + tile_positions<T> - 1) / tile_positions<T>;
    const int last_chunk = (range.length - 1) / kChunk;
    const bool tail = launch.tail_state != nullptr && range.length > 0;

    for (int at_tile = (tile_count + share - 1) / share * share - share; at_tile >= 0;
         at_tile -= share) {
      const int tile = at_tile + warp % share;
      const long long offset = static_cast<long long>(tile) * tile_positions<T>;
      const int left = static_cast<int>(max(range.length - offset, 0ll));
      const bool full = vector && left >= tile_positions<T>;
      OperandOf<T> u, state;
      load_tile<T, GatedIn>(
          u, x + offset, GatedIn && gate_in != nullptr ? gate_in + offset : nullptr, left, full,
          launch.zero,
          [&](int r, int v, int t, uint4 words) { store_run<T>(tiles, kInputs, r, v, t, words); });
      if (tile >= share) {
        // The tile that this warp takes next: one line a lane.
        constexpr int line = tile_positions<T> / 32;
        const long long next =
            offset - static_cast<long long>(share) * tile_positions<T> + lane * line;
        for (int i = 0; i < line; i += static_cast<int>(128 / sizeof(T)))
          prefetch(x + next + i), prefetch(dy + next + i);
      }
      float2 start{0.f, 0.f};
      if (left > 0) {
        const Complex c =
            launch
                .checkpoints[((range.checkpoint + tile) * call.shape.channels + channel) * kModes +
                             lane];
        start = {c.re, c.im};
      }
      again.carry[lane] = start;
      __syncwarp();
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        float sum[rows][2][4] = {};
#pragma unroll
        for (int step = 0; step < 4; ++step)
          multiply_pair<matrix_terms<T>>(sum[0], 2, u, step, pair, lift);
        float2 added[2][R], before[2][R];
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int r = 0; r < R; ++r)
            added[h][r] = {sum[r / 2][h][2 * (r % 2)], sum[r / 2][h][2 * (r % 2) + 1]};
        scan_rows<false, false>(added, before, again, pair);
        keep_states<T>(tiles, kStates, state, pair, before);
      }
      if (GatedOut && gate_out != nullptr && left > 0) {
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          float sum[rows][4][4] = {};
#pragma unroll
          for (int pair = 0; pair < 2; ++pair)
#pragma unroll
            for (int step = 0; step < 4; ++step) {
              if (step / 2 <= v)
                multiply_pair<terms>(&sum[0][2 * pair], 4, u, step, 2 * v + pair, toeplitz);
              multiply_pair<terms>(&sum[0][2 * pair], 4, state, step, 2 * v + pair, lower);
            }
          Runs<T> input, gate, factor;
          const bool reread = GatedIn && gate_in != nullptr && skip != 0.f;
          if (reread)
            input.load(x + offset, v, left, full), gate.load(gate_in + offset, v, left, full);
          factor.load(dy + offset, v, left, full);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const int position = run_position<rows>(r, v);
            float value[8], out[8];
            if (reread) {
              widen<T>(input.raw[r], value);
              gate.multiply_into(value, r);
            } else {
              get_run<terms, rows>(u, r / 2, r % 2, v, value);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
              out[i] = sum[r / 2][i / 2][2 * (r % 2) + i % 2] + skip * value[i];
            factor.multiply_into(out, r);
            store_eight(dgate_out + offset + position, left - position, full, out);
          }
        }
      }

      OperandOf<T> d, adjoint;
      load_tile<T, GatedOut>(
          d, dy + offset, GatedOut && gate_out != nullptr ? gate_out + offset : nullptr, left, full,
          launch.zero,
          [&](int r, int v, int t, uint4 words) { store_run<T>(tiles, kOutputs, r, v, t, words); });
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        float sum[rows][2][4] = {};
#pragma unroll
        for (int step = 0; step < 4; ++step)
          multiply_pair<matrix_terms<T>>(sum[0], 2, d, step, pair, raise);
        float2 added[2][R], after[2][R];
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int r = 0; r < R; ++r) {
            added[h][r] = {sum[r / 2][h][2 * (r % 2)], sum[r / 2][h][2 * (r % 2) + 1]};
            if (tail && tile * (16 * rows) + g * R + r == last_chunk) {
              const float2 extra = launch.tail_state[item * kModes + 8 * pair + 4 * h + q];
              added[h][r] = {added[h][r].x + extra.x, added[h][r].y + extra.y};
            }
          }
        scan_rows<true, Chained>(added, after, walk, pair);
        keep_states<T>(tiles, kAdjoints, adjoint, pair, after);
      }
      __syncwarp();
      if (left > 0) {
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          float sum[rows][4][4] = {};
#pragma unroll
          for (int pair = 0; pair < 2; ++pair)
#pragma unroll
            for (int step = 0; step < 4; ++step) {
              if (step / 2 >= v)
                multiply_pair<terms>(&sum[0][2 * pair], 4, d, step, 2 * v + pair, correlate);
              multiply_pair<terms>(&sum[0][2 * pair], 4, adjoint, step, 2 * v + pair, spread);
            }
          Runs<T> input, gate;
          if (GatedIn && gate_in != nullptr)
            input.load(x + offset, v, left, full), gate.load(gate_in + offset, v, left, full);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const int position = run_position<rows>(r, v);
            float value[8], out[8];
            get_run<terms, rows>(d, r / 2, r % 2, v, value);
#pragma unroll
            for (int i = 0; i < 8; ++i)
              out[i] = sum[r / 2][i / 2][2 * (r % 2) + i % 2] + skip * value[i];
            if (tail && tile * (16 * rows) + g * R + r == last_chunk) {
              const float* const extra = launch.tail_input + item * kChunk + position % kChunk;
#pragma unroll
              for (int i = 0; i < 8; ++i) out[i] += extra[i];
            }
            if (GatedIn && gate_in != nullptr) {
#pragma unroll
              for (int i = 0; i < 8; ++i) value[i] = out[i];
              input.multiply_into(value, r);
              store_eight(dgate_in + offset + position, left - position, full, value);
              gate.multiply_into(out, r);
            }
            store_eight(dx + offset + position, left - position, full, out);
          }
        }
      }
      __syncthreads();
      add_products<T>(sums, tiles);
      if constexpr (flushed) flush(sums, kept);
      __syncthreads();
    }
    if (call.dinitial_state != nullptr && s < launch.sequences && lane < call.shape.modes) {
      const float2 v = walk.carry[lane];
      Complex* const out = call.dinitial_state + item * call.shape.modes + lane;
      if (range.length > 0) {
        *out = {v.x, v.y};
      } else {
        *out = call.dfinal_state != nullptr ? call.dfinal_state[item * call.shape.modes + lane]
                                            : Complex{0.f, 0.f};
      }
    }
    __syncwarp();
  }
  if constexpr (flushed)
    for (int i = 0; i < pieces; ++i)
      reinterpret_cast<float4*>(&sums)[i] = kept[i * kThreads + threadIdx.x];
  contract<T>(sums, reinterpret_cast<float*>(tiles), launch);
}

}  // namespace ssm::cuda::device
