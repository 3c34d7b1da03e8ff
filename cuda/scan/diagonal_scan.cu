// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/cuda/diagonal_scan.hpp>

#include "kernel/small_problem.cuh"
#include "scan/diagonal_scan_forward.cuh"
#include "scan/diagonal_scan_matrices.cuh"
#include "scan/diagonal_scan_plan.cuh"
#include "scan/turned_scan_plan.cuh"

namespace ssm::cuda {

namespace device {
namespace {

/// A small 16-bit call, in float.
template <class T>
struct UpcastForward {
  UpcastForward(const DiagonalScan<T>& of, void* base)
      : layout(base), copies(layout, of.shape.batch, of.shape.channels, of.shape.length) {
    call = {.shape = of.shape,
            .parameters = of.parameters,
            .x = copies.input(of.x),
            .gate_in = copies.input(of.gate_in),
            .gate_out = copies.input(of.gate_out),
            .initial_state = of.initial_state,
            .y = copies.output(of.y),
            .final_state = of.final_state,
            .checkpoints = of.checkpoints};
    workspace = layout.take<char>(diagonal_scan_workspace<float>(of.shape));
  }
  WorkspaceLayout layout;
  UpcastSequences<T> copies;
  DiagonalScan<float> call;
  char* workspace;
};

}  // namespace
}  // namespace device

template <class T>
std::size_t diagonal_scan_workspace(const DiagonalScanShape& shape) {
  using namespace device;
  if (!computes_in_float<T>(shape.batch, shape.channels, shape.length))
    return ChannelLayout<T>::bytes * shape.channels;
  T some{};  // room for every tensor that a call may have
  DiagonalScan<T> call{.shape = shape};
  call.x.data = call.gate_in.data = call.gate_out.data = call.y.data = &some;
  return UpcastForward<T>(call, nullptr).layout.used();
}

template <class T>
std::size_t diagonal_scan_checkpoint_count(const DiagonalScanShape& shape) {
  if (device::computes_in_float<T>(shape.batch, shape.channels, shape.length))
    return diagonal_scan_checkpoint_count<float>(shape);
  constexpr std::size_t tile = device::tile_positions<T>;
  const std::size_t length = shape.length, sequences = shape.sequences();
  const std::size_t rows = shape.segments != nullptr ? length / tile + sequences
                                                     : sequences * ((length + tile - 1) / tile);
  return rows * shape.channels * device::kModes;
}

namespace device {

/// Half and float data, where speed matters less, get one kernel for all cases.
template <class T, bool GatedIn, bool GatedOut>
auto forward_kernel(bool output, bool states, bool chained) {
  if (!output) return scan_forward<T, GatedIn, false, false, true, true>;
  if constexpr (operand_terms<T> == 1) {
    if (!chained)
      return states ? scan_forward<T, GatedIn, GatedOut, true, true, false>
                    : scan_forward<T, GatedIn, GatedOut, true, false, false>;
    if (!states) return scan_forward<T, GatedIn, GatedOut, true, false, true>;
  }
  return scan_forward<T, GatedIn, GatedOut, true, true, true>;
}

template <class T>
void walk_forward(const DiagonalScan<T>& call, const char* matrices, Stream stream,
                  const char* operation) {
  if constexpr (operand_terms<T> == 1)
    if (walks_turned(call, operation)) return walk_turned_forward(call, stream, operation);
  const DiagonalScanShape& shape = call.shape;
  const Plan plan = make_plan(shape, tile_positions<T>, kWarps, kForwardWarps, 4);
  const ForwardLaunch<T> forward{call, matrices, shape.sequences(), plan.warps_per_sequence, 0};
  const bool output = call.y.data != nullptr, chained = plan.warps_per_sequence > 1;
  const bool states = call.final_state != nullptr || call.checkpoints != nullptr;
  const bool gated_in = call.gate_in.data != nullptr, gated_out = call.gate_out.data != nullptr;
  auto kernel = forward_kernel<T, false, false>(output, states, chained);
  if (gated_in) {
    kernel = forward_kernel<T, true, true>(output, states, chained);
  } else if (gated_out) {
    kernel = forward_kernel<T, false, true>(output, states, chained);
  }
  launch(kernel, dim3(shape.channels, plan.groups), kThreads,
         gated_in ? ForwardShared<T, true>::bytes : ForwardShared<T, false>::bytes, stream,
         operation, forward);
}

}  // namespace device

template <class T>
void diagonal_scan(const DiagonalScan<T>& call, void* workspace, Stream stream) {
  using namespace device;
  const DiagonalScanShape& shape = call.shape;
  const char* const operation = "diagonal_scan";
  require_sizes(shape, operation);
  require(workspace != nullptr, operation, "workspace is null");
  if (computes_in_float<T>(shape.batch, shape.channels, shape.length)) {
    const UpcastForward<T> upcast(call, workspace);
    return upcast.copies.around(stream, operation,
                                [&] { diagonal_scan(upcast.call, upcast.workspace, stream); });
  }
  char* const matrices = static_cast<char*>(workspace);
  const bool turned = walks_turned(call, operation);
  if (!turned || call.final_state != nullptr)
    launch(build_matrices<T>, dim3(shape.channels), 256, 0, stream, operation, call.parameters,
           shape.modes, turned ? 0 : 3, matrices);
  walk_forward(call, matrices, stream, operation);
  if (call.final_state != nullptr)
    launch(finish_state<T>, dim3(shape.channels, (shape.sequences() + kWarps - 1) / kWarps),
           kThreads, 0, stream, operation,
           ForwardLaunch<T>{call, matrices, shape.sequences(), 1, 0});
}

#define SSM_INSTANTIATE(T)                                                                         \
  template void device::walk_forward<T>(const DiagonalScan<T>&, const char*, Stream, const char*); \
  template SSM_CUDA_API void diagonal_scan<T>(const DiagonalScan<T>&, void*, Stream);              \
  template SSM_CUDA_API std::size_t diagonal_scan_workspace<T>(const DiagonalScanShape&);          \
  template SSM_CUDA_API std::size_t diagonal_scan_checkpoint_count<T>(const DiagonalScanShape&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
