// SPDX-License-Identifier: Apache-2.0
#include "device/launch.cuh"
#include "scan/turned_scan_backward.cuh"
#include "scan/turned_scan_forward.cuh"
#include "scan/turned_scan_plan.cuh"

namespace ssm::cuda::device {
namespace {

bool has_turned_kernels(const char* operation) {
  struct Turned;
  return has_shared_barriers<Turned>(turned_backward, operation);
}
/// Whether every sequence begins at a multiple of 16 bytes.
template <class T>
bool is_in_runs(const Sequences<T>& tensor) {
  return tensor.data != nullptr && reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 &&
         tensor.batch_stride % 8 == 0 && tensor.channel_stride % 8 == 0;
}
/// Whether two sequences a multiprocessor are there: of fewer the warps share tiles better.
bool is_wide(const DiagonalScanShape& shape) {
  return shape.segments == nullptr && static_cast<long long>(shape.batch) * shape.channels >= 264;
}

}  // namespace

bool walks_turned(const DiagonalScan<BFloat16>& call, const char* operation) {
  return is_wide(call.shape) && call.gate_in.data == nullptr && call.gate_out.data == nullptr &&
         is_in_runs(call.x) && is_in_runs(call.y) && has_turned_kernels(operation);
}
bool walks_turned(const DiagonalScanBackward<BFloat16>& call, const char* operation) {
  return is_wide(call.shape) && call.gate_in.data == nullptr && call.gate_out.data == nullptr &&
         is_in_runs(call.x) && is_in_runs(call.dy) && is_in_runs(call.dx) &&
         has_turned_kernels(operation);
}

void walk_turned_forward(const DiagonalScan<BFloat16>& call, Stream stream, const char* operation) {
  const int sequences = call.shape.sequences();
  const long long all = static_cast<long long>(call.shape.channels) * sequences,
                  most = 132ll * TurnedForward::resident,  // blocks that a Hopper card holds
      longest = (all + most - 1) / most;                   // sequences of a block
  struct Forward;
  launch_early<Forward>(turned_forward, dim3((all + longest - 1) / longest),
                        {kTurnedThreads, TurnedForward::bytes}, stream, operation,
                        ForwardLaunch<BFloat16>{call, nullptr, sequences, 1, 0});
}
void walk_turned_backward(const BackwardLaunch<BFloat16>& backward, Stream stream,
                          const char* operation) {
  const TurnedPlan plan(backward.call.shape);
  struct Backward;
  launch_early<Backward>(turned_backward, dim3(plan.blocks),
                         {TurnedBackward::threads, TurnedBackward::bytes}, stream, operation,
                         backward, plan);
}

}  // namespace ssm::cuda::device
