// SPDX-License-Identifier: Apache-2.0
#include "scan/decayed_tiles.cuh"
#include "scan/ssd_steps.cuh"
#include "ssm/backend/cuda/ssd_scan.hpp"

namespace ssm::cuda {
namespace device {
namespace {

template <class T>
struct TiledSsdDecays {
  SSM_DEVICE float scale(Index b, Index t, Index h) const { return steps(b, t, h); }
  SSM_DEVICE double rate(Index h) const { return A(h); }

  SsdSteps<T> steps;
  Operand<const float, 1> A;
};

template <class T>
TiledPasses<T> tiled_ssd(const ssm::SsdScan<T, CudaSpace>& call, DeviceSegments segments,
                         const DecayedSizes& sizes, float* workspace, bool backward, Stream stream,
                         const char* operation) {
  TiledPasses<T> passes{TiledMemory<T>(sizes, segments, workspace, backward), true, stream,
                        operation};
  passes.a.q = head_rows(call.C);
  passes.a.k = head_rows(call.B);
  passes.a.v = head_rows(call.x);
  passes.prepare(TiledSsdDecays<T>{SsdSteps<T>(call), operand(call.A)});
  return passes;
}

/// Where the rest of the workspace begins.
struct TiledSsdScratch {
  TiledSsdScratch(const DecayedSizes& n, float* workspace)
      : tiles(value_tiles(static_cast<int>(n.values))),
        rows(n.rows()),
        final_states(workspace),
        dy_y(final_states + n.sequences * n.state()),
        x_dv(dy_y + tiles * rows),
        dy_x(x_dv + tiles * rows),
        dA(dy_x + tiles * rows),
        dskip(dA + n.chunks.places * n.heads),
        dbias(dskip + n.chunks.places * n.heads) {}
  /// Of all tiles.
  __device__ float sum(const float* products, Index row) const {
    float total = 0;
    for (int tile = 0; tile < tiles; ++tile) total += products[tile * rows + row];
    return total;
  }

  int tiles;
  Index rows;
  float* final_states;  // [S, H, N, P]
  float* dy_y;          // [tiles, B, L, H]   sums over channels; y without skip
  float* x_dv;          // [tiles, B, L, H]   dv the gradients of Δ·x
  float* dy_x;          // [tiles, B, L, H]
  float* dA;            // [places, H]
  float* dskip;         // [places, H]
  float* dbias;         // [places, H]
};

/// A head of a chunk: with f_t the gradient of l_t, f_t = f_{t+1} + dy_t·y_t − v_t·dv_t,
///   ddt = (x·dv + A·f)·slope      dA += Δ·f
/// Behind the chunk f is the product of the adjoint and the state there.
template <class T>
struct TiledSsdStepGradients {
  static constexpr int own = kTile / 32;  // neighboring positions of a lane

  __device__ void operator()(Index i, Lanes lanes) const {
    const Chunk chunk = a.chunking.at(i / a.heads);
    const Index h = i % a.heads;
    const Index b = chunk.s.batch;
    const Index first = chunk.begin + lanes.index() * own;
    double change[own];
    float x_dv[own];
    double total = 0;
#pragma unroll
    for (int r = own - 1; r >= 0; --r) {
      if (first + r < chunk.end) {
        const Index row = a.row(b, first + r, h);
        x_dv[r] = scratch.sum(scratch.x_dv, row);
        total += double{scratch.sum(scratch.dy_y, row)} - double{a.scale[row]} * x_dv[r];
      }
      change[r] = total;
    }
    double behind = total;
    for (int step = 1; step < 32; step *= 2) {
      const double other = __shfl_down_sync(0xffffffffu, behind, step);
      if (lanes.index() + step < 32) behind += other;
    }
    behind += behind_chunk(chunk, h, lanes) - total;
    const float rate = A(h);
    double sum_A = 0;
    double sum_skip = 0;
    double sum_bias = 0;
#pragma unroll
    for (int r = 0; r < own; ++r) {
      const Index t = first + r;
      if (t >= chunk.end) break;
      const Index row = a.row(b, t, h);
      const double fade = behind + change[r];
      const float gradient = static_cast<float>(x_dv[r] + rate * fade) * steps.slope(b, t, h);
      if (ddt) ddt(b, t, h) = narrowed<T>(gradient);
      sum_A += a.scale[row] * fade;
      sum_skip += scratch.sum(scratch.dy_x, row);
      sum_bias += gradient;
    }
    sum_A = lanes.total(sum_A);
    sum_skip = lanes.total(sum_skip);
    sum_bias = lanes.total(sum_bias);
    if (!lanes.first()) return;
    scratch.dA[i] = static_cast<float>(sum_A);
    scratch.dskip[i] = static_cast<float>(sum_skip);
    scratch.dbias[i] = static_cast<float>(sum_bias);
  }
  /// The product of the adjoint and the state behind a chunk.
  __device__ double behind_chunk(const Chunk& chunk, Index h, Lanes lanes) const {
    const bool is_last = chunk.end == chunk.s.end;
    if (!chunk.exists || (is_last && !has_final)) return 0;
    const T* const adjoint = a.adjoints + a.state(chunk.place, h);
    const T* const state = a.states + a.state(chunk.place + 1, h);
    const float* const last =
        scratch.final_states + (chunk.s.row * a.heads + h) * a.keys * a.values;
    float sum = 0;
#pragma unroll 4
    for (Index e = lanes.index() * 8; e < a.keys * a.values; e += Lanes::count * 8) {
      float left[8];
      float right[8];
      load_eight(adjoint + e, 8, true, left);
      if (is_last)
        load_eight(last + e, 8, true, right);
      else
        load_eight(state + e, 8, true, right);
#pragma unroll
      for (int k = 0; k < 8; ++k) sum += left[k] * right[k];
    }
    return lanes.total(double{sum});
  }

  TiledMemory<T> a;
  TiledSsdScratch scratch;
  SsdSteps<T> steps;
  Operand<const float, 1> A;
  Operand<T, 3> ddt;
  bool has_final;  // the final state has a gradient
};

/// Adds [places, H] of sums to a parameter's gradient.
template <class T>
void add_tiled_parameter(const TiledPasses<T>& passes, float* partial,
                         const View<float, 1, CudaSpace>& to) {
  if (!to) return;
  const auto element = operand(to);
  sum_over_places(
      passes.a.chunking.places, passes.a.heads, partial, passes.stream, passes.operation,
      [=] SSM_DEVICE(Index h, double sum) { element(h) = static_cast<float>(element(h) + sum); });
}

}  // namespace
}  // namespace device

template <class T>
void tiled_ssd_scan(const ssm::SsdScan<T, CudaSpace>& call, DeviceSegments segments,
                    const DecayedSizes& sizes, float* workspace, Stream stream) {
  using namespace device;
  const auto passes = tiled_ssd(call, segments, sizes, workspace, false, stream, "ssd_scan");
  passes.states(keys_first(operand(call.initial_state)), keys_first(operand(call.final_state)));
  auto outputs = passes.outputs(static_cast<bool>(call.initial_state));
  outputs.y = head_rows(call.y);
  outputs.skipped = passes.a.v;
  outputs.skip = operand(call.skip);
  multiply_values(passes.a, outputs, stream, passes.operation);
}

template <class T>
void tiled_ssd_scan_backward(const ssm::SsdScanBackward<T, CudaSpace>& g, DeviceSegments segments,
                             const DecayedSizes& sizes, float* workspace, Stream stream) {
  using namespace device;
  const auto& call = g.forward;
  const auto passes =
      tiled_ssd(call, segments, sizes, workspace, true, stream, "ssd_scan_backward");
  const TiledMemory<T>& a = passes.a;
  const TiledSsdScratch scratch(sizes, a.rest);
  const bool has_initial = static_cast<bool>(call.initial_state);
  const bool has_final = static_cast<bool>(g.dfinal_state);
  const auto dy = head_rows(g.dy);
  Operand<float, 4> final_state;
  if (has_final)
    final_state = {scratch.final_states,
                   {sizes.state(), sizes.keys * sizes.values, sizes.values, Index{1}}};
  passes.states(keys_first(operand(call.initial_state)), final_state);
  passes.adjoints(dy, keys_first(operand(g.dfinal_state)), keys_first(operand(g.dinitial_state)));
  auto dvalues = passes.value_gradients(dy, has_final);
  if (g.dx) dvalues.y = head_rows(g.dx);
  dvalues.row_scale = a.scale;
  dvalues.skipped = dy;
  dvalues.skip = operand(call.skip);
  dvalues.partner = a.v;
  dvalues.products = scratch.x_dv;
  dvalues.skipped_products = scratch.dy_x;
  multiply_values(a, dvalues, stream, passes.operation);
  auto outputs = passes.outputs(has_initial);
  outputs.partner = dy;
  outputs.products = scratch.dy_y;
  multiply_values(a, outputs, stream, passes.operation);
  for_each_row(sizes.chunks.places * a.heads, stream, passes.operation,
               TiledSsdStepGradients<T>{a, scratch, SsdSteps<T>(call), operand(call.A),
                                        operand(g.ddt), has_final});
  add_tiled_parameter(passes, scratch.dA, g.dA);
  add_tiled_parameter(passes, scratch.dskip, g.dskip);
  add_tiled_parameter(passes, scratch.dbias, g.ddt_bias);
  if (!g.dB && !g.dC) return;
  multiply_pairs(a, dy, stream, passes.operation);
  if (g.dC) passes.query_gradients(dy, head_rows(g.dC), has_initial);
  if (g.dB) passes.key_gradients(head_rows(g.dB), has_final);
}

#define SSM_INSTANTIATE(T)                                                                         \
  template SSM_CUDA_API void tiled_ssd_scan<T>(const ssm::SsdScan<T, CudaSpace>&, DeviceSegments,  \
                                               const DecayedSizes&, float*, Stream);               \
  template SSM_CUDA_API void tiled_ssd_scan_backward<T>(const ssm::SsdScanBackward<T, CudaSpace>&, \
                                                        DeviceSegments, const DecayedSizes&,       \
                                                        float*, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
