// SPDX-License-Identifier: Apache-2.0
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/scan_rows.hpp"

namespace ssm::cuda {
namespace device {
namespace {

SSM_DEVICE void add_repeats(const float* from, Index repeats, Index step, float& to) {
  double sum = 0;
  for (Index i = 0; i < repeats; ++i) sum += from[i * step];
  to = static_cast<float>(to + sum);
}

}  // namespace
}  // namespace device

void expand_scan_rows(const ssm::DiagonalScan<float, CudaSpace>& a, const ScanRows& rows,
                      Stream stream) {
  const auto dt = device::operand(a.dt);
  const auto A = device::operand(a.A);
  const auto B = device::operand(a.B);
  const auto C = device::operand(a.C);
  const auto skip = device::operand(a.skip);
  const Index count = a.A.extent(0);
  const Index modes = a.A.extent(1);
  device::for_each_index(a.x.extent(2) * modes, stream, "diagonal_scan", [=] SSM_DEVICE(Index i) {
    const Index d = i / modes;
    const Index r = d % count;
    const Index p = i % modes;
    rows.A[i] = {A(r, p, 0), A(r, p, 1)};
    rows.B[i] = {B(r, p, 0), B(r, p, 1)};
    rows.C[i] = {C(r, p, 0), C(r, p, 1)};
    if (p > 0) return;
    rows.dt[d] = dt(r);
    if (skip) rows.skip[d] = skip(r);
  });
}

void add_scan_rows(const ssm::DiagonalScanBackward<float, CudaSpace>& g, const ScanRows& rows,
                   Stream stream) {
  const auto ddt = device::operand(g.ddt);
  const auto dA = device::operand(g.dA);
  const auto dB = device::operand(g.dB);
  const auto dC = device::operand(g.dC);
  const auto dskip = device::operand(g.dskip);
  const Index channels = g.forward.x.extent(2);
  const Index count = g.forward.A.extent(0);
  const Index modes = g.forward.A.extent(1);
  const Index repeats = channels / count;
  device::for_each_index(
      count * modes * 2, stream, "diagonal_scan_backward", [=] SSM_DEVICE(Index i) {
        const Index r = i / 2 / modes;
        const Index p = i / 2 % modes;
        const Index part = i % 2;
        const Index step = count * modes * 2;  // from one channel of the row to the next
        if (dA)
          device::add_repeats(reinterpret_cast<const float*>(rows.A) + i, repeats, step,
                              dA(r, p, part));
        if (dB)
          device::add_repeats(reinterpret_cast<const float*>(rows.B) + i, repeats, step,
                              dB(r, p, part));
        if (dC)
          device::add_repeats(reinterpret_cast<const float*>(rows.C) + i, repeats, step,
                              dC(r, p, part));
        if (p > 0 || part > 0) return;
        if (ddt) device::add_repeats(rows.dt + r, repeats, count, ddt(r));
        if (dskip) device::add_repeats(rows.skip + r, repeats, count, dskip(r));
      });
}

void pack_scan_states(const View<const float, 4, CudaSpace>& from, Complex<float>* to,
                      Stream stream) {
  const auto state = device::operand(from);
  const Index channels = from.extent(1);
  const Index modes = from.extent(2);
  device::for_each_index(from.size() / 2, stream, "diagonal_scan", [=] SSM_DEVICE(Index i) {
    const Index s = i / modes / channels;
    const Index d = i / modes % channels;
    const Index p = i % modes;
    to[i] = {state(s, d, p, 0), state(s, d, p, 1)};
  });
}

void unpack_scan_states(const Complex<float>* from, const View<float, 4, CudaSpace>& to,
                        Stream stream) {
  const auto state = device::operand(to);
  const Index channels = to.extent(1);
  const Index modes = to.extent(2);
  device::for_each_index(to.size() / 2, stream, "diagonal_scan", [=] SSM_DEVICE(Index i) {
    const Index s = i / modes / channels;
    const Index d = i / modes % channels;
    const Index p = i % modes;
    state(s, d, p, 0) = from[i].re;
    state(s, d, p, 1) = from[i].im;
  });
}

void narrow_offsets(DeviceSegments segments, int* to, Stream stream) {
  device::for_each_index(segments.count + 1, stream, "narrow_offsets", [=] SSM_DEVICE(Index i) {
    to[i] = static_cast<int>(segments.offsets[i]);
  });
}

}  // namespace ssm::cuda
