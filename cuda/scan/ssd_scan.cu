// SPDX-License-Identifier: Apache-2.0
#include "scan/decayed_chunks.cuh"
#include "scan/decayed_step.cuh"
#include "scan/ssd_steps.cuh"
#include "ssm/backend/cuda/ssd_scan.hpp"

namespace ssm::cuda {
namespace device {
namespace {

template <class T>
DecayedMemory<T> ssd_memory(const ssm::SsdScan<T, CudaSpace>& a, DeviceSegments segments,
                            const DecayedSizes& sizes, double* sums, T* workspace) {
  DecayedMemory<T> memory(sizes, segments, sums, workspace);
  memory.q = operand(a.C);
  memory.k = operand(a.B);
  memory.v = operand(a.x);
  memory.scales = true;
  return memory;
}

/// l_t = Δ_t·A
template <class T>
struct SsdLogDecay {
  SSM_DEVICE double operator()(Index b, Index t, Index h) const {
    return double{scale[(b * length + t) * heads + h]} * A(h);
  }

  const T* scale;
  Operand<const T, 1> A;
  Index length;
  Index heads;
};

/// Steps, factors and weights.
template <class T>
void prepare_ssd(const ssm::SsdScan<T, CudaSpace>& call, const DecayedPasses<T>& passes) {
  const DecayedMemory<T>& a = passes.a;
  T* const scale = a.scale;
  const SsdSteps<T> steps(call);
  const Index length = a.length;
  const Index heads = a.heads;
  for_each_index(call.dt.size(), passes.stream, passes.operation, [=] SSM_DEVICE(Index i) {
    scale[i] = steps(i / heads / length, i / heads % length, i % heads);
  });
  passes.factors(SsdLogDecay<T>{scale, operand(call.A), length, heads});
  passes.weights();
}

/// y = sum + skip·x
template <class T>
struct SsdOutput {
  SSM_DEVICE void operator()(Index b, Index t, Index h, Index p, T sum) const {
    y(b, t, h, p) = sum + value_or(T{0}, skip, h) * x(b, t, h, p);
  }

  Operand<const T, 4> x;
  Operand<const T, 1> skip;
  Operand<T, 4> y;
};

/// The factors of a call of one position.
template <class T>
struct SsdStepFactors {
  SSM_DEVICE T scale(Index b, Index h) const { return steps(b, 0, h); }
  SSM_DEVICE T fade(Index b, Index h) const { return std::exp(steps(b, 0, h) * A(h)); }

  SsdSteps<T> steps;
  Operand<const T, 1> A;
};

/// Into [B, L, H, P] of scratch memory.
template <class T>
struct SsdStore {
  SSM_DEVICE void operator()(Index b, Index t, Index h, Index p, T value) const {
    to[((b * length + t) * heads + h) * channels + p] = value;
  }

  T* to;
  Index length;
  Index heads;
  Index channels;
};

/// Where the rest of the workspace begins.
template <class T>
struct SsdScratch {
  SsdScratch(const DecayedSizes& n, T* workspace)
      : outputs(workspace),
        dvalues(outputs + n.rows() * n.values),
        dy_y(dvalues + n.rows() * n.values),
        x_dv(dy_y + n.rows()),
        dy_x(x_dv + n.rows()),
        final_states(dy_x + n.rows()),
        dA(final_states + n.sequences * n.state()),
        dskip(dA + n.chunks.places * n.heads),
        dbias(dskip + n.chunks.places * n.heads) {}

  T* outputs;       // [B, L, H, P]   y without skip
  T* dvalues;       // [B, L, H, P]   gradients of Δ·x
  T* dy_y;          // [B, L, H]      sums over channels
  T* x_dv;          // [B, L, H]
  T* dy_x;          // [B, L, H]
  T* final_states;  // [S, H, N, P]
  T* dA;            // [places, H]
  T* dskip;         // [places, H]
  T* dbias;         // [places, H]
};

/// The channels of a head at one position: dx, and the sums over them.
template <class T>
struct SsdProducts {
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Index h = row % a.heads;
    const Index t = row / a.heads % a.length;
    const Index b = row / a.heads / a.length;
    const T* const outputs = scratch.outputs + row * a.values;
    const T* const dvalues = scratch.dvalues + row * a.values;
    const T dy_y = lanes.sum(a.values, [&](Index p) { return dy(b, t, h, p) * outputs[p]; });
    const T x_dv = lanes.sum(a.values, [&](Index p) { return a.v(b, t, h, p) * dvalues[p]; });
    const T dy_x = lanes.sum(a.values, [&](Index p) { return dy(b, t, h, p) * a.v(b, t, h, p); });
    const T step = a.scale[row];
    if (dx)
      lanes.each(a.values, [&](Index p) {
        dx(b, t, h, p) = step * dvalues[p] + value_or(T{0}, skip, h) * dy(b, t, h, p);
      });
    if (!lanes.first()) return;
    scratch.dy_y[row] = dy_y;
    scratch.x_dv[row] = x_dv;
    scratch.dy_x[row] = dy_x;
  }

  DecayedMemory<T> a;
  SsdScratch<T> scratch;
  Operand<const T, 4> dy;
  Operand<const T, 1> skip;
  Operand<T, 4> dx;
};

/// A head of a chunk: with f_t the gradient of l_t, f_t = f_{t+1} + dy_t·y_t − v_t·dv_t,
///   ddt = (x·dv + A·f)·slope      dA += Δ·f
/// Behind the chunk f is the product of the adjoint and the state there.
template <class T>
struct SsdStepGradients {
  SSM_DEVICE void operator()(Index i, Lanes lanes) const {
    const Chunk chunk = a.chunking.at(i / a.heads);
    const Index h = i % a.heads;
    const Index b = chunk.s.batch;
    const Index size = a.keys * a.values;
    const bool is_last = chunk.end == chunk.s.end;
    double fade = 0;
    if (chunk.exists && (!is_last || has_final)) {
      const T* const adjoint = a.adjoints + (chunk.place * a.heads + h) * size;
      const T* const state = is_last ? scratch.final_states + (chunk.s.row * a.heads + h) * size
                                     : a.states + ((chunk.place + 1) * a.heads + h) * size;
      fade = lanes.sum(size, [&](Index e) { return double{adjoint[e]} * state[e]; });
    }
    if (!lanes.first()) return;
    double sum_A = 0;
    double sum_skip = 0;
    double sum_bias = 0;
    for (Index t = chunk.end; t-- > chunk.begin;) {
      const Index row = a.row(b, t, h);
      const T step = a.scale[row];
      fade += double{scratch.dy_y[row]} - double{step} * scratch.x_dv[row];
      const T gradient = static_cast<T>(scratch.x_dv[row] + A(h) * fade) * steps.slope(b, t, h);
      if (ddt) ddt(b, t, h) = gradient;
      sum_A += step * fade;
      sum_skip += scratch.dy_x[row];
      sum_bias += gradient;
    }
    scratch.dA[i] = static_cast<T>(sum_A);
    scratch.dskip[i] = static_cast<T>(sum_skip);
    scratch.dbias[i] = static_cast<T>(sum_bias);
  }

  DecayedMemory<T> a;
  SsdScratch<T> scratch;
  SsdSteps<T> steps;
  Operand<const T, 1> A;
  Operand<T, 3> ddt;
  bool has_final;  // the final state has a gradient
};

}  // namespace
}  // namespace device

template <class T>
void ssd_scan(const ssm::SsdScan<T, CudaSpace>& call, DeviceSegments segments,
              const DecayedSizes& sizes, double* sums, T* workspace, Stream stream) {
  using namespace device;
  const DecayedPasses<T> passes{ssd_memory(call, segments, sizes, sums, workspace), stream,
                                "ssd_scan"};
  const auto initial_state = keys_first(operand(call.initial_state));
  const auto final_state = keys_first(operand(call.final_state));
  const SsdOutput<T> output{operand(call.x), operand(call.skip), operand(call.y)};
  if (is_decayed_step(passes.a)) {
    const SsdStepFactors<T> factors{SsdSteps<T>(call), operand(call.A)};
    return step_decayed(
        DecayedStep<T, SsdStepFactors<T>, SsdOutput<T>>{passes.a, factors, initial_state,
                                                        final_state, output},
        stream, passes.operation);
  }
  prepare_ssd(call, passes);
  passes.states(initial_state, final_state);
  passes.outputs(static_cast<bool>(initial_state), output);
}

template <class T>
void ssd_scan_backward(const ssm::SsdScanBackward<T, CudaSpace>& g, DeviceSegments segments,
                       const DecayedSizes& sizes, double* sums, T* workspace, Stream stream) {
  using namespace device;
  const auto& call = g.forward;
  const DecayedPasses<T> passes{ssd_memory(call, segments, sizes, sums, workspace), stream,
                                "ssd_scan_backward"};
  const DecayedMemory<T>& a = passes.a;
  const SsdScratch<T> scratch(sizes, a.rest);
  const bool has_initial = static_cast<bool>(call.initial_state);
  const bool has_final = static_cast<bool>(g.dfinal_state);
  const auto dy = operand(g.dy);
  prepare_ssd(call, passes);
  Operand<T, 4> final_state;
  if (has_final)
    final_state = {scratch.final_states,
                   {sizes.state(), sizes.keys * sizes.values, sizes.values, Index{1}}};
  passes.states(keys_first(operand(call.initial_state)), final_state);
  passes.adjoints(dy, keys_first(operand(g.dfinal_state)), keys_first(operand(g.dinitial_state)));
  passes.value_gradients(dy, has_final, SsdStore<T>{scratch.dvalues, a.length, a.heads, a.values});
  passes.outputs(has_initial, SsdStore<T>{scratch.outputs, a.length, a.heads, a.values});
  for_each_row(sizes.rows(), stream, passes.operation,
               SsdProducts<T>{a, scratch, dy, operand(call.skip), operand(g.dx)});
  for_each_row(sizes.chunks.places * a.heads, stream, passes.operation,
               SsdStepGradients<T>{a, scratch, SsdSteps<T>(call), operand(call.A), operand(g.ddt),
                                   has_final});
  add_head_sums(passes, scratch.dA, g.dA);
  add_head_sums(passes, scratch.dskip, g.dskip);
  add_head_sums(passes, scratch.dbias, g.ddt_bias);
  if (!g.dB && !g.dC) return;
  passes.pairs(dy);
  if (g.dC) passes.key_gradients(dy, operand(g.dC), has_initial, false);
  if (g.dB) passes.key_gradients(dy, operand(g.dB), has_final, true);
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void ssd_scan<T>(const ssm::SsdScan<T, CudaSpace>&, DeviceSegments,     \
                                         const DecayedSizes&, double*, T*, Stream);             \
  template SSM_CUDA_API void ssd_scan_backward<T>(const ssm::SsdScanBackward<T, CudaSpace>&,    \
                                                  DeviceSegments, const DecayedSizes&, double*, \
                                                  T*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
