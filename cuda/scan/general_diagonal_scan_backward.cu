// SPDX-License-Identifier: Apache-2.0
#include "scan/general_diagonal_scan.cuh"

namespace ssm::cuda {
namespace device {
namespace {

constexpr int kScanTile = 16;  // positions whose states a lane holds at once

/// Where the parts of the workspace begin.
template <class T, class Z>
struct ScanScratch {
  ScanScratch(T* workspace, Index kept_rows, Index sequences, Index channels, Index modes)
      : kept(reinterpret_cast<Z*>(workspace)),
        dA(kept + kept_rows * channels * modes),
        dB(dA + sequences * channels * modes),
        dC(dB + sequences * channels * modes),
        dskip(reinterpret_cast<T*>(dC + sequences * channels * modes)) {}
  Z* kept;   // [kept rows, D, P]
  Z* dA;     // [S, D, P]   of Ā
  Z* dB;     // [S, D, P]   of B̄
  Z* dC;     // [S, D, P]
  T* dskip;  // [S, D]
};

/// What a lane carries backwards through a sequence.
template <class T, class Z>
struct ScanLane {
  ScanMode<Z> mode{};
  Z adjoint{};  // conj(Ā)·λ of the next position
  Z dA{};
  Z dB{};
  Z dC{};
  T dskip{};
};

/// One channel of one sequence, backwards: with λ_t = ∂loss/∂state_t and g = gate_out·dy,
///   λ_t = w·conj(C)·g_t + conj(Ā)·λ_{t+1}         du_t = Re Σ conj(B̄)·λ_t + skip·g_t
///   dĀ += λ_t·conj(state_{t−1})                    dB̄ += λ_t·u_t
/// Sums over the sequence are in T.
template <class T, class Z>
struct ScanBackwardRow {
  struct Block {
    Sequence s;
    Index d;
    Index first;  // mode of the first lane
    Index width;  // modes
  };

  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Sequence s = a.packing.sequence(row / a.channels);
    const Index d = row % a.channels;
    for_each_mode_block(a.modes, [&](Index first, Index width) {
      run(Block{s, d, first, width}, lanes);
    });
  }

  SSM_DEVICE void run(const Block& block, Lanes lanes) const {
    const auto& [s, d, first, width] = block;
    ScanLane<T, Z> lane;
    keep_states(block, lane, lanes);
    const Index tiles = (s.end - s.begin + kScanTile - 1) / kScanTile;
    for (Index tile = tiles - 1; tile >= 0; --tile) run_tile(block, tile, lane, lanes);
    const Index row = s.row * a.channels + d;
    lanes.each(width, [&](Index i) {
      if (dinitial_state)
        set_number(dinitial_state, lane.adjoint, block.s.row, block.d, block.first + i);
      const Index at = row * a.modes + block.first + i;
      scratch.dA[at] = lane.dA;
      scratch.dB[at] = lane.dB;
      scratch.dC[at] = lane.dC;
    });
    if (first == 0 && lanes.first()) scratch.dskip[row] = lane.dskip;
  }

  /// Runs the recurrence and stores the state before every kKeptScanState-th position.
  SSM_DEVICE void keep_states(const Block& block, ScanLane<T, Z>& lane, Lanes lanes) const {
    const Sequence& s = block.s;
    lanes.each(block.width, [&](Index i) {
      const Index p = block.first + i;
      lane.mode = a.mode(block.d % a.rows, p);
      if (dfinal_state) lane.adjoint = number_at<Z>(dfinal_state, s.row, block.d, p);
      Z state{};
      if (a.initial_state) state = number_at<Z>(a.initial_state, s.row, block.d, p);
      for (Index t = s.begin; t < s.end; ++t) {
        const Index i_t = t - s.begin;
        if (i_t % kKeptScanState == 0) kept(block, i_t, i) = state;
        state = lane.mode.step.A * state + lane.mode.step.B * a.input(s.batch, t, block.d);
      }
    });
  }
  SSM_DEVICE Z& kept(const Block& block, Index position, Index i) const {
    const Index before =
        a.packing.offsets != nullptr
            ? block.s.begin / kKeptScanState + block.s.row
            : block.s.row * ((a.packing.length + kKeptScanState - 1) / kKeptScanState);
    const Index row = before + position / kKeptScanState;
    return scratch.kept[(row * a.channels + block.d) * a.modes + block.first + i];
  }

  SSM_DEVICE void run_tile(const Block& block, Index tile, ScanLane<T, Z>& lane,
                           Lanes lanes) const {
    const Sequence& s = block.s;
    const Index begin = s.begin + tile * kScanTile;
    const Index kept_at = tile * kScanTile / kKeptScanState * kKeptScanState;
    Z state{};
    lanes.each(block.width, [&](Index i) { state = kept(block, kept_at, i); });
    for (Index t = s.begin + kept_at; t < begin; ++t)
      state = lane.mode.step.A * state + lane.mode.step.B * a.input(s.batch, t, block.d);
    Z states[kScanTile + 1];
    SSM_UNROLL
    for (int i = 0; i < kScanTile; ++i) {
      states[i] = state;
      if (begin + i < s.end)
        state = lane.mode.step.A * state + lane.mode.step.B * a.input(s.batch, begin + i, block.d);
    }
    states[kScanTile] = state;
    SSM_UNROLL
    for (int i = kScanTile - 1; i >= 0; --i)
      if (begin + i < s.end) step(block, begin + i, states[i], states[i + 1], lane, lanes);
  }

  SSM_DEVICE void step(const Block& block, Index t, Z before, Z after, ScanLane<T, Z>& lane,
                       Lanes lanes) const {
    const Index b = block.s.batch;
    const Index d = block.d;
    const T x = a.x(b, t, d);
    const T gate_in = value_or(T{1}, a.gate_in, b, t, d);
    const T u = gate_in * x;
    const T gradient = dy(b, t, d);
    const T g = value_or(T{1}, a.gate_out, b, t, d) * gradient;
    T du = lanes.sum(block.width, [&](Index) {
      const Z lambda = lane.adjoint + Number<Z>::weight * g * conjugate(lane.mode.C);
      lane.dA += lambda * conjugate(before);
      lane.dB += lambda * u;
      lane.dC += Number<Z>::weight * g * conjugate(after);
      lane.adjoint = lambda * conjugate(lane.mode.step.A);
      return real_part(lambda * conjugate(lane.mode.step.B));
    });
    T output{0};  // before gate_out
    if (dgate_out)
      output = Number<Z>::weight *
               lanes.sum(block.width, [&](Index) { return real_part(lane.mode.C * after); });
    if (block.first == 0) {
      const T skip = value_or(T{0}, a.skip, d % a.rows);
      du += skip * g;
      output += skip * u;
      lane.dskip += g * u;
    }
    if (!lanes.first()) return;
    put(dx, block, t, gate_in * du);
    put(dgate_in, block, t, x * du);
    put(dgate_out, block, t, gradient * output);
  }
  SSM_DEVICE static void put(const Operand<T, 3>& view, const Block& block, Index t, T value) {
    if (!view) return;
    T& element = view(block.s.batch, t, block.d);
    element = block.first == 0 ? value : element + value;
  }

  ScanOperands<T, Z> a;
  ScanScratch<T, Z> scratch;
  Operand<const T, 3> dy;
  Operand<const T, 4> dfinal_state;
  Operand<T, 3> dx, dgate_in, dgate_out;
  Operand<T, 4> dinitial_state;
};

/// The gradients of one coefficient row: its channels and sequences one after the other, in double.
template <class T, class Z>
struct ScanGradientRow {
  using Precise = typename Number<Z>::Precise;

  SSM_DEVICE void operator()(Index r, Lanes lanes) const {
    const double step = lanes.sum(a.modes, [&](Index p) { return mode(r, p); });
    const Index repeats = a.channels / a.rows;
    const double sum = lanes.sum(a.packing.sequences * repeats, [&](Index i) {
      return double{scratch.dskip[i / repeats * a.channels + i % repeats * a.rows + r]};
    });
    if (!lanes.first()) return;
    if (ddt) ddt(r) = static_cast<T>(ddt(r) + step);
    if (dskip) dskip(r) = static_cast<T>(dskip(r) + sum);
  }

  /// Adds to the gradients of a mode; returns what it adds to that of dt.
  SSM_DEVICE double mode(Index r, Index p) const {
    DiscreteMode<Precise> step{};
    Precise output{};
    for (Index s = 0; s < a.packing.sequences; ++s)
      for (Index d = r; d < a.channels; d += a.rows) {
        const Index at = (s * a.channels + d) * a.modes + p;
        step.A += precise(scratch.dA[at]);
        step.B += precise(scratch.dB[at]);
        output += precise(scratch.dC[at]);
      }
    const auto gradient =
        discretize_backward(a.discretization, double{a.dt(r)}, number_at<Precise>(a.A, r, p),
                            number_at<Precise>(a.B, r, p), step);
    if (dA) add_number(dA, gradient.dA, r, p);
    if (dB) add_number(dB, gradient.dB, r, p);
    if (dC) add_number(dC, output, r, p);
    return gradient.ddt;
  }

  ScanOperands<T, Z> a;
  ScanScratch<T, Z> scratch;
  Operand<T, 1> ddt;
  Operand<T, 3> dA, dB, dC;
  Operand<T, 1> dskip;
};

template <class Z, class T>
void scan_backward(const ssm::DiagonalScanBackward<T, CudaSpace>& g, DeviceSegments segments,
                   T* workspace, Stream stream) {
  const char* const operation = "diagonal_scan_backward";
  const ScanOperands<T, Z> a(g.forward, segments);
  const Index sequences = a.packing.sequences;
  const ScanScratch<T, Z> scratch(workspace, kept_scan_states(g.forward), sequences, a.channels,
                                  a.modes);
  const ScanBackwardRow<T, Z> row{a,
                                  scratch,
                                  operand(g.dy),
                                  operand(g.dfinal_state),
                                  operand(g.dx),
                                  operand(g.dgate_in),
                                  operand(g.dgate_out),
                                  operand(g.dinitial_state)};
  for_each_row(sequences * a.channels, stream, operation, row);
  if (!g.ddt && !g.dA && !g.dB && !g.dC && !g.dskip) return;
  const ScanGradientRow<T, Z> gradient{
      a, scratch, operand(g.ddt), operand(g.dA), operand(g.dB), operand(g.dC), operand(g.dskip)};
  for_each_row(a.rows, stream, operation, gradient);
}

}  // namespace
}  // namespace device

template <class T>
void general_diagonal_scan_backward(const ssm::DiagonalScanBackward<T, CudaSpace>& g,
                                    DeviceSegments segments, T* workspace, Stream stream) {
  if (g.forward.A.extent(2) == 2)
    device::scan_backward<ssm::Complex<T>>(g, segments, workspace, stream);
  else
    device::scan_backward<T>(g, segments, workspace, stream);
}

#define SSM_INSTANTIATE(T)                                      \
  template SSM_CUDA_API void general_diagonal_scan_backward<T>( \
      const ssm::DiagonalScanBackward<T, CudaSpace>&, DeviceSegments, T*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
