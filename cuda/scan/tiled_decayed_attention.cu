// SPDX-License-Identifier: Apache-2.0
#include "scan/decayed_tiles.cuh"
#include "ssm/backend/cuda/decayed_attention.hpp"

namespace ssm::cuda {
namespace device {
namespace {

struct TiledRetentionDecays {
  SSM_DEVICE float scale(Index, Index, Index) const { return 1; }
  SSM_DEVICE double rate(Index h) const { return log_decay(h); }

  Operand<const float, 1> log_decay;
};

template <class T>
TiledPasses<T> tiled_retention(const ssm::DecayedAttention<T, CudaSpace>& call,
                               DeviceSegments segments, const DecayedSizes& sizes, float* workspace,
                               bool backward, Stream stream, const char* operation) {
  TiledPasses<T> passes{TiledMemory<T>(sizes, segments, workspace, backward), false, stream,
                        operation};
  passes.a.q = head_rows(call.q);
  passes.a.k = head_rows(call.k);
  passes.a.v = head_rows(call.v);
  passes.prepare(TiledRetentionDecays{operand(call.log_decay)}, passes.a.rest);
  return passes;
}

}  // namespace
}  // namespace device

template <class T>
void tiled_decayed_attention(const ssm::DecayedAttention<T, CudaSpace>& call,
                             DeviceSegments segments, const DecayedSizes& sizes, float* workspace,
                             Stream stream) {
  using namespace device;
  const auto passes =
      tiled_retention(call, segments, sizes, workspace, false, stream, "decayed_attention");
  if (walks_values(passes.a, passes.operation))
    return walk_values(passes.a,
                       {.x = passes.a.q,
                        .k = passes.a.k,
                        .z = passes.a.v,
                        .spans = passes.a.rest,
                        .backwards = false,
                        .y = head_rows(call.y),
                        .states = nullptr,
                        .start = operand(call.initial_state),
                        .end = operand(call.final_state)},
                       stream, passes.operation);
  passes.states(operand(call.initial_state), operand(call.final_state));
  auto outputs = passes.outputs(static_cast<bool>(call.initial_state));
  outputs.y = head_rows(call.y);
  multiply_values(passes.a, outputs, stream, passes.operation);
}

template <class T>
void tiled_decayed_attention_backward(const ssm::DecayedAttentionBackward<T, CudaSpace>& g,
                                      DeviceSegments segments, const DecayedSizes& sizes,
                                      float* workspace, Stream stream) {
  using namespace device;
  const auto& call = g.forward;
  const auto passes =
      tiled_retention(call, segments, sizes, workspace, true, stream, "decayed_attention_backward");
  const auto dy = head_rows(g.dy);
  const bool has_initial = static_cast<bool>(call.initial_state);
  const bool has_final = static_cast<bool>(g.dfinal_state);
  passes.states(operand(call.initial_state), {});
  if (walks_values(passes.a, passes.operation)) {
    walk_values(passes.a,
                {.x = passes.a.k,
                 .k = passes.a.q,
                 .z = dy,
                 .spans = passes.a.rest,
                 .backwards = true,
                 .y = head_rows(g.dv),
                 .states = passes.a.adjoints,
                 .start = operand(g.dfinal_state),
                 .end = operand(g.dinitial_state)},
                stream, passes.operation);
  } else {
    passes.adjoints(dy, operand(g.dfinal_state), operand(g.dinitial_state));
    auto dv = passes.value_gradients(dy, has_final);
    dv.y = head_rows(g.dv);
    multiply_values(passes.a, dv, stream, passes.operation);
  }
  multiply_pairs(passes.a, dy, {}, stream, passes.operation);
  passes.query_gradients(dy, head_rows(g.dq), has_initial);
  passes.key_gradients(head_rows(g.dk), has_final);
}

#define SSM_INSTANTIATE(T)                                                                     \
  template SSM_CUDA_API void tiled_decayed_attention<T>(                                       \
      const ssm::DecayedAttention<T, CudaSpace>&, DeviceSegments, const DecayedSizes&, float*, \
      Stream);                                                                                 \
  template SSM_CUDA_API void tiled_decayed_attention_backward<T>(                              \
      const ssm::DecayedAttentionBackward<T, CudaSpace>&, DeviceSegments, const DecayedSizes&, \
      float*, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
