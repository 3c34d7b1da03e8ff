// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "scan/cascaded_walk.cuh"

namespace ssm::cuda {
namespace device {
namespace {

/// Where the parts of the workspace that the backward pass alone has begin.
template <class T, int M>
struct CascadedAdjoints {
  using W = Wide<T>;

  CascadedAdjoints(W* workspace, const CascadedOperands<T, M>& a, Index sharing, Index kept_count)
      : groups(sharing),
        adjoints(workspace),
        dA(adjoints + a.chunking.places * (a.count + 1) * a.states * a.channels),
        kept(in_fours(dA + a.chunking.places * (a.count + 1) * a.states * a.channels)),
        shared(kept + kept_count) {}
  static W* in_fours(W* numbers) {
    const auto address = reinterpret_cast<std::uintptr_t>(numbers);
    return numbers + (0 - address) % 16 / sizeof(W);
  }

  Index groups;  // blocks or warps that share a chunk
  W* adjoints;   // [places, m + 1, N, D]   of what leaves a chunk, then of what enters it
  W* dA;         // [places, m + 1, N, D]
  W* kept;       // states in front of every tile; of warps [places, groups, tiles, m + 1, N, 32]
  W* shared;     // [m + 1, groups, B, L, N]   gradients of B, and of C
};

template <class T>
SSM_DEVICE void add_to(T& element, Wide<T> more) {
  element = narrowed<T>(widened(element) + more);
}

/// What a chunk makes of zero adjoints, for a state of a channel:
///   λ_t = C_t·dy_t + exp(Δ_{t+1}·A)·λ_{t+1}
///   μ^i_t = gate_t·λ_t + exp(Δ^i_{t+1}·A^i)·μ^i_{t+1}
template <class T, int M>
struct CascadedAdjointPass {
  using W = Wide<T>;

  SSM_DEVICE void operator()(Index index) const {
    const Index d = index % a.channels;
    const Index n = index / a.channels % a.states;
    const Chunk chunk = a.chunking.at(index / a.channels / a.states);
    const Index b = chunk.s.batch;
    W rate[M + 1];
    W adjoint[M + 1] = {};
    a.load_rates(n, d, rate);
    for (Index t = chunk.end; t-- > chunk.begin;) {
      const W lambda = adjoint[M] + widened(a.C(b, t, n)) * widened(dy(b, t, d));
      const W gated = a.gate_at(b, t, d) * lambda;
      SSM_UNROLL
      for (int i = 0; i < M; ++i)
        if (i < a.count) adjoint[i] = std::exp(a.step(i, b, t, d) * rate[i]) * (adjoint[i] + gated);
      adjoint[M] = std::exp(widened(a.dt(b, t, d)) * rate[M]) * lambda;
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
  using W = Wide<T>;

  SSM_DEVICE void operator()(Index index) const {
    const Index d = index % a.channels;
    const Index n = index / a.channels % a.states;
    const Sequence s = a.chunking.packing.sequence(index / a.channels / a.states);
    const Index first = a.chunking.first(s);
    W rate[M + 1];
    W adjoint[M + 1] = {};
    a.load_rates(n, d, rate);
    adjoint[M] = value_or(W{0}, dfinal_state, s.row, d, n);
    for (Index place = first + a.chunking.count(s); place-- > first;) {
      W own[M + 1];
      SSM_UNROLL
      for (int i = 0; i <= M; ++i) {
        own[i] = W{0};
        if (!a.has(i)) continue;
        W& entry = scratch.adjoints[a.at(place, i, n, d)];
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
  Operand<const W, 3> dfinal_state;
};

/// A chunk, by a warp that holds a channel in every lane: λ and μ as above, dgate_t = Σ_n λ_t·Σ_i
/// source^i_t, and the sums of a selective scan for each scan.
template <class T, int M>
struct CascadedGradientRow {
  using W = Wide<T>;

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
    W dinput[tile][M];     // of dt·u
    W dstep[tile][M + 1];  // through the decays
    W dgate[tile];
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

  SSM_DEVICE W& kept(const Lane& lane, Index i, int scan, Index n, Lanes lanes) const {
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
      W rate[M + 1];
      W state[M + 1];
      a.load_rates(n, lane.d, rate);
      SSM_UNROLL
      for (int i = 0; i <= M; ++i)
        state[i] = a.has(i) ? states.entries[a.at(chunk.place, i, n, lane.d)] : W{0};
      for (Index at = 0; at <= last; ++at) {
        SSM_UNROLL
        for (int i = 0; i <= M; ++i)
          if (a.has(i)) kept(lane, at, i, n, lanes) = state[i];
        if (at == last) continue;
        for (int k = 0; k < tile; ++k) {
          W decay[M + 1];
          W after[M + 1];
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
    W rate[M + 1] = {};
    W adjoint[M + 1] = {};
    W dA[M + 1] = {};
    W state[tile + 1][M + 1] = {};
    W decay[tile][M + 1] = {};
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
      W sums[summed] = {};
      if (lane.exists)
        step_back(lane, at, begin + k, k, n, rate, decay[k], state[k], state[k + 1], adjoint, dA,
                  sums);
      lanes.totals(sums, [&](int j, W total) {
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
                            const W (&rate)[M + 1], const W (&decay)[M + 1],
                            const W (&before)[M + 1], const W (&after)[M + 1], W (&adjoint)[M + 1],
                            W (&dA)[M + 1], W (&sums)[summed]) const {
    const Index b = lane.chunk.s.batch;
    const Index d = lane.d;
    const W gradient = widened(dy(b, t, d));
    const W lambda = adjoint[M] + widened(a.C(b, t, n)) * gradient;
    const W gated = a.gate_at(b, t, d) * lambda;
    sums[M] = gradient * after[M];
    SSM_UNROLL
    for (int i = 0; i <= M; ++i) {
      if (!a.has(i)) continue;
      const W step = a.step(i, b, t, d);
      W mu = lambda;
      if (i < M) {
        const int source = i < M ? i : 0;
        mu = adjoint[i] + gated;
        sums[i] = mu * step * widened(a.sources[source].u(b, t, d));
        at.dinput[k][source] += mu * widened(a.sources[source].B(b, t, n));
        at.dgate[k] += lambda * after[i];
      }
      adjoint[i] = mu * decay[i];
      const W decayed = adjoint[i] * before[i];
      dA[i] += step * decayed;
      at.dstep[k][i] += rate[i] * decayed;
    }
  }

  SSM_DEVICE void add_shared(const Lane& lane, int scan, Index position, Index n, W total) const {
    W& sum =
        scratch
            .shared[((scan * scratch.groups + lane.group) * positions + position) * a.states + n];
    sum = lane.is_first ? total : sum + total;
  }

  SSM_DEVICE void write(const Lane& lane, const Tile& at, Index t, int k) const {
    const Index b = lane.chunk.s.batch;
    const Index d = lane.d;
    if (dgate) dgate(b, t, d) = narrowed<T>(at.dgate[k]);
    if (ddt) ddt(b, t, d) = narrowed<T>(at.dstep[k][M]);
    SSM_UNROLL
    for (int i = 0; i < M; ++i) {
      if (i >= a.count) continue;
      const W dinput = at.dinput[k][i];
      if (gradients[i].u) add_to(gradients[i].u(b, t, d), dinput * a.step(i, b, t, d));
      if (gradients[i].dt)
        add_to(gradients[i].dt(b, t, d),
               at.dstep[k][i] + dinput * widened(a.sources[i].u(b, t, d)));
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
    Wide<T> sum{0};
    for (Index g = 0; g < groups; ++g) sum += from[g * size + i];
    T& element = to(i / states / length, i / states % length, i % states);
    element = narrowed<T>(adds ? widened(element) + sum : sum);
  }

  const Wide<T>* from;  // [groups, B, L, N]
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
    const Operand<Wide<T>, 2>& to = scans[scan];
    if (to) to(d, n) = static_cast<Wide<T>>(to(d, n) + sum);
  }

  Operand<Wide<T>, 2> scans[9];
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
  const Wide<T>* adjoints;
  Operand<Wide<T>, 3> to;
  CascadedSourceGradient<T> gradients[M];
};

/// What the rows compute, by walks; false where none can.
template <class T, int M>
bool walk_gradients(const ssm::CascadedScan<T, CudaSpace>& call,
                    const CascadedGradientRow<T, M>& row, Stream stream, const char* operation) {
  if constexpr (!std::is_same_v<T, double> && M <= int{kCascadedWalkSources}) {
    if (!walks_in_cascade(call)) return false;
    const auto& scratch = row.scratch;
    walk_cascaded_scan(CascadedWalk<T, M>{.a = row.a,
                                          .entries = row.states.entries,
                                          .kept = scratch.kept,
                                          .groups = scratch.groups},
                       stream, operation);
    CascadedWalkBack<T, M> back{.a = row.a,
                                .kept = scratch.kept,
                                .adjoints = scratch.adjoints,
                                .dA = scratch.dA,
                                .shared = scratch.shared,
                                .dy = row.dy,
                                .ddt = row.ddt,
                                .dgate = row.dgate,
                                .gradients = {},
                                .groups = scratch.groups,
                                .positions = row.positions};
    for (int i = 0; i < M; ++i) back.gradients[i] = row.gradients[i];
    walk_cascaded_scan_back(back, stream, operation);
    return true;
  }
  return false;
}

template <int M, class T>
void cascaded_backward(const ssm::CascadedScanBackward<T, CudaSpace>& g, DeviceSegments segments,
                       SequenceChunks chunks, Wide<T>* workspace, Stream stream) {
  const char* const operation = "cascaded_scan_backward";
  const CascadedOperands<T, M> a(g.forward, segments, chunks);
  const CascadedScratch<T, M> states(workspace, a);
  const CascadedAdjoints<T, M> scratch(states.rest, a, cascaded_groups(g.forward, chunks),
                                       cascaded_kept_states(g.forward, chunks));
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
  if (!walk_gradients(g.forward, row, stream, operation))
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
                            DeviceSegments segments, SequenceChunks chunks, Wide<T>* workspace,
                            Stream stream) {
  device::with_cascaded_sources(g.forward.sources.size(), [&]<int M>() {
    device::cascaded_backward<M>(g, segments, chunks, workspace, stream);
  });
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void cascaded_scan_backward<T>(                                         \
      const ssm::CascadedScanBackward<T, CudaSpace>&, DeviceSegments, SequenceChunks, Wide<T>*, \
      Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
