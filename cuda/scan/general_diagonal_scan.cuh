// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/number.cuh"
#include "kernel/packing.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/diagonal_scan.hpp"

namespace ssm::cuda::device {

/// A mode ready to run.
template <class Z>
struct ScanMode {
  DiscreteMode<Z> step;
  Z C;
};

/// What the passes over a scan read, as kernels index it.
template <class T, class Z>
struct ScanOperands {
  ScanOperands(const ssm::DiagonalScan<T, CudaSpace>& a, DeviceSegments segments)
      : dt(operand(a.dt)),
        A(operand(a.A)),
        B(operand(a.B)),
        C(operand(a.C)),
        skip(operand(a.skip)),
        x(operand(a.x)),
        gate_in(operand(a.gate_in)),
        gate_out(operand(a.gate_out)),
        initial_state(operand(a.initial_state)),
        packing(segments, a.x.extent(0), a.x.extent(1)),
        channels(a.x.extent(2)),
        rows(a.A.extent(0)),
        modes(a.A.extent(1)),
        discretization(a.discretization) {}

  SSM_HOST_DEVICE ScanMode<Z> mode(Index r, Index p) const {
    using Precise = typename Number<Z>::Precise;
    const auto step = discretize(discretization, double{dt(r)}, number_at<Precise>(A, r, p),
                                 number_at<Precise>(B, r, p));
    return {{rounded<Z>(step.A), rounded<Z>(step.B)}, number_at<Z>(C, r, p)};
  }
  SSM_HOST_DEVICE T input(Index b, Index t, Index d) const {
    return value_or(T{1}, gate_in, b, t, d) * x(b, t, d);
  }

  Operand<const T, 1> dt;
  Operand<const T, 3> A, B, C;
  Operand<const T, 1> skip;
  Operand<const T, 3> x, gate_in, gate_out;
  Operand<const T, 4> initial_state;
  Packing packing;
  Index channels;
  Index rows;
  Index modes;
  Discretization discretization;
};

/// Calls visit(first, width) for the modes first … first+width−1 that the lanes of a row hold at
/// once; once without any modes too.
template <class F>
SSM_DEVICE void for_each_mode_block(Index modes, F&& visit) {
  for (Index first = 0; first == 0 || first < modes; first += Lanes::count)
    visit(first, modes - first < Lanes::count ? modes - first : Lanes::count);
}

}  // namespace ssm::cuda::device
