// SPDX-License-Identifier: Apache-2.0
#include "scan/cascaded_walk.cuh"

namespace ssm::cuda {
namespace device {
namespace {

/// A channel of a chunk. The states that enter it become those that leave it.
template <class T, int M>
struct CascadedOutputs {
  using W = Wide<T>;

  static constexpr int tile = 4;  // positions whose sums overlap

  SSM_DEVICE void operator()(Index index) const {
    const Chunk chunk = a.chunking.at(index / a.channels);
    const Index d = index % a.channels;
    for (Index t = chunk.begin; t < chunk.end; t += tile) run_tile(chunk, t, d);
  }
  SSM_DEVICE void run_tile(const Chunk& chunk, Index begin, Index d) const {
    const Index b = chunk.s.batch;
    W sum[tile] = {};
    for (Index n = 0; n < a.states; ++n) {
      W rate[M + 1];
      W state[M + 1];
      a.load_rates(n, d, rate);
      SSM_UNROLL
      for (int i = 0; i <= M; ++i)
        state[i] = a.has(i) ? scratch.entries[a.at(chunk.place, i, n, d)] : W{0};
      SSM_UNROLL
      for (int k = 0; k < tile; ++k) {
        if (begin + k >= chunk.end) continue;
        W decay[M + 1];
        W after[M + 1];
        a.advance(b, begin + k, n, d, rate, decay, state, after);
        SSM_UNROLL
        for (int i = 0; i <= M; ++i) state[i] = after[i];
        sum[k] += widened(a.C(b, begin + k, n)) * state[M];
      }
      SSM_UNROLL
      for (int i = 0; i <= M; ++i)
        if (a.has(i)) scratch.entries[a.at(chunk.place, i, n, d)] = state[i];
    }
    SSM_UNROLL
    for (int k = 0; k < tile; ++k)
      if (begin + k < chunk.end) y(b, begin + k, d) = narrowed<T>(sum[k]);
  }

  CascadedOperands<T, M> a;
  CascadedScratch<T, M> scratch;
  Operand<T, 3> y;
};

/// The cascaded state that leaves the last chunk of a sequence.
template <class T, int M>
struct CascadedFinalState {
  SSM_DEVICE void operator()(Index index) const {
    const Index d = index % a.channels;
    const Index n = index / a.channels % a.states;
    const Sequence s = a.chunking.packing.sequence(index / a.channels / a.states);
    const Index last = a.chunking.first(s) + a.chunking.count(s) - 1;
    final_state(s.row, d, n) = scratch.entries[a.at(last, M, n, d)];
  }

  CascadedOperands<T, M> a;
  CascadedScratch<T, M> scratch;
  Operand<Wide<T>, 3> final_state;
};

/// What CascadedOutputs computes, by a walk; false where none can.
template <class T, int M>
bool walk_outputs(const ssm::CascadedScan<T, CudaSpace>& call, const CascadedOperands<T, M>& a,
                  Wide<T>* entries, Stream stream, const char* operation) {
  if constexpr (!std::is_same_v<T, double> && M <= int{kCascadedWalkSources}) {
    if (!walks_in_cascade(call)) return false;
    walk_cascaded_scan(
        CascadedWalk<T, M>{.a = a,
                           .entries = entries,
                           .kept = nullptr,
                           .y = operand(call.y),
                           .groups = (a.channels + kWalkChannels - 1) / kWalkChannels},
        stream, operation);
    return true;
  }
  return false;
}

template <int M, class T>
void cascaded(const ssm::CascadedScan<T, CudaSpace>& call, DeviceSegments segments,
              SequenceChunks chunks, Wide<T>* workspace, Stream stream) {
  const char* const operation = "cascaded_scan";
  const CascadedOperands<T, M> a(call, segments, chunks);
  const CascadedScratch<T, M> scratch(workspace, a);
  enter_cascaded_chunks(a, scratch, stream, operation);
  if (!walk_outputs(call, a, scratch.entries, stream, operation))
    for_each_index(a.chunking.places * a.channels, stream, operation,
                   CascadedOutputs<T, M>{a, scratch, operand(call.y)});
  if (call.final_state)
    for_each_index(a.chunking.packing.sequences * a.states * a.channels, stream, operation,
                   CascadedFinalState<T, M>{a, scratch, operand(call.final_state)});
}

}  // namespace
}  // namespace device

template <class T>
void cascaded_scan(const ssm::CascadedScan<T, CudaSpace>& a, DeviceSegments segments,
                   SequenceChunks chunks, Wide<T>* workspace, Stream stream) {
  device::with_cascaded_sources(a.sources.size(), [&]<int M>() {
    device::cascaded<M>(a, segments, chunks, workspace, stream);
  });
}

#define SSM_INSTANTIATE(T)                                                            \
  template SSM_CUDA_API void cascaded_scan<T>(const ssm::CascadedScan<T, CudaSpace>&, \
                                              DeviceSegments, SequenceChunks, Wide<T>*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
