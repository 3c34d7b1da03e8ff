// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/backend/reference.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {

struct ScanSizes {
  Index batch = 3;
  Index length = 7;
  Index channels = 4;
  Index rows = 2;
  Index modes = 3;
  Index parts = 2;
  Segments segments{};
};

/// One call with all its memory.
template <class T = double>
struct ScanCall {
  explicit ScanCall(const ScanSizes& n)
      : segments(n.segments),
        dt(random_tensor<T>("dt", n.rows)),
        skip(random_tensor<T>("skip", n.rows)),
        A(random_tensor<T>("A", n.rows, n.modes, n.parts)),
        B(random_tensor<T>("B", n.rows, n.modes, n.parts)),
        C(random_tensor<T>("C", n.rows, n.modes, n.parts)),
        x(random_tensor<T>("x", n.batch, n.length, n.channels)),
        gate_in(random_tensor<T>("gate_in", n.batch, n.length, n.channels)),
        gate_out(random_tensor<T>("gate_out", n.batch, n.length, n.channels)),
        y(nan_tensor<T>(n.batch, n.length, n.channels)),
        initial_state(random_tensor<T>("initial", sequence_count(n.batch, segments), n.channels,
                                       n.modes, n.parts)),
        final_state(
            nan_tensor<T>(sequence_count(n.batch, segments), n.channels, n.modes, n.parts)) {
    ctx.workspace().fill_with_nan(true);
    for (Index r = 0; r < n.rows; ++r) {
      dt(r) = std::exp(dt(r)) / 10;
      for (Index p = 0; p < n.modes; ++p) {
        A(r, p, 0) = -std::exp(A(r, p, 0));
        if (n.parts == 2) A(r, p, 1) *= 5;
      }
    }
  }

  ssm::DiagonalScan<T, HostSpace> operands() {
    return {.dt = dt,
            .A = A,
            .B = B,
            .C = C,
            .skip = skip,
            .discretization = discretization,
            .x = x,
            .gate_in = gate_in,
            .gate_out = gate_out,
            .segments = segments,
            .initial_state = initial_state,
            .final_state = final_state,
            .y = y};
  }
  void run() { diagonal_scan(ctx, operands()); }

  Context<Reference> ctx;
  Segments segments;
  Discretization discretization = Discretization::bilinear;
  DynamicTensor<T, 1> dt, skip;
  DynamicTensor<T, 3> A, B, C, x, gate_in, gate_out, y;
  DynamicTensor<T, 4> initial_state, final_state;
};

}  // namespace ssm::test
