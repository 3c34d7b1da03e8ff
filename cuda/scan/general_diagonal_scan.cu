// SPDX-License-Identifier: Apache-2.0
#include "scan/general_diagonal_scan.cuh"

namespace ssm::cuda {
namespace device {
namespace {

constexpr int kScanGroup = 4;  // positions whose loads and sums overlap

/// One channel of one sequence. Blocks of modes follow each other over the whole sequence and add
/// to y.
template <class T, class Z>
struct ScanRow {
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Sequence s = a.packing.sequence(row / a.channels);
    const Index d = row % a.channels;
    for_each_mode_block(a.modes, [&](Index first, Index width) { run(s, d, first, width, lanes); });
  }

  SSM_DEVICE void run(const Sequence& s, Index d, Index first, Index width, Lanes lanes) const {
    ScanMode<Z> mode{};
    Z state{};
    lanes.each(width, [&](Index i) {
      mode = a.mode(d % a.rows, first + i);
      if (a.initial_state) state = number_at<Z>(a.initial_state, s.row, d, first + i);
    });
    for (Index t = s.begin; t < s.end; t += kScanGroup) {
      T u[kScanGroup];
      T sum[kScanGroup];
      SSM_UNROLL
      for (int i = 0; i < kScanGroup; ++i) u[i] = t + i < s.end ? a.input(s.batch, t + i, d) : T{0};
      SSM_UNROLL
      for (int i = 0; i < kScanGroup; ++i)
        sum[i] = lanes.sum(t + i < s.end ? width : 0, [&](Index) {
          state = mode.step.A * state + mode.step.B * u[i];
          return real_part(mode.C * state);
        });
      SSM_UNROLL
      for (int i = 0; i < kScanGroup; ++i)
        if (lanes.first() && t + i < s.end) write(s.batch, t + i, d, first, u[i], sum[i]);
    }
    lanes.each(width, [&](Index i) {
      if (final_state) set_number(final_state, state, s.row, d, first + i);
    });
  }

  SSM_DEVICE void write(Index b, Index t, Index d, Index first, T u, T sum) const {
    const T gate = value_or(T{1}, a.gate_out, b, t, d);
    const T part = Number<Z>::weight * sum;
    if (first == 0)
      y(b, t, d) = gate * (part + value_or(T{0}, a.skip, d % a.rows) * u);
    else
      y(b, t, d) += gate * part;
  }

  ScanOperands<T, Z> a;
  Operand<T, 4> final_state;
  Operand<T, 3> y;
};

/// One position of one channel: all that it reads is on its way at once.
template <class T, class Z>
struct ScanStep {
  SSM_DEVICE void prefetch(Index row, Lanes lanes) const {
    const Index d = row % a.channels, r = d % a.rows;
    for (Index i = lanes.index(); i < a.modes; i += Lanes::count) {
      device::prefetch(&a.B(r, i, 0));
      device::prefetch(&a.C(r, i, 0));
      if (a.initial_state) device::prefetch(&a.initial_state(row / a.channels, d, i, 0));
    }
  }
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Index b = row / a.channels, d = row % a.channels, r = d % a.rows;
    const T u = a.input(b, 0, d);
    const T gate = value_or(T{1}, a.gate_out, b, 0, d);
    const T skip = value_or(T{0}, a.skip, r);
    const T sum = lanes.sum(a.modes, [&](Index i) {
      Z state{};
      if (a.initial_state) state = number_at<Z>(a.initial_state, b, d, i);
      const ScanMode<Z> mode = a.mode(r, i);
      state = mode.step.A * state + mode.step.B * u;
      if (final_state) set_number(final_state, state, b, d, i);
      return real_part(mode.C * state);
    });
    if (lanes.first()) y(b, 0, d) = gate * (Number<Z>::weight * sum + skip * u);
  }

  ScanOperands<T, Z> a;
  Operand<T, 4> final_state;
  Operand<T, 3> y;
};

template <class Z, class T>
void scan(const ssm::DiagonalScan<T, CudaSpace>& a, DeviceSegments segments, Stream stream) {
  if (a.x.extent(1) == 1 && segments.offsets == nullptr) {
    const ScanStep<T, Z> step{{a, segments}, operand(a.final_state), operand(a.y)};
    return for_each_row(a.x.extent(0) * step.a.channels, stream, "diagonal_scan", step);
  }
  const ScanRow<T, Z> row{{a, segments}, operand(a.final_state), operand(a.y)};
  for_each_row(row.a.packing.sequences * row.a.channels, stream, "diagonal_scan", row);
}

}  // namespace
}  // namespace device

template <class T>
void general_diagonal_scan(const ssm::DiagonalScan<T, CudaSpace>& a, DeviceSegments segments,
                           Stream stream) {
  if (a.A.extent(2) == 2)
    device::scan<ssm::Complex<T>>(a, segments, stream);
  else
    device::scan<T>(a, segments, stream);
}

#define SSM_INSTANTIATE(T)                                                                    \
  template SSM_CUDA_API void general_diagonal_scan<T>(const ssm::DiagonalScan<T, CudaSpace>&, \
                                                      DeviceSegments, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
