// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/cuda/diagonal_scan.hpp>
#include <utility>

#include "kernel/small_problem.cuh"
#include "scan/diagonal_scan_backward.cuh"
#include "scan/diagonal_scan_gradient.cuh"
#include "scan/diagonal_scan_plan.cuh"
#include "scan/turned_scan_plan.cuh"

namespace ssm::cuda {
namespace device {

/// Defined beside the forward pass.
template <class T>
void walk_forward(const DiagonalScan<T>& call, const char* matrices, Stream stream,
                  const char* operation);

template <class T, Inputs In, bool GatedOut>
auto backward_kernel(bool chained) {
  return chained ? scan_backward<T, In, GatedOut, true> : scan_backward<T, In, GatedOut, false>;
}

/// Starts the kernel of a call's gates.
template <class T>
void walk_backward(const BackwardLaunch<T>& backward, const Plan& plan, Stream stream,
                   const char* operation) {
  const DiagonalScanBackward<T>& call = backward.call;
  const bool chained = plan.warps_per_sequence > 1;
  auto kernel = backward_kernel<T, Inputs::plain, false>(chained);
  if (call.x_is_gated) {
    if constexpr (operand_terms<T> == 1)
      kernel = backward_kernel<T, Inputs::pregated, true>(chained);
  } else if (call.gate_in.data != nullptr) {
    kernel = backward_kernel<T, Inputs::gated, true>(chained);
  } else if (call.gate_out.data != nullptr) {
    kernel = backward_kernel<T, Inputs::plain, true>(chained);
  }
  launch(kernel, dim3(backward.call.shape.channels, plan.groups), backward_threads<T>,
         BackwardShared<T>::bytes, stream, operation, backward);
}

template <class T>
struct BackwardWorkspace {
  BackwardWorkspace(const DiagonalScanBackward<T>& call, void* base) : layout(base) {
    const DiagonalScanShape& shape = call.shape;
    const std::size_t channels = shape.channels, items = channels * shape.sequences();
    plan = make_plan(shape, tile_positions<T>, backward_warps<T>, kBackwardWarps, 3);
    matrices = layout.template take<char>(ChannelLayout<T>::bytes * channels);
    const std::size_t groups =
        operand_terms<T> == 1 ? std::max(plan.groups, TurnedPlan(shape).parts) : plan.groups;
    partial = layout.template take<float2>(channels * groups * 3 * kModes);
    partial_skip = layout.template take<float>(channels * groups);
    if (operand_terms<T> == 3)
      kept_sums = layout.template take<float4>(channels * plan.groups *
                                               (sizeof(ChunkSums<T>) / 16) * backward_threads<T>);
    if (call.checkpoints == nullptr)
      checkpoints = layout.template take<Complex<float>>(diagonal_scan_checkpoint_count<T>(shape));
    if (call.dfinal_state != nullptr) {
      last_state = layout.template take<Complex<float>>(items * shape.modes);
      tail_state = layout.template take<float2>(items * kModes);
      tail_input = layout.template take<float>(items * kChunk);
      tail_partial = layout.template take<float2>(items * 2 * kModes);
    }
  }
  WorkspaceLayout layout;
  Plan plan;
  char* matrices = nullptr;
  float2* partial = nullptr;
  float* partial_skip = nullptr;
  float4* kept_sums = nullptr;
  Complex<float>* checkpoints = nullptr;
  Complex<float>* last_state = nullptr;
  float2* tail_state = nullptr;
  float* tail_input = nullptr;
  float2* tail_partial = nullptr;
};

/// A small 16-bit call, in float.
template <class T>
struct UpcastBackward {
  UpcastBackward(const DiagonalScanBackward<T>& of, void* base)
      : layout(base), copies(layout, of.shape.batch, of.shape.channels, of.shape.length) {
    call = {.shape = of.shape,
            .parameters = of.parameters,
            .x = copies.input(of.x),
            .gate_in = copies.input(of.gate_in),
            .gate_out = copies.input(of.gate_out),
            .initial_state = of.initial_state,
            .checkpoints = of.checkpoints,
            .dy = copies.input(of.dy),
            .dfinal_state = of.dfinal_state,
            .dx = copies.output(of.dx),
            .dgate_in = copies.output(of.dgate_in),
            .dgate_out = copies.output(of.dgate_out),
            .dinitial_state = of.dinitial_state,
            .ddt = of.ddt,
            .da = of.da,
            .db = of.db,
            .dc = of.dc,
            .dskip = of.dskip,
            .ungated = copies.input(of.ungated)};
    workspace = layout.take<char>(diagonal_scan_backward_workspace(call));
  }
  WorkspaceLayout layout;
  UpcastSequences<T> copies;
  DiagonalScanBackward<float> call;
  char* workspace;
};

}  // namespace device

template <class T>
std::size_t diagonal_scan_backward_workspace(const DiagonalScanBackward<T>& call) {
  if (device::computes_in_float<T>(call.shape.batch, call.shape.channels, call.shape.length))
    return device::UpcastBackward<T>(call, nullptr).layout.used();
  return device::BackwardWorkspace<T>(call, nullptr).layout.used();
}

template <class T>
void diagonal_scan_backward(const DiagonalScanBackward<T>& call, void* workspace, Stream stream) {
  using namespace device;
  const DiagonalScanShape& shape = call.shape;
  const char* const operation = "diagonal_scan_backward";
  require_sizes(shape, operation);
  require(workspace != nullptr, operation, "workspace is null");
  require(!call.x_is_gated || (operand_terms<T> == 1 &&
                               !computes_in_float<T>(shape.batch, shape.channels, shape.length) &&
                               call.gate_in.data != nullptr && call.checkpoints != nullptr &&
                               call.dfinal_state == nullptr &&
                               !(call.dgate_out.data != nullptr && call.ungated.data == nullptr)),
          operation,
          "x_is_gated wants bf16 data of a large call, with a gate and checkpoints alone");
  if (computes_in_float<T>(shape.batch, shape.channels, shape.length)) {
    const UpcastBackward<T> upcast(call, workspace);
    return upcast.copies.around(
        stream, operation, [&] { diagonal_scan_backward(upcast.call, upcast.workspace, stream); });
  }
  const BackwardWorkspace<T> space(call, workspace);
  const dim3 items(shape.channels, (shape.sequences() + kWarps - 1) / kWarps);
  const bool turned = walks_turned(call, operation);
  const bool tail = call.dfinal_state != nullptr;
  const bool gate = call.dgate_out.data != nullptr && call.ungated.data == nullptr;
  const bool forward = call.checkpoints == nullptr || tail || gate;
  if (!turned || forward)
    launch(build_matrices<T>, dim3(shape.channels), 256, 0, stream, operation, call.parameters,
           shape.modes, kMatrices, space.matrices);
  if (forward) {
    DiagonalScan<T> states{shape, call.parameters, call.x, call.gate_in, {}, call.initial_state};
    if (gate) states.gate_out = call.dy, states.y = call.dgate_out;
    states.final_state = space.last_state;
    states.checkpoints = space.checkpoints;
    walk_forward(states, space.matrices, stream, operation);
  }
  if (tail)
    launch(spread_final_state<T>, items, kThreads, 0, stream, operation,
           TailLaunch<T>{call, space.matrices, space.last_state, space.tail_state, space.tail_input,
                         space.tail_partial, shape.sequences()});
  const BackwardLaunch<T> backward{
      call,
      space.matrices,
      call.checkpoints != nullptr ? call.checkpoints : space.checkpoints,
      space.tail_state,
      space.tail_input,
      space.partial,
      space.partial_skip,
      space.kept_sums,
      shape.sequences(),
      space.plan.warps_per_sequence,
      0};
  if (turned) {
    if constexpr (operand_terms<T> == 1) walk_turned_backward(backward, stream, operation);
  } else {
    walk_backward(backward, space.plan, stream, operation);
  }
  struct Finish;
  launch_early<std::pair<Finish, T>>(
      finish_gradient<T>, dim3(shape.channels), 32, stream, operation,
      GradientLaunch<T>{call, space.partial, space.partial_skip, space.tail_partial,
                        turned ? TurnedPlan(shape).parts : space.plan.groups, shape.sequences()});
}

#define SSM_INSTANTIATE(T)                                                                    \
  template SSM_CUDA_API void diagonal_scan_backward<T>(const DiagonalScanBackward<T>&, void*, \
                                                       Stream);                               \
  template SSM_CUDA_API std::size_t diagonal_scan_backward_workspace<T>(                      \
      const DiagonalScanBackward<T>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
