// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/backend/reference.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {

struct SelectiveSizes {
  Index batch = 3;
  Index length = 7;
  Index channels = 2;
  Index states = 3;
  Segments segments{};
};

/// One call with all its memory, and all its gradients.
template <class T = double>
struct SelectiveCall {
  explicit SelectiveCall(const SelectiveSizes& n)
      : segments(n.segments),
        rows(sequence_count(n.batch, segments)),
        A(random_tensor<T>("A", n.channels, n.states)),
        skip(random_tensor<T>("skip", n.channels)),
        dt_bias(random_tensor<T>("bias", n.channels)),
        u(random_tensor<T>("u", n.batch, n.length, n.channels)),
        dt(random_tensor<T>("delta", n.batch, n.length, n.channels)),
        gate(random_tensor<T>("gate", n.batch, n.length, n.channels)),
        B(random_tensor<T>("B", n.batch, n.length, n.states)),
        C(random_tensor<T>("C", n.batch, n.length, n.states)),
        initial_state(random_tensor<T>("initial", rows, n.channels, n.states)),
        y(nan_tensor<T>(n.batch, n.length, n.channels)),
        dt_used(nan_tensor<T>(n.batch, n.length, n.channels)),
        final_state(nan_tensor<T>(rows, n.channels, n.states)),
        dy(random_tensor<T>("dy", n.batch, n.length, n.channels)),
        ddt_used(random_tensor<T>("dstep", n.batch, n.length, n.channels)),
        dfinal(random_tensor<T>("dfinal", rows, n.channels, n.states)),
        du(nan_tensor<T>(n.batch, n.length, n.channels)),
        ddt(du.clone()),
        dgate(du.clone()),
        dB(nan_tensor<T>(n.batch, n.length, n.states)),
        dC(dB.clone()),
        dinitial(nan_tensor<T>(rows, n.channels, n.states)),
        dA(zero_tensor<T>(n.channels, n.states)),
        dskip(zero_tensor<T>(n.channels)),
        ddt_bias(zero_tensor<T>(n.channels)) {
    ctx.workspace().fill_with_nan(true);
    for_each_index(A, [&](auto... i) { A(i...) = -std::exp(A(i...)); });
  }

  ssm::SelectiveScan<T, HostSpace> operands() {
    return {.u = u,
            .dt = dt,
            .A = A,
            .B = B,
            .C = C,
            .skip = skip,
            .dt_bias = dt_bias,
            .gate = gate,
            .dt_softplus = dt_softplus,
            .segments = segments,
            .initial_state = initial_state,
            .final_state = final_state,
            .dt_used = dt_used,
            .y = y};
  }
  ssm::SelectiveScanBackward<T, HostSpace> gradients() {
    return {.forward = operands(),
            .dy = dy,
            .dfinal_state = dfinal,
            .ddt_used = ddt_used,
            .du = du,
            .ddt = ddt,
            .dA = dA,
            .dB = dB,
            .dC = dC,
            .dskip = dskip,
            .ddt_bias = ddt_bias,
            .dgate = dgate,
            .dinitial_state = dinitial};
  }
  void run() { selective_scan(ctx, operands()); }
  void run_backward() { selective_scan_backward(ctx, gradients()); }

  Context<Reference> ctx;
  Segments segments;
  Index rows;
  bool dt_softplus = true;
  DynamicTensor<T, 2> A;
  DynamicTensor<T, 1> skip, dt_bias;
  DynamicTensor<T, 3> u, dt, gate, B, C, initial_state, y, dt_used, final_state;
  DynamicTensor<T, 3> dy, ddt_used, dfinal, du, ddt, dgate, dB, dC, dinitial;
  DynamicTensor<T, 2> dA;
  DynamicTensor<T, 1> dskip, ddt_bias;
};

}  // namespace ssm::test
