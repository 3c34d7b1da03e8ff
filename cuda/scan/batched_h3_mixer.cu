// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "device/launch.cuh"
#include "scan/batched_h3_forward.cuh"
#include "scan/batched_h3_parameters.cuh"
#include "scan/batched_h3_shift_adjoint.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda {
namespace device {
namespace {

struct Sizes {
  explicit Sizes(const ssm::H3Mixer<BFloat16, CudaSpace>& a)
      : channels(a.q.extent(2)), modes(a.A.extent(1)) {
    const Index batch = a.q.extent(0), length = a.q.extent(1);
    const Index segments = BatchedH3::segments(batch, length);
    columns = {static_cast<int>(batch), static_cast<int>(segments),
               static_cast<int>(length / segments)};
    tiles = (columns.count() + kSide - 1) / kSide;
    steps = columns.steps();
  }
  dim3 grid(Index depth = 1) const {
    return dim3(static_cast<unsigned>(channels / kSide), static_cast<unsigned>(tiles),
                static_cast<unsigned>(depth));
  }
  dim3 channel_grid(unsigned kinds = 1) const {
    return dim3(static_cast<unsigned>(channels), kinds);
  }
  /// Blocks that share the steps of the shift's adjoint: one wave of a Hopper card at most.
  Index shares() const {
    return std::clamp<Index>(hopper_multiprocessors * kSide / (channels * tiles), 1,
                             std::min<Index>(steps, 8));
  }
  Index channels, modes;
  Columns columns;
  Index tiles, steps;
};

struct ForwardWorkspace {
  ForwardWorkspace(const ssm::H3Mixer<BFloat16, CudaSpace>& a, const Sizes& n, void* base)
      : layout(base), matrices(take<ForwardMatrices>(n.channels)) {
    if (a.initial_shift) history = take<float>(n.channels * n.columns.sequences * kMixerTaps);
    if (n.columns.segments > 1) {
      const Index row = 2 * n.modes;
      starts = {take<float>(n.columns.count() * n.channels * row), {n.channels * row, row, 2, 1}};
    }
  }
  template <class T>
  T* take(Index count) {
    return layout.take<T>(static_cast<std::size_t>(count));
  }
  WorkspaceLayout layout;
  ForwardMatrices* matrices;
  float* history = nullptr;
  Operand<float, 4> starts;  // of segments, or, backwards, what comes to their ends
};
/// 16-byte words of what the forward walk keeps.
std::size_t kept_count(const Sizes& n) {
  return static_cast<std::size_t>(n.channels * n.tiles * n.steps * kKeptTensors * kKeptWords);
}
/// What the adjoint walk needs of the forward call. Without a tape the gradient makes it again.
struct MixerTape {
  MixerTape() = default;
  MixerTape(const Sizes& n, WorkspaceLayout& layout)
      : kept(layout.take<uint4>(kept_count(n))),
        matrices(layout.take<AdjointMatrices>(static_cast<std::size_t>(n.channels))),
        taps(layout.take<TapMatrix>(static_cast<std::size_t>(n.channels))) {}
  static MixerTape at(const Sizes& n, const float* tape) {
    WorkspaceLayout layout(const_cast<float*>(tape));
    return MixerTape(n, layout);
  }
  static std::size_t bytes(const Sizes& n) {
    WorkspaceLayout layout(nullptr);
    return MixerTape(n, layout), layout.used();
  }
  uint4* kept = nullptr;
  AdjointMatrices* matrices = nullptr;
  TapMatrix* taps = nullptr;
};
struct BackwardWorkspace : ForwardWorkspace {
  BackwardWorkspace(const ssm::H3MixerBackward<BFloat16, CudaSpace>& g, const Sizes& n, void* base)
      : ForwardWorkspace(g.forward, n, base),
        tape(g.tape.size() > 0 ? MixerTape::at(n, g.tape.data()) : MixerTape(n, layout)),
        dshifted(take<uint4>(n.channels * n.tiles * n.steps * kKeptWords)),
        sums(take<float2>(n.channels * n.tiles * kAdjointSums * kMixerModes)),
        taps(take<float>(n.channels * n.tiles * kBlock * kBlock)),
        squares(
            take<float>(n.channels * n.tiles * n.shares() * (kStepBlocks + 1) * kBlock * kBlock)) {}
  MixerTape tape;
  uint4* dshifted;
  float2* sums;
  float* taps;
  float* squares;
};

/// Heads have one channel: the axes i and j have one entry.
template <class T>
Operand<T, 4> states(const View<T, 6, CudaSpace>& x) {
  if (!x) return {};
  return {x.data(), {x.stride(0), x.stride(3), x.stride(4), x.stride(5)}};
}

Operand<const float, 4> read_only(const Operand<float, 4>& x) {
  return {x.data, {x.strides[0], x.strides[1], x.strides[2], x.strides[3]}};
}

template <class T>
StepRows steps_of(const View<T, 3, CudaSpace>& x, const char* operation) {
  StepRows rows{};
  struct Engine;
  if (!describe_steps(rows, x))
    require(!has_shared_barriers<Engine>(batched_h3_shift_adjoint, operation), operation,
            "the driver cannot describe a tensor to the copy engine");
  return rows;
}

void prepare(dim3 grid, Stream stream, const char* operation, const BatchedPreparation& call) {
  struct Preparation;
  launch_early<Preparation>(prepare_batched_h3, grid, kParameterThreads, stream, operation, call);
}
template <Leaves What>
void walk_forward(const BatchedForward& walk, const Sizes& n, Stream stream,
                  const char* operation) {
  struct Walk;
  launch_early<Walk>(batched_h3_forward<What>, n.grid(),
                     {kForwardThreads, sizeof(BatchedForwardShared)}, stream, operation, walk);
}

/// The forward walk, ready but for its gate, its output and what it keeps. Segments have been
/// walked along once for what they start from, and the final state is done.
BatchedForward prepared_walk(const ssm::H3Mixer<BFloat16, CudaSpace>& a, const Sizes& n,
                             const ForwardWorkspace& space, const Operand<float, 4>& final_state,
                             Stream stream, const char* operation) {
  BatchedForward walk{};
  walk.k = steps_of(a.k, operation);
  walk.v = steps_of(a.v, operation);
  walk.columns = n.columns;
  walk.modes = static_cast<int>(n.modes);
  walk.matrices = space.matrices;
  walk.history = space.history;
  walk.initial = states(a.initial_diagonal);
  walk.final_state = final_state;
  if (n.columns.segments == 1) return walk;
  auto first = walk;
  first.initial = {};
  first.final_state = space.starts;
  walk_forward<Leaves::states>(first, n, stream, operation);
  struct Join;
  launch_early<Join>(
      join_batched_h3<false>, n.channel_grid(), kMixerModes, stream, operation,
      BatchedJoin{BatchedParameters(a), n.columns, space.starts, walk.initial, final_state});
  walk.initial = read_only(space.starts);
  walk.final_state = {};
  return walk;
}

}  // namespace
}  // namespace device

std::size_t batched_h3_workspace(const ssm::H3Mixer<BFloat16, CudaSpace>& a) {
  return device::ForwardWorkspace(a, device::Sizes(a), nullptr).layout.used();
}
std::size_t batched_h3_workspace(const ssm::H3MixerBackward<BFloat16, CudaSpace>& g) {
  return device::BackwardWorkspace(g, device::Sizes(g.forward), nullptr).layout.used();
}
Index batched_h3_tape(const ssm::H3Mixer<BFloat16, CudaSpace>& a) {
  return static_cast<Index>(device::MixerTape::bytes(device::Sizes(a)) / sizeof(float));
}

void batched_h3_mixer(const ssm::H3Mixer<BFloat16, CudaSpace>& a, void* workspace, Stream stream) {
  using namespace device;
  const char* const operation = "h3_mixer";
  const Sizes n(a);
  const ForwardWorkspace space(a, n, workspace);
  MixerTape tape;
  if (a.tape.size() > 0) tape = MixerTape::at(n, a.tape.data());
  prepare(n.channel_grid(a.initial_shift || a.final_shift ? 2 : 1), stream, operation,
          BatchedPreparation{BatchedParameters(a), space.matrices, tape.matrices, tape.taps,
                             space.history, operand(a.k), operand(a.final_shift)});
  auto walk = prepared_walk(a, n, space, states(a.final_diagonal), stream, operation);
  walk.gate = steps_of(a.q, operation);
  walk.y = steps_of(a.y, operation);
  if (tape.kept != nullptr) {
    walk.kept = tape.kept;
    walk_forward<Leaves::output_and_tape>(walk, n, stream, operation);
  } else {
    walk_forward<Leaves::output>(walk, n, stream, operation);
  }
}

void batched_h3_mixer_backward(const ssm::H3MixerBackward<BFloat16, CudaSpace>& g, void* workspace,
                               Stream stream) {
  using namespace device;
  const char* const operation = "h3_mixer_backward";
  const auto& a = g.forward;
  const Sizes n(a);
  const BackwardWorkspace space(g, n, workspace);
  const MixerTape& tape = space.tape;
  if (g.tape.size() == 0) {
    prepare(n.channel_grid(a.initial_shift ? 2 : 1), stream, operation,
            BatchedPreparation{BatchedParameters(a), space.matrices, tape.matrices, tape.taps,
                               space.history, operand(a.k), Operand<float, 3>{}});
    auto walk = prepared_walk(a, n, space, {}, stream, operation);
    walk.kept = tape.kept;
    walk_forward<Leaves::tape>(walk, n, stream, operation);
  }

  BatchedAdjoint adjoint{};
  adjoint.v = steps_of(a.v, operation);
  adjoint.q = steps_of(a.q, operation);
  adjoint.dy = steps_of(g.dy, operation);
  adjoint.dq = steps_of(g.dq, operation);
  adjoint.dv = steps_of(g.dv, operation);
  adjoint.columns = n.columns;
  adjoint.modes = static_cast<int>(n.modes);
  adjoint.matrices = tape.matrices;
  adjoint.dfinal_state = states(g.dfinal_diagonal);
  adjoint.dinitial_state = states(g.dinitial_diagonal);
  adjoint.kept = tape.kept;
  adjoint.dshifted = space.dshifted;
  adjoint.sums = space.sums;
  adjoint.taps = space.taps;
  if (n.columns.segments > 1) {
    auto first = adjoint;
    first.dfinal_state = {};
    first.dinitial_state = space.starts;
    struct States;
    launch_early<States>(batched_h3_adjoint_states, n.grid(),
                         {kMixerThreads, sizeof(BatchedAdjointShared)}, stream, operation, first);
    struct Join;
    launch_early<Join>(join_batched_h3<true>, n.channel_grid(), kMixerModes, stream, operation,
                       BatchedJoin{BatchedParameters(a), n.columns, space.starts,
                                   adjoint.dfinal_state, adjoint.dinitial_state});
    adjoint.dfinal_state = read_only(space.starts);
    adjoint.dinitial_state = {};
  }
  struct Adjoint;
  launch_early<Adjoint>(batched_h3_adjoint, n.grid(), {kMixerThreads, sizeof(BatchedAdjointShared)},
                        stream, operation, adjoint);
  struct Shift;
  launch_early<Shift>(batched_h3_shift_adjoint, n.grid(n.shares()),
                      {kMixerThreads, sizeof(BatchedShiftShared)}, stream, operation,
                      BatchedShiftAdjoint{steps_of(a.k, operation), steps_of(g.dk, operation),
                                          n.columns, tape.taps, space.dshifted, space.squares});
  BatchedFinish finish(g);
  finish.sums = space.sums;
  finish.taps = space.taps;
  finish.shifts = space.squares;
  finish.dshifted = space.dshifted;
  finish.channels = static_cast<int>(n.channels);
  finish.parts = static_cast<int>(n.tiles);
  finish.shift_parts = static_cast<int>(n.tiles * n.shares());
  finish.steps = static_cast<int>(n.steps);
  finish.segments = n.columns.segments;
  struct Finish;
  launch_early<Finish>(finish_batched_h3, dim3(finish.blocks()), kParameterThreads, stream,
                       operation, finish);
}

}  // namespace ssm::cuda
