// SPDX-License-Identifier: Apache-2.0
#include "scan/selective_scan.cuh"
#include "scan/selective_walk.cuh"

namespace ssm::cuda {
namespace device {
namespace {

/// Where the parts of the workspace begin.
template <class T>
struct SelectiveScratch {
  using W = Wide<T>;

  SelectiveScratch(W* workspace, const SelectiveOperands<T>& a,
                   const ssm::SelectiveScan<T, CudaSpace>& call, const SequenceChunks& chunks)
      : groups(selective_groups(call, chunks)),
        kept(workspace),
        entries(kept + selective_kept_states(call, chunks)),
        adjoints(entries + chunks.places * a.channels * a.states),
        dA(adjoints + chunks.places * a.channels * a.states),
        steps(dA + chunks.places * a.channels * a.states),
        dskip(steps + chunks.places * a.channels),
        dbias(dskip + chunks.places * a.channels),
        shared(dbias + chunks.places * a.channels) {}

  Index groups;  // blocks of a walk or warps that share a chunk
  W* kept;       // [places, groups, tiles, N, 32]   states in front of every tile; or a walk's
  W* entries;    // [places, N, D]   states that enter the chunks
  W* adjoints;   // [places, N, D]   of what leaves a chunk, then of what enters it
  W* dA;         // [places, N, D]
  W* steps;      // [places, D]      sums of Δ
  W* dskip;      // [places, D]
  W* dbias;      // [places, D]
  W* shared;     // [2, groups, B, L, N]   gradients of B and of C
};

template <class T>
SSM_DEVICE Wide<T> selective_gate(const SelectiveOperands<T>& a, Index b, Index t, Index d) {
  using W = Wide<T>;
  return a.gate ? activate<W>(ActivationKind::silu, widened(a.gate(b, t, d))) : W{1};
}

/// What a chunk of a channel makes of a zero adjoint: λ_t = C_t·g_t + exp(Δ_{t+1}·A)·λ_{t+1}.
template <class T>
struct SelectiveAdjointPass {
  using W = Wide<T>;
  static constexpr int width = kSelectiveStates;

  SSM_DEVICE void operator()(Index i) const {
    const Chunk chunk = a.chunking.at(i / a.channels);
    const Index d = i % a.channels;
    const Index b = chunk.s.batch;
    for (Index first = 0; first < a.states; first += width) {
      W adjoint[width];
      W rate[width];
      SSM_UNROLL
      for (int j = 0; j < width; ++j) {
        adjoint[j] = W{0};
        rate[j] = first + j < a.states ? a.A(d, first + j) : W{0};
      }
      for (Index t = chunk.end; t-- > chunk.begin;) {
        const W step = a.step(b, t, d);
        const W gradient = selective_gate(a, b, t, d) * widened(dy(b, t, d));
        SSM_UNROLL
        for (int j = 0; j < width; ++j)
          if (first + j < a.states)
            adjoint[j] =
                std::exp(step * rate[j]) * (adjoint[j] + widened(a.C(b, t, first + j)) * gradient);
      }
      SSM_UNROLL
      for (int j = 0; j < width; ++j)
        if (first + j < a.states) adjoints[a.at(chunk.place, first + j, d)] = adjoint[j];
    }
  }

  SelectiveOperands<T> a;
  Operand<const T, 3> dy;
  W* adjoints;
};

/// What every chunk makes of a zero adjoint.
template <class T>
void scan_selective_adjoints(const ssm::SelectiveScanBackward<T, CudaSpace>& g,
                             const SelectiveOperands<T>& a, Wide<T>* adjoints, Stream stream,
                             const char* operation) {
  const auto dy = operand(g.dy);
  if constexpr (!std::is_same_v<T, double>)
    if (walks(g.forward))
      return walk_selective_scan(SelectiveWalk<T>{.a = a, .entries = adjoints, .dy = dy},
                                 WalkFor::adjoints, stream, operation);
  for_each_index(a.chunking.places * a.channels, stream, operation,
                 SelectiveAdjointPass<T>{a, dy, adjoints});
}

/// A chunk, by a warp that holds a channel in every lane. With g = silu(gate)·dy:
///   λ_t = C_t·g_t + exp(Δ_{t+1}·A)·λ_{t+1}
///   du_t = Δ_t·Σ B_t·λ_t + skip·g_t               dB_t += λ_t·Δ_t·u_t        dC_t += g_t·state_t
///   dΔ_t = Σ λ_t·(A·exp(Δ_t·A)·state_{t−1} + B_t·u_t)       dA += λ_t·Δ_t·exp(Δ_t·A)·state_{t−1}
template <class T>
struct SelectiveGradientRow {
  using W = Wide<T>;
  static constexpr int tile = kSelectiveTile;
  static constexpr int width = 4;  // states at once
  static constexpr Index tiles = kSelectiveChunk / kSelectiveTile;

  /// The channel that a lane has.
  struct Lane {
    Chunk chunk;
    Index group;
    Index d;
    bool exists;    // the channel
    bool is_first;  // no channel was added to the shared sums before
    W dskip;
    W dbias;
  };
  /// What a channel has at the positions of a tile.
  struct Tile {
    W step[tile];
    W u[tile];
    W gradient[tile];  // g
    W dinput[tile];    // of Δ·u
    W ddt[tile];       // through the decays
    W output[tile];    // Σ C·state
  };

  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Chunk chunk = a.chunking.at(row / scratch.groups);
    const Index group = row % scratch.groups;
    for (Index block = group; block * Lanes::count < a.channels; block += scratch.groups) {
      const Index d = block * Lanes::count + lanes.index();
      Lane lane{chunk, group, d, d < a.channels, block == group, W{0}, W{0}};
      if (lane.exists) keep_states(lane, lanes);
      const Index length = chunk.end - chunk.begin;
      // Once without positions too: gradients of the place are zero.
      for (Index i = length > 0 ? (length - 1) / tile : 0; i >= 0; --i) run_tile(lane, i, lanes);
      if (!lane.exists) continue;
      scratch.dskip[chunk.place * a.channels + d] = lane.dskip;
      scratch.dbias[chunk.place * a.channels + d] = lane.dbias;
    }
  }

  SSM_DEVICE W& kept(const Lane& lane, Index i, Index n, Lanes lanes) const {
    const Index row = (lane.chunk.place * scratch.groups + lane.group) * tiles + i;
    return scratch.kept[(row * a.states + n) * kWarpChannels + lanes.index()];
  }
  /// Scans the chunk and stores the state in front of every tile.
  SSM_DEVICE void keep_states(const Lane& lane, Lanes lanes) const {
    constexpr int all = kSelectiveStates;
    const Chunk& chunk = lane.chunk;
    const Index length = chunk.end - chunk.begin;
    const Index last = length > 0 ? chunk.begin + (length - 1) / tile * tile : chunk.begin;
    for (Index first = 0; first < a.states; first += all) {
      W state[all];
      W rate[all];
      SSM_UNROLL
      for (int j = 0; j < all; ++j) {
        const bool exists = first + j < a.states;
        rate[j] = exists ? a.A(lane.d, first + j) : W{0};
        state[j] = exists ? scratch.entries[a.at(chunk.place, first + j, lane.d)] : W{0};
        if (exists) kept(lane, 0, first + j, lanes) = state[j];
      }
      for (Index t = chunk.begin, i = 1; t < last; ++t) {
        const W step = a.step(chunk.s.batch, t, lane.d);
        const W input = step * widened(a.u(chunk.s.batch, t, lane.d));
        SSM_UNROLL
        for (int j = 0; j < all; ++j)
          if (first + j < a.states)
            state[j] = std::exp(step * rate[j]) * state[j] +
                       input * widened(a.B(chunk.s.batch, t, first + j));
        if ((t + 1 - chunk.begin) % tile != 0) continue;
        SSM_UNROLL
        for (int j = 0; j < all; ++j)
          if (first + j < a.states) kept(lane, i, first + j, lanes) = state[j];
        ++i;
      }
    }
  }

  SSM_DEVICE void run_tile(Lane& lane, Index i, Lanes lanes) const {
    const Index b = lane.chunk.s.batch;
    const Index begin = lane.chunk.begin + i * tile;
    const Index end = lane.chunk.end;
    Tile at;
    SSM_UNROLL
    for (int k = 0; k < tile; ++k) {
      at.step[k] = at.u[k] = at.gradient[k] = at.dinput[k] = at.ddt[k] = at.output[k] = W{0};
      if (begin + k >= end || !lane.exists) continue;
      at.step[k] = a.step(b, begin + k, lane.d);
      at.u[k] = widened(a.u(b, begin + k, lane.d));
      at.gradient[k] = selective_gate(a, b, begin + k, lane.d) * widened(dy(b, begin + k, lane.d));
    }
    const bool is_first_run = begin + tile >= end;
    for (Index first = 0; first < a.states; first += width)
      run_states(lane, at, i, first, is_first_run, lanes);
    if (!lane.exists) return;
    SSM_UNROLL
    for (int k = 0; k < tile; ++k)
      if (begin + k < end) write(lane, at, begin + k, k);
  }

  /// States first … first + width − 1 over a tile, forwards and then backwards.
  SSM_DEVICE void run_states(const Lane& lane, Tile& at, Index i, Index first, bool is_first_run,
                             Lanes lanes) const {
    const Index b = lane.chunk.s.batch;
    const Index begin = lane.chunk.begin + i * tile;
    const Index end = lane.chunk.end;
    W rate[width];
    W adjoint[width];
    W dA[width];
    W state[tile + 1][width];
    W decay[tile][width];
    SSM_UNROLL
    for (int j = 0; j < width; ++j) {
      const bool exists = lane.exists && first + j < a.states;
      rate[j] = exists ? a.A(lane.d, first + j) : W{0};
      adjoint[j] = exists ? scratch.adjoints[a.at(lane.chunk.place, first + j, lane.d)] : W{0};
      state[0][j] = exists ? kept(lane, i, first + j, lanes) : W{0};
      dA[j] = W{0};
    }
    SSM_UNROLL
    for (int k = 0; k < tile; ++k) {
      SSM_UNROLL
      for (int j = 0; j < width; ++j) {
        decay[k][j] = W{1};
        state[k + 1][j] = state[k][j];
        if (begin + k >= end || first + j >= a.states) continue;
        decay[k][j] = std::exp(at.step[k] * rate[j]);
        state[k + 1][j] = decay[k][j] * state[k][j] +
                          at.step[k] * at.u[k] * widened(a.B(b, begin + k, first + j));
      }
    }
    SSM_UNROLL
    for (int k = tile - 1; k >= 0; --k) {
      if (begin + k >= end) continue;
      W sums[2 * width];
      SSM_UNROLL
      for (int j = 0; j < width; ++j) {
        sums[j] = sums[width + j] = W{0};
        if (first + j >= a.states) continue;
        const W C = widened(a.C(b, begin + k, first + j));
        const W lambda = adjoint[j] + C * at.gradient[k];
        const W decayed = decay[k][j] * state[k][j];
        sums[j] = lambda * at.step[k] * at.u[k];
        sums[width + j] = at.gradient[k] * state[k + 1][j];
        at.dinput[k] += lambda * widened(a.B(b, begin + k, first + j));
        at.ddt[k] += lambda * rate[j] * decayed;
        at.output[k] += C * state[k + 1][j];
        dA[j] += lambda * at.step[k] * decayed;
        adjoint[j] = lambda * decay[k][j];
      }
      if (shares)
        lanes.totals(sums, [&](int j, W total) {
          const Index n = first + j % width;
          if (n < a.states)
            add_shared(lane, j / width, b * a.chunking.packing.length + begin + k, n, total);
        });
    }
    if (!lane.exists) return;
    SSM_UNROLL
    for (int j = 0; j < width; ++j) {
      if (first + j >= a.states) continue;
      const Index place = a.at(lane.chunk.place, first + j, lane.d);
      scratch.adjoints[place] = adjoint[j];
      scratch.dA[place] = is_first_run ? dA[j] : scratch.dA[place] + dA[j];
    }
  }

  SSM_DEVICE void add_shared(const Lane& lane, Index which, Index position, Index n,
                             W total) const {
    W& sum =
        scratch
            .shared[((which * scratch.groups + lane.group) * positions + position) * a.states + n];
    sum = lane.is_first ? total : sum + total;
  }

  SSM_DEVICE void write(Lane& lane, const Tile& at, Index t, int k) const {
    const Index b = lane.chunk.s.batch;
    const Index d = lane.d;
    const W skip = value_or(W{0}, a.skip, d);
    W dstep = at.ddt[k] + at.dinput[k] * at.u[k];
    if (ddt_used) dstep += widened(ddt_used(b, t, d));
    if (a.dt_softplus) dstep *= sigmoid(a.raw_step(b, t, d));
    lane.dskip += at.gradient[k] * at.u[k];
    lane.dbias += dstep;
    put(du, b, t, d, at.dinput[k] * at.step[k] + skip * at.gradient[k]);
    put(ddt, b, t, d, dstep);
    if (dgate)
      put(dgate, b, t, d,
          widened(dy(b, t, d)) * (at.output[k] + skip * at.u[k]) *
              activation_slope<W>(ActivationKind::silu, widened(a.gate(b, t, d))));
  }
  SSM_DEVICE void put(const Operand<T, 3>& to, Index b, Index t, Index d, W value) const {
    if (!to) return;
    T& element = to(b, t, d);
    element = narrowed<T>(accumulate ? widened(element) + value : value);
  }

  SelectiveOperands<T> a;
  SelectiveScratch<T> scratch;
  Operand<const T, 3> dy, ddt_used;
  Operand<T, 3> du, ddt, dgate;
  Index positions;  // B·L
  bool shares;      // gradients of B and C are wanted
  bool accumulate;
};

/// The gradients of B or of C, from those of the warps.
template <class T>
struct SelectiveSharedSum {
  using W = Wide<T>;

  SSM_DEVICE void operator()(Index i) const {
    if (!to) return;
    W sum{0};
    for (Index g = 0; g < groups; ++g) sum += from[g * size + i];
    T& element = to(i / states / length, i / states % length, i % states);
    element = narrowed<T>(accumulate ? widened(element) + sum : sum);
  }

  const W* from;  // [groups, B, L, N]
  Operand<T, 3> to;
  Index groups;
  Index size;
  Index length;
  Index states;
  bool accumulate;
};

/// Gradients of sequences, and of the rest what every chunk adds.
template <class T>
void differentiate_chunks(const ssm::SelectiveScanBackward<T, CudaSpace>& g,
                          const SelectiveOperands<T>& a, const SelectiveScratch<T>& scratch,
                          Stream stream, const char* operation) {
  const Index positions = g.forward.B.extent(0) * g.forward.B.extent(1);
  const bool shares = g.dB || g.dC;
  if constexpr (!std::is_same_v<T, double>)
    if (walks(g.forward)) {
      walk_selective_scan(
          SelectiveWalk<T>{.a = a, .entries = scratch.entries, .kept = scratch.kept}, WalkFor::kept,
          stream, operation);
      return walk_selective_scan_back(
          SelectiveWalkBack<T>{a, operand(g.dy), operand(g.ddt_used), operand(g.dfinal_state),
                               operand(g.du), operand(g.ddt), operand(g.dgate), scratch.kept,
                               scratch.adjoints, scratch.dA, scratch.dskip, scratch.dbias,
                               scratch.shared, scratch.groups, positions, shares, g.accumulate},
          stream, operation);
    }
  for_each_row(
      a.chunking.places * scratch.groups, stream, operation,
      SelectiveGradientRow<T>{a, scratch, operand(g.dy), operand(g.ddt_used), operand(g.du),
                              operand(g.ddt), operand(g.dgate), positions, shares, g.accumulate});
}

template <class T>
void add_parameter_gradients(const ssm::SelectiveScanBackward<T, CudaSpace>& g,
                             const SelectiveOperands<T>& a, const SelectiveScratch<T>& scratch,
                             Stream stream, const char* operation) {
  using W = Wide<T>;
  const Index channels = a.channels;
  const Index places = a.chunking.places;
  const auto dA = operand(g.dA);
  const auto dskip = operand(g.dskip);
  const auto dbias = operand(g.ddt_bias);
  if (dA)
    sum_over_places(places, channels * a.states, scratch.dA, stream, operation,
                    [=] SSM_DEVICE(Index i, double sum) {
                      W& element = dA(i % channels, i / channels);
                      element = static_cast<W>(element + sum);
                    });
  if (dskip)
    sum_over_places(
        places, channels, scratch.dskip, stream, operation,
        [=] SSM_DEVICE(Index d, double sum) { dskip(d) = static_cast<W>(dskip(d) + sum); });
  if (dbias)
    sum_over_places(
        places, channels, scratch.dbias, stream, operation,
        [=] SSM_DEVICE(Index d, double sum) { dbias(d) = static_cast<W>(dbias(d) + sum); });
}

}  // namespace
}  // namespace device

template <class T>
void selective_scan_backward(const ssm::SelectiveScanBackward<T, CudaSpace>& g,
                             DeviceSegments segments, SequenceChunks chunks, Wide<T>* workspace,
                             Stream stream) {
  using namespace device;
  using W = Wide<T>;
  const char* const operation = "selective_scan_backward";
  const SelectiveOperands<T> a(g.forward, segments, chunks);
  const SelectiveScratch<T> scratch(workspace, a, g.forward, chunks);
  if (!chunks.whole) {
    scan_selective_chunks(g.forward, a, scratch.entries, scratch.steps, stream, operation);
    scan_selective_adjoints(g, a, scratch.adjoints, stream, operation);
  }
  if (!chunks.whole || !walks(g.forward)) {  // walks along whole sequences begin by themselves
    join_selective_chunks(
        SelectiveJoin<T>{a, scratch.entries, scratch.steps, a.initial_state, {}, false}, stream,
        operation);
    join_selective_chunks(
        SelectiveJoin<T>{a, scratch.adjoints, scratch.steps, operand(g.dfinal_state), {}, true},
        stream, operation);
  }
  const Index size = g.forward.B.size();
  const bool accumulate = g.accumulate;
  differentiate_chunks(g, a, scratch, stream, operation);
  const Index groups = a.channels > 0 ? scratch.groups : 0;
  const Index length = g.forward.B.extent(1);
  if (g.dB)
    for_each_index(size, stream, operation,
                   SelectiveSharedSum<T>{scratch.shared, operand(g.dB), groups, size, length,
                                         a.states, accumulate});
  if (g.dC)
    for_each_index(size, stream, operation,
                   SelectiveSharedSum<T>{scratch.shared + scratch.groups * size, operand(g.dC),
                                         groups, size, length, a.states, accumulate});
  const auto dinitial_state = operand(g.dinitial_state);
  if (dinitial_state)
    for_each_index(a.chunking.packing.sequences * a.states * a.channels, stream, operation,
                   [=] SSM_DEVICE(Index i) {
                     const Index d = i % a.channels;
                     const Index n = i / a.channels % a.states;
                     const Sequence s = a.chunking.packing.sequence(i / a.channels / a.states);
                     const W value = scratch.adjoints[a.at(a.chunking.first(s), n, d)];
                     W& element = dinitial_state(s.row, d, n);
                     element = accumulate ? element + value : value;
                   });
  add_parameter_gradients(g, a, scratch, stream, operation);
}

#define SSM_INSTANTIATE(T)                                                                       \
  template SSM_CUDA_API void selective_scan_backward<T>(                                         \
      const ssm::SelectiveScanBackward<T, CudaSpace>&, DeviceSegments, SequenceChunks, Wide<T>*, \
      Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
