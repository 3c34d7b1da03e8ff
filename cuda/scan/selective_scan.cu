// SPDX-License-Identifier: Apache-2.0
#include "scan/selective_scan.cuh"
#include "scan/selective_walk.cuh"

namespace ssm::cuda {

template <class T>
void selective_scan(const ssm::SelectiveScan<T, CudaSpace>& call, DeviceSegments segments,
                    SequenceChunks chunks, Wide<T>* workspace, Stream stream) {
  const char* const operation = "selective_scan";
  const device::SelectiveOperands<T> a(call, segments, chunks);
  Wide<T>* const entries = workspace;
  Wide<T>* const steps = entries + chunks.places * a.channels * a.states;
  const auto final_state = device::operand(call.final_state);
  const auto dt_used = device::operand(call.dt_used);
  const auto y = device::operand(call.y);
  if (!chunks.whole) {
    device::scan_selective_chunks(call, a, entries, steps, stream, operation);
    device::join_selective_chunks(
        device::SelectiveJoin<T>{a, entries, steps, a.initial_state, final_state, false}, stream,
        operation);
  }
  if constexpr (!std::is_same_v<T, double>)
    if (walks(call))
      return device::walk_selective_scan(
          device::SelectiveWalk<T>{
              .a = a, .entries = entries, .final_state = final_state, .dt_used = dt_used, .y = y},
          device::WalkFor::outputs, stream, operation);
  device::for_each_index(
      chunks.places * a.channels, stream, operation,
      device::SelectivePass<T>{a, entries, steps, false, final_state, dt_used, y});
}

#define SSM_INSTANTIATE(T)                                                              \
  template SSM_CUDA_API void selective_scan<T>(const ssm::SelectiveScan<T, CudaSpace>&, \
                                               DeviceSegments, SequenceChunks, Wide<T>*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
