// SPDX-License-Identifier: Apache-2.0
#include "scan/cascaded_scan.cuh"

namespace ssm::cuda {
namespace device {
namespace {

/// Where the parts of the workspace that the backward pass alone has begin.
template <class T, int M>
struct CascadedAdjoints {
  static constexpr Index tiles = kCascadedChunk / kCascadedTile;

  CascadedAdjoints(T* workspace, const CascadedOperands<T, M>& a)
      : groups(chunk_warps(a.chunking.places, a.channels)),
        adjoints(workspace),
        dA(adjoints + a.chunking.places * (a.count + 1) * a.states * a.channels),
        kept(dA + a.chunking.places * (a.count + 1) * a.states * a.channels),
        shared(kept +
               a.chunking.places * groups * tiles * (a.count + 1) * a.states * kWarpChannels) {}

  Index groups;  // warps that share a chunk
  T* adjoints;   // [places, m + 1, N, D]   of what leaves a chunk, then of what enters it
  T* dA;         // [places, m + 1, N, D]
  T* kept;       // [places, groups, tiles, m + 1, N, 32]   states in front of every tile
  T* shared;     // [m + 1, groups, B, L, N]   gradients of B, and of C
};

/// The gradients of a source, as kernels index them.
template <class T>
struct CascadedSourceGradient {
  Operand<T, 3> u, dt, B;
  Operand<T, 2> A;
  Operand<T, 3> initial_state;
};

/// What a chunk makes of zero adjoints, for a state of a channel:
///   λ_t = C_t·dy_t + exp(Δ_{t+1}·A)·λ_{t+1}
///   μ^i_t = gate_t·λ_t + exp(Δ^i_{t+1}·A^i)·μ^i_{t+1}
template <class T, int M>
struct CascadedAdjointPass {
  SSM_DEVICE void operator()(Index index) const {
    const Index d = index % a.channels;
    const Index n = index / a.channels % a.states;
    const Chunk chunk = a.chunking.at(index / a.channels / a.states);
    const Index b = chunk.s.batch;
    T rate[M + 1];
    T adjoint[M + 1] = {};
    a.load_rates(n, d, rate);
    for (Index t = chunk.end; t-- > chunk.begin;) {
      const T lambda = adjoint[M] + a.C(b, t, n) * dy(b, t, d);
      const T gated = a.gate_at(b, t, d) * lambda;
      SSM_UNROLL
      for (int i = 0; i < M; ++i)
        if (i < a.count) adjoint[i] = std::exp(a.step(i, b, t, d) * rate[i]) * (adjoint[i] + gated);
      adjoint[M] = std::exp(a.dt(b, t, d) * rate[M]) * lambda;
    }
    SSM_UNROLL
    for (int i = 0; i <= M; ++i)
      if (a.has(i)) scratch.adjoints[a.at(chunk.place, i, n, d)] = adjoint[i];
  }

  CascadedOperands<T, M> a;
  CascadedAdjoints<T, M> scratch;
  Operand<const T, 3> dy;
};

/// From what chunks make of zero adjoints, the adjoints that enter each from behind.
template <class T, int M>
struct CascadedAdjointJoin {
  SSM_DEVICE void operator()(Index index) const {
    const Index d = index % a.channels;
    const Index n = index / a.channels % a.states;
    const Sequence s = a.chunking.packing.sequence(index / a.channels / a.states);
    const Index first = a.chunking.first(s);
    T rate[M + 1];
    T adjoint[M + 1] = {};
    a.load_rates(n, d, rate);
    adjoint[M] = value_or(T{0}, dfinal_state, s.row, d, n);
    for (Index place = first + a.chunking.count(s); place-- > first;) {
      T own[M + 1];
      SSM_UNROLL
      for (int i = 0; i <= M; ++i) {
        own[i] = T{0};
        if (!a.has(i)) continue;
        T& entry = scratch.adjoints[a.at(place, i, n, d)];
        own[i] = entry;
        entry = adjoint[i];
      }
      if (a.chunking.whole) return;
      SSM_UNROLL
      for (int i = 0; i < M; ++i)
        if (i < a.count)
          adjoint[i] = own[i] +
                       std::exp(rate[i] * states.steps[a.step_at(place, i, d)]) * adjoint[i] +
                       states.through[a.through_at(place, i, n, d)] * adjoint[M];
      adjoint[M] = own[M] + std::exp(rate[M] * states.steps[a.step_at(place, M, d)]) * adjoint[M];
    }
  }

  CascadedOperands<T, M> a;
  CascadedScratch<T, M> states;
  CascadedAdjoints<T, M> scratch;
  Operand<const T, 3> dfinal_state;
};

/// A chunk, by a warp that holds a channel in every lane: λ and μ as above, dgate_t = Σ_n λ_t·Σ_i
/// source^i_t, and the sums of a selective scan for each scan.
template <class T, int M>
struct CascadedGradientRow {
  static constexpr int tile = kCascadedTile;
  static constexpr Index tiles = kCascadedChunk / kCascadedTile;
  static constexpr int summed = M == 1 ? 2 : M == 2 ? 4 : M == 4 ? 8 : 16;  // more than M

  /// The channel that a lane has.
  struct Lane {
    Chunk chunk;
    Index group;
    Index d;
    bool exists;    // the channel
    bool is_first;  // no channel was added to the shared sums before
  };
  /// Sums over the states at the positions of a tile.
  struct Tile {
    T dinput[tile][M];     // of dt·u
    T dstep[tile][M + 1];  // through the decays
    T dgate[tile];
  };

  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Chunk chunk = a.chunking.at(row / scratch.groups);
    const Index group = row % scratch.groups;
    for (Index block = group; block * Lanes::count < a.channels; block += scratch.groups) {
      const Index d = block * Lanes::count + lanes.index();
      const Lane lane{chunk, group, d, d < a.channels, block == group};
      if (lane.exists) keep_states(lane, lanes);
      const Index length = chunk.end - chunk.begin;
      // Once without positions too: gradients of the place are zero.
      for (Index i = length > 0 ? (length - 1) / tile : 0; i >= 0; --i) run_tile(lane, i, lanes);
    }
  }

  SSM_DEVICE T& kept(const Lane& lane, Index i, int scan, Index n, Lanes lanes) const {
    const Index row = (lane.chunk.place * scratch.groups + lane.group) * tiles + i;
    const Index at = row * (a.count + 1) + (scan == M ? a.count : scan);
    return scratch.kept[(at * a.states + n) * kWarpChannels + lanes.index()];
  }
  /// Scans the chunk and stores the states in front of every tile.
  SSM_DEVICE void keep_states(const Lane& lane, Lanes lanes) const {
    const Chunk& chunk = lane.chunk;
    const Index length = chunk.end - chunk.begin;
    const Index last = length > 0 ? (length - 1) / tile : 0;
    for (Index n = 0; n < a.states; ++n) {
      T rate[M + 1];
      T state[M + 1];
      a.load_rates(n, lane.d, rate);
      SSM_UNROLL
      for (int i = 0; i <= M; ++i)
        state[i] = a.has(i) ? states.entries[a.at(chunk.place, i, n, lane.d)] : T{0};
      for (Index at = 0; at <= last; ++at) {
        SSM_UNROLL
        for (int i = 0; i <= M; ++i)
          if (a.has(i)) kept(lane, at, i, n, lanes) = state[i];
        if (at == last) continue;
        for (int k = 0; k < tile; ++k) {
          T decay[M + 1];
          T after[M + 1];
          a.advance(chunk.s.batch, chunk.begin + at * tile + k, n, lane.d, rate, decay, state,
                    after);
          SSM_UNROLL
          for (int i = 0; i <= M; ++i) state[i] = after[i];
        }
      }
    }
  }

  SSM_DEVICE void run_tile(const Lane& lane, Index i, Lanes lanes) const {
    const Index begin = lane.chunk.begin + i * tile;
    Tile at = {};
    for (Index n = 0; n < a.states; ++n) run_state(lane, at, i, n, lanes);
    if (!lane.exists) return;
    SSM_UNROLL
    for (int k = 0; k < tile; ++k)
      if (begin + k < lane.chunk.end) write(lane, at, begin + k, k);
  }

  /// A state of all scans over a tile, forwards and then backwards.
  SSM_DEVICE void run_state(const Lane& lane, Tile& at, Index i_tile, Index n, Lanes lanes) const {
    const Index b = lane.chunk.s.batch;
    const Index d = lane.d;
    const Index begin = lane.chunk.begin + i_tile * tile;
    const Index end = lane.chunk.end;
    T rate[M + 1] = {};
    T adjoint[M + 1] = {};
    T dA[M + 1] = {};
    T state[tile + 1][M + 1] = {};
    T decay[tile][M + 1] = {};
    if (lane.exists) {
      a.load_rates(n, d, rate);
      SSM_UNROLL
      for (int i = 0; i <= M; ++i) {
        if (!a.has(i)) continue;
        adjoint[i] = scratch.adjoints[a.at(lane.chunk.place, i, n, d)];
        state[0][i] = kept(lane, i_tile, i, n, lanes);
      }
      SSM_UNROLL
      for (int k = 0; k < tile; ++k)
        if (begin + k < end) a.advance(b, begin + k, n, d, rate, decay[k], state[k], state[k + 1]);
    }
    SSM_UNROLL
    for (int k = tile - 1; k >= 0; --k) {
      if (begin + k >= end) continue;
      T sums[summed] = {};
      if (lane.exists)
        step_back(lane, at, begin + k, k, n, rate, decay[k], state[k], state[k + 1], adjoint, dA,
                  sums);
      lanes.totals(sums, [&](int j, T total) {
        if (a.has(j))
          add_shared(lane, j == M ? a.count : j, b * a.chunking.packing.length + begin + k, n,
                     total);
      });
    }
    if (!lane.exists) return;
    const bool is_first_run = begin + tile >= end;
    SSM_UNROLL
    for (int i = 0; i <= M; ++i) {
      if (!a.has(i)) continue;
      const Index place = a.at(lane.chunk.place, i, n, d);
      scratch.adjoints[place] = adjoint[i];
      scratch.dA[place] = is_first_run ? dA[i] : scratch.dA[place] + dA[i];
    }
  }

  SSM_DEVICE void step_back(const Lane& lane, Tile& at, Index t, int k, Index n,
                            const T (&rate)[M + 1], const T (&decay)[M + 1],
                            const T (&before)[M + 1], const T (&after)[M + 1], T (&adjoint)[M + 1],
                            T (&dA)[M + 1], T (&sums)[summed]) const {
    const Index b = lane.chunk.s.batch;
    const Index d = lane.d;
    const T gradient = dy(b, t, d);
    const T lambda = adjoint[M] + a.C(b, t, n) * gradient;
    const T gated = a.gate_at(b, t, d) * lambda;
    sums[M] = gradient * after[M];
    SSM_UNROLL
    for (int i = 0; i <= M; ++i) {
      if (!a.has(i)) continue;
      const T step = a.step(i, b, t, d);
      T mu = lambda;
      if (i < M) {
        const int source = i < M ? i : 0;
        mu = adjoint[i] + gated;
        sums[i] = mu * step * a.sources[source].u(b, t, d);
        at.dinput[k][source] += mu * a.sources[source].B(b, t, n);
        at.dgate[k] += lambda * after[i];
      }
      adjoint[i] = mu * decay[i];
      const T decayed = adjoint[i] * before[i];
      dA[i] += step * decayed;
      at.dstep[k][i] += rate[i] * decayed;
    }
  }

  SSM_DEVICE void add_shared(const Lane& lane, int scan, Index position, Index n, T total) const {
    T& sum =
        scratch
            .shared[((scan * scratch.groups + lane.group) * positions + position) * a.states + n];
    sum = lane.is_first ? total : sum + total;
  }

  SSM_DEVICE void write(const Lane& lane, const Tile& at, Index t, int k) const {
    const Index b = lane.chunk.s.batch;
    const Index d = lane.d;
    if (dgate) dgate(b, t, d) = at.dgate[k];
    if (ddt) ddt(b, t, d) = at.dstep[k][M];
    SSM_UNROLL
    for (int i = 0; i < M; ++i) {
      if (i >= a.count) continue;
      const T dinput = at.dinput[k][i];
      if (gradients[i].u) gradients[i].u(b, t, d) += dinput * a.step(i, b, t, d);
      if (gradients[i].dt)
        gradients[i].dt(b, t, d) += at.dstep[k][i] + dinput * a.sources[i].u(b, t, d);
    }
  }

  CascadedOperands<T, M> a;
  CascadedScratch<T, M> states;
  CascadedAdjoints<T, M> scratch;
  Operand<const T, 3> dy;
  Operand<T, 3> ddt, dgate;
  CascadedSourceGradient<T> gradients[M];
  Index positions;  // B·L
};

/// The gradient of C, or with `adds` of a source's B, from those of the warps.
template <class T>
struct CascadedSharedSum {
  SSM_DEVICE void operator()(Index i) const {
    T sum{0};
    for (Index g = 0; g < groups; ++g) sum += from[g * size + i];
    T& element = to(i / states / length, i / states % length, i % states);
    element = adds ? element + sum : sum;
  }

  const T* from;  // [groups, B, L, N]
  Operand<T, 3> to;
  Index groups;
  Index size;
  Index length;
  Index states;
  bool adds;
};

/// Adds the gradient of A of one scan: element [n, d] of each place's.
template <class T>
struct CascadedRateSum {
  SSM_DEVICE void operator()(Index i, double sum) const {
    const Index d = i % channels;
    const Index n = i / channels % states;
    const Index scan = i / channels / states;
    const Operand<T, 2>& to = scans[scan];
    if (to) to(d, n) = static_cast<T>(to(d, n) + sum);
  }

  Operand<T, 2> scans[9];
  Index channels;
  Index states;
};

/// The gradient of an initial state, from the adjoint in front of the first chunk.
template <class T, int M>
struct CascadedInitialGradient {
  SSM_DEVICE void operator()(Index index) const {
    const Index d = index % a.channels;
    const Index n = index / a.channels % a.states;
    const Sequence s = a.chunking.packing.sequence(index / a.channels / a.states);
    const Index first = a.chunking.first(s);
    if (to) to(s.row, d, n) = adjoints[a.at(first, M, n, d)];
    SSM_UNROLL
    for (int i = 0; i < M; ++i)
      if (i < a.count && gradients[i].initial_state)
        gradients[i].initial_state(s.row, d, n) += adjoints[a.at(first, i, n, d)];
  }

  CascadedOperands<T, M> a;
  const T* adjoints;
  Operand<T, 3> to;
  CascadedSourceGradient<T> gradients[M];
};

template <int M, class T>
void cascaded_backward(const ssm::CascadedScanBackward<T, CudaSpace>& g, DeviceSegments segments,
                       SequenceChunks chunks, T* workspace, Stream stream) {
  const char* const operation = "cascaded_scan_backward";
  const CascadedOperands<T, M> a(g.forward, segments, chunks);
  const CascadedScratch<T, M> states(workspace, a);
  const CascadedAdjoints<T, M> scratch(states.rest, a);
  const auto dy = operand(g.dy);
  const Index elements = a.states * a.channels;
  const Index sequences = a.chunking.packing.sequences;
  enter_cascaded_chunks(a, states, stream, operation);
  if (!chunks.whole)
    for_each_index(chunks.places * elements, stream, operation,
                   CascadedAdjointPass<T, M>{a, scratch, dy});
  for_each_index(sequences * elements, stream, operation,
                 CascadedAdjointJoin<T, M>{a, states, scratch, operand(g.dfinal_state)});

  const Index length = g.forward.C.extent(1);
  CascadedGradientRow<T, M> row{
      a, states, scratch, dy, operand(g.ddt), operand(g.dgate), {}, g.forward.C.extent(0) * length};
  CascadedInitialGradient<T, M> initial{a, scratch.adjoints, operand(g.dinitial_state), {}};
  CascadedRateSum<T> rates{{}, a.channels, a.states};
  rates.scans[a.count] = operand(g.dA);
  for (int i = 0; i < a.count && !g.dsources.empty(); ++i) {
    const auto& source = g.dsources[static_cast<std::size_t>(i)];
    row.gradients[i] = {operand(source.u), operand(source.dt), operand(source.B), operand(source.A),
                        operand(source.initial_state)};
    initial.gradients[i] = row.gradients[i];
    rates.scans[i] = operand(source.A);
  }
  for_each_row(chunks.places * scratch.groups, stream, operation, row);

  const Index size = g.forward.C.size();
  const Index groups = a.channels > 0 ? scratch.groups : 0;
  for (int i = 0; i <= a.count; ++i) {
    const Operand<T, 3> to = i == a.count ? operand(g.dC) : row.gradients[i].B;
    if (to)
      for_each_index(size, stream, operation,
                     CascadedSharedSum<T>{scratch.shared + i * scratch.groups * size, to, groups,
                                          size, length, a.states, i < a.count});
  }
  for_each_index(sequences * elements, stream, operation, initial);
  sum_over_places(chunks.places, (a.count + 1) * elements, scratch.dA, stream, operation, rates);
}

}  // namespace
}  // namespace device

template <class T>
void cascaded_scan_backward(const ssm::CascadedScanBackward<T, CudaSpace>& g,
                            DeviceSegments segments, SequenceChunks chunks, T* workspace,
                            Stream stream) {
  device::with_cascaded_sources(g.forward.sources.size(), [&]<int M>() {
    device::cascaded_backward<M>(g, segments, chunks, workspace, stream);
  });
}

#define SSM_INSTANTIATE(T)                              \
  template SSM_CUDA_API void cascaded_scan_backward<T>( \
      const ssm::CascadedScanBackward<T, CudaSpace>&, DeviceSegments, SequenceChunks, T*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
