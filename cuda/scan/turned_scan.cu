// SPDX-License-Identifier: Apache-2.0
#include <tuple>
#include <type_traits>
#include <utility>

#include "device/launch.cuh"
#include "scan/turned_scan_backward.cuh"
#include "scan/turned_scan_forward.cuh"
#include "scan/turned_scan_plan.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda::device {
namespace {

bool has_turned_kernels(const char* operation) {
  struct Turned;
  return has_shared_barriers<Turned>(turned_backward<true>, operation);
}
/// Whether every sequence begins at a multiple of 16 bytes.
template <class T>
bool is_in_runs(const Sequences<T>& tensor) {
  return tensor.data != nullptr && reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 &&
         tensor.batch_stride % 8 == 0 && tensor.channel_stride % 8 == 0;
}
/// Whether two sequences a multiprocessor are there: of fewer the warps share tiles better.
bool is_wide(const DiagonalScanShape& shape) {
  return shape.segments == nullptr &&
         static_cast<long long>(shape.batch) * shape.channels >= 2 * hopper_multiprocessors;
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
  TurnedForwardMaps maps{};
  const auto walk = [&]<bool Engine, int Tiles>(std::bool_constant<Engine>,
                                                std::integral_constant<int, Tiles>) {
    struct Forward;
    using Shape = TurnedForward<Tiles>;
    const long long all = static_cast<long long>(call.shape.channels) *
                          ((sequences + Tiles - 1) / Tiles),
                    most = hopper_multiprocessors * Shape::resident,
                    longest = (all + most - 1) / most;  // walks of a block
    launch_early<std::tuple<Forward, std::bool_constant<Engine>, Shape>>(
        turned_forward<Engine, Tiles>, dim3(static_cast<unsigned>((all + longest - 1) / longest)),
        {kTurnedThreads, Shape::bytes}, stream, operation,
        ForwardLaunch<BFloat16>{call, nullptr, sequences, 1, 0}, maps);
  };
  const auto walk_together = [&](auto engine) {
    if (sequences > 1)
      walk(engine, std::integral_constant<int, 2>());
    else
      walk(engine, std::integral_constant<int, 1>());
  };
  if (describe_turned(maps.x, call.x, call.shape) && describe_turned(maps.y, call.y, call.shape))
    walk_together(std::true_type());
  else
    walk_together(std::false_type());
}
void walk_turned_backward(const BackwardLaunch<BFloat16>& backward, Stream stream,
                          const char* operation) {
  const DiagonalScanBackward<BFloat16>& call = backward.call;
  const TurnedPlan plan(call.shape);
  TurnedBackwardMaps maps{};
  const auto walk = [&]<bool Engine>(std::bool_constant<Engine>) {
    struct Backward;
    launch_early<std::pair<Backward, std::bool_constant<Engine>>>(
        turned_backward<Engine>, dim3(static_cast<unsigned>(plan.blocks)),
        {TurnedBackward::threads, TurnedBackward::bytes}, stream, operation, backward, plan, maps);
  };
  if (describe_turned(maps.x, call.x, call.shape) &&
      describe_turned(maps.dy, call.dy, call.shape) &&
      describe_turned(maps.dx, call.dx, call.shape))
    walk(std::true_type());
  else
    walk(std::false_type());
}

}  // namespace ssm::cuda::device
