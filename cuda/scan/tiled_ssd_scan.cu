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
  if (backward && passes.a.products == nullptr)
    passes.a.products = reinterpret_cast<T*>(passes.a.rest);
  passes.prepare(TiledSsdDecays<T>{SsdSteps<T>(call), operand(call.A)});
  return passes;
}

/// Where the rest of the workspace begins, behind the products of queries with keys.
struct TiledSsdScratch {
  TiledSsdScratch(const DecayedSizes& n, float* workspace)
      : key_parts(static_cast<int>((n.keys + 31) / 32)) {
    float* next = workspace + n.chunks.places * n.groups * kTile * kTile / 2;
    const auto take = [&](Index count) {
      float* const taken = next;
      next += n.chunks.places * n.heads * count;
      return taken;
    };
    sums.rows = take(4 * kTile);
    sums.columns = take(4 * kTile);
    sums.diagonal = take(kTile);
    sums.of_states = take(key_parts * kTile);
    sums.of_adjoints = take(key_parts * kTile);
    dA = take(1);
    dskip = take(1);
    dbias = take(1);
  }

  int key_parts;
  PositionSums sums;
  float* dA;     // [places, H]
  float* dskip;  // [places, H]
  float* dbias;  // [places, H]
};

/// A head of a chunk. With f_t the gradient of l_t, the pairs of positions m < t ≤ r whose product
/// is faded by l_t, and the state and the adjoint that enter the chunk, S and R:
///   f_t = Σ_{m<t≤r} Δ_m·w(r, m) + Σ_{r≥t} C_r·S·dy_r·e^{l_begin + … + l_r}
///       + Σ_{m<t} Δ_m·B_m·R·x_m·e^{l_{m+1} + … + l_{end−1}} + R·S·e^{l_begin + … + l_{end−1}}
///   ddt_t = (x_t·dv_t + A·f_t)·slope      dA += Δ_t·f_t
/// The first sum is one of all its rows from t on less its columns from t on: nothing in it is
/// larger than what fades. dv is the gradient of Δ·x.
template <class T>
struct TiledSsdStepGradients {
  static constexpr int own = kTile / 32;  // neighboring positions of a lane
  static_assert(own == 4);

  __device__ void operator()(Index i, Lanes lanes) const {
    const Chunk chunk = a.chunking.at(i / a.heads);
    const Index h = i % a.heads;
    const Index b = chunk.s.batch;
    const int lane = static_cast<int>(lanes.index());
    const int first = lane * own;
    const int rows = static_cast<int>(chunk.end - chunk.begin);
    const PositionSums& sums = scratch.sums;
    const Index at = a.position_sum(chunk.place, h) + first;
    float row_sums[own] = {};
    float columns[own] = {};
    float diagonal[own] = {};
    float of_state[own] = {};
    float of_adjoint[own] = {};
    if (first < rows) {
      add_parts(row_sums, sums.rows + at, 0, lane / 8 + 1);
      add_parts(columns, sums.columns + at, lane / 8, 4);
      add_parts(diagonal, sums.diagonal + at, 0, 1);
      if (has_states) add_parts(of_state, sums.of_states + at, 0, scratch.key_parts);
      if (has_adjoints) add_parts(of_adjoint, sums.of_adjoints + at, 0, scratch.key_parts);
    }
    const T* const products =
        a.products + a.pair(chunk.place, h / (a.heads / a.groups)) + first * (kTile + 1);
    float step[own];
    double from_here[own];  // summed from a position on
    double before[own];     // summed up to a position, which is left out
    float x_dv[own];
    double all_from = 0;
    double all_before = 0;
#pragma unroll
    for (int r = 0; r < own; ++r) {
      step[r] = x_dv[r] = 0;
      before[r] = all_before;
      if (first + r >= rows) continue;
      const Index row = a.row(b, chunk.begin + first + r, h);
      const float to_end = a.to_end[row] * of_adjoint[r];
      step[r] = a.scale[row];
      of_state[r] *= a.from_begin[row];
      all_before += double{step[r] * to_end};
      x_dv[r] = columns[r] + widened(products[r * (kTile + 1)]) * diagonal[r] + to_end;
    }
#pragma unroll
    for (int r = own - 1; r >= 0; --r) {
      if (first + r < rows)
        all_from += double{row_sums[r]} - double{step[r]} * columns[r] + of_state[r];
      from_here[r] = all_from;
    }
    double behind = all_from;
    double ahead = all_before;
    for (int shift = 1; shift < 32; shift *= 2) {
      const double later = __shfl_down_sync(0xffffffffu, behind, shift);
      const double earlier = __shfl_up_sync(0xffffffffu, ahead, shift);
      if (lane + shift < 32) behind += later;
      if (lane >= shift) ahead += earlier;
    }
    const double others = behind - all_from + ahead - all_before + through_chunk(chunk, h, lanes);
    const float rate = A(h);
    double sum_A = 0;
    double sum_skip = 0;
    double sum_bias = 0;
#pragma unroll
    for (int r = 0; r < own; ++r) {
      if (first + r >= rows) break;
      const Index t = chunk.begin + first + r;
      const double fade = from_here[r] + before[r] + others;
      const float gradient = static_cast<float>(x_dv[r] + rate * fade) * steps.slope(b, t, h);
      if (ddt) ddt(b, t, h) = narrowed<T>(gradient);
      sum_A += step[r] * fade;
      sum_skip += diagonal[r];
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
  /// Adds parts begin … end − 1.
  __device__ void add_parts(float (&sums)[own], const float* parts, int begin, int end) const {
    for (int part = begin; part < end; ++part) {
      const float4 four = *reinterpret_cast<const float4*>(parts + part * a.position_sums());
      sums[0] += four.x, sums[1] += four.y, sums[2] += four.z, sums[3] += four.w;
    }
  }
  /// The product of the adjoint and the state that enter a chunk, faded over it.
  __device__ double through_chunk(const Chunk& chunk, Index h, Lanes lanes) const {
    if (!has_states || !has_adjoints || chunk.end == chunk.begin) return 0;
    const T* const adjoint = a.adjoints + a.state(chunk.place, h);
    const T* const state = a.states + a.state(chunk.place, h);
    float sum = 0;
#pragma unroll 8
    for (Index e = lanes.index() * 8; e < a.keys * a.values; e += Lanes::count * 8) {
      float left[8];
      float right[8];
      load_eight(adjoint + e, 8, true, left);
      load_eight(state + e, 8, true, right);
#pragma unroll
      for (int k = 0; k < 8; ++k) sum += left[k] * right[k];
    }
    return lanes.total(double{sum}) * a.from_begin[a.row(chunk.s.batch, chunk.end - 1, h)];
  }

  TiledMemory<T> a;
  TiledSsdScratch scratch;
  SsdSteps<T> steps;
  Operand<const float, 1> A;
  Operand<T, 3> ddt;
  bool has_states;  // enter chunks
  bool has_adjoints;
};

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
  const bool wants_sums = g.ddt || g.dA || g.dskip || g.ddt_bias;
  const PositionSums sums = wants_sums ? scratch.sums : PositionSums{};
  const auto dy = head_rows(g.dy);
  passes.states(keys_first(operand(call.initial_state)), {});
  passes.adjoints(dy, keys_first(operand(g.dfinal_state)), keys_first(operand(g.dinitial_state)));
  if (g.dx) {
    auto dvalues = passes.value_gradients(dy, has_final);
    dvalues.y = head_rows(g.dx);
    dvalues.row_scale = a.scale;
    dvalues.skipped = dy;
    dvalues.skip = operand(call.skip);
    multiply_values(a, dvalues, stream, passes.operation);
  }
  if (!wants_sums && !g.dB && !g.dC) return;
  multiply_pairs(a, dy, sums, stream, passes.operation);
  if (wants_sums || g.dC) passes.query_gradients(dy, head_rows(g.dC), has_initial, sums);
  if (wants_sums || g.dB) passes.key_gradients(head_rows(g.dB), has_final, sums);
  if (!wants_sums) return;
  for_each_row(
      sizes.chunks.places * a.heads, stream, passes.operation,
      TiledSsdStepGradients<T>{a, scratch, SsdSteps<T>(call), operand(call.A), operand(g.ddt),
                               has_initial || !a.chunking.whole, has_final || !a.chunking.whole});
  add_head_sums(passes, scratch.dA, g.dA);
  add_head_sums(passes, scratch.dskip, g.dskip);
  add_head_sums(passes, scratch.dbias, g.ddt_bias);
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
