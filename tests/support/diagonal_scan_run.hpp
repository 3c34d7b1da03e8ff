// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/op/diagonal_scan.hpp"
#include "support/layout.hpp"

namespace ssm::test {

struct DiagonalScanCase {
  Index batch = 1, length = 65, channels = 20, rows = 20, modes = 5, parts = 2;
  Discretization discretization = Discretization::bilinear;
  bool skip = true, gates = false, states = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

/// Operands and results of one run, in the layout of the case.
template <class T>
struct DiagonalScanRun {
  DiagonalScanRun(const DiagonalScanCase& test, Layout layout)
      : sequences(sequence_count(test.batch, test.segments)),
        dt(random_tensor<T>("dt", test.rows)),
        A(random_tensor<T>("A", test.rows, test.modes, test.parts)),
        B(random_tensor<T>("B", test.rows, test.modes, test.parts)),
        C(random_tensor<T>("C", test.rows, test.modes, test.parts)),
        skip(random_tensor<T>("skip", test.rows)),
        x(sequence("x", test, layout)),
        gate_in(sequence("gate_in", test, layout)),
        gate_out(sequence("gate_out", test, layout)),
        dy(sequence("dy", test, layout)),
        initial(state("initial", test)),
        dfinal(state("dfinal", test)),
        y(place<T>(layout, test.batch, test.length, test.channels)),
        dx(place<T>(layout, test.batch, test.length, test.channels)),
        dgate_in(place<T>(layout, test.batch, test.length, test.channels)),
        dgate_out(place<T>(layout, test.batch, test.length, test.channels)),
        final_state(nan_tensor<T>(sequences, test.channels, test.modes, test.parts)),
        dinitial(nan_tensor<T>(sequences, test.channels, test.modes, test.parts)),
        ddt(random_tensor<T>("ddt", test.rows)),
        dA(random_tensor<T>("dA", test.rows, test.modes, test.parts)),
        dB(random_tensor<T>("dB", test.rows, test.modes, test.parts)),
        dC(random_tensor<T>("dC", test.rows, test.modes, test.parts)),
        dskip(random_tensor<T>("dskip", test.rows)) {
    for_each_index(dt, [&](Index r) { dt(r) = T(0.1) + T(0.09) * dt(r); });
    for_each_index(A, [&](Index r, Index p,
                          Index part) {  // real parts in the left half plane, some |dt·A| above 1
      A(r, p, part) = part == 0 ? T(-0.6) + T(0.5) * A(r, p, part) : T(20) * A(r, p, part);
    });
  }

  DiagonalScan<T, HostSpace> forward(const DiagonalScanCase& test) {
    return {.dt = dt,
            .A = A,
            .B = B,
            .C = C,
            .skip = test.skip ? skip.view() : View<T, 1>(),
            .discretization = test.discretization,
            .x = x,
            .gate_in = test.gates ? gate_in.view : View<T, 3>(),
            .gate_out = test.gates ? gate_out.view : View<T, 3>(),
            .segments = test.segments,
            .initial_state = test.states ? initial.view() : View<T, 4>(),
            .final_state = final_state,
            .y = y};
  }
  template <class Ctx>
  void compute(Ctx& ctx, const DiagonalScanCase& test) {
    diagonal_scan(ctx, forward(test));
    diagonal_scan_backward(ctx, DiagonalScanBackward<T, HostSpace>{
                                    .forward = forward(test),
                                    .dy = dy,
                                    .dfinal_state = test.states ? dfinal.view() : View<T, 4>(),
                                    .dx = dx,
                                    .dgate_in = test.gates ? dgate_in.view : View<T, 3>(),
                                    .dgate_out = test.gates ? dgate_out.view : View<T, 3>(),
                                    .dinitial_state = test.states ? dinitial.view() : View<T, 4>(),
                                    .ddt = ddt,
                                    .dA = dA,
                                    .dB = dB,
                                    .dC = dC,
                                    .dskip = test.skip ? dskip.view() : View<T, 1>()});
  }

  static Placed<T, 3> sequence(const char* name, const DiagonalScanCase& test, Layout layout) {
    return place_copy(layout, random_tensor<T>(name, test.batch, test.length, test.channels));
  }
  DynamicTensor<T, 4> state(const char* name, const DiagonalScanCase& test) const {
    return random_tensor<T>(name, sequences, test.channels, test.modes, test.parts);
  }

  Index sequences;
  DynamicTensor<T, 1> dt;
  DynamicTensor<T, 3> A, B, C;
  DynamicTensor<T, 1> skip;
  Placed<T, 3> x, gate_in, gate_out, dy;
  DynamicTensor<T, 4> initial, dfinal;
  Placed<T, 3> y, dx, dgate_in, dgate_out;
  DynamicTensor<T, 4> final_state, dinitial;
  DynamicTensor<T, 1> ddt;
  DynamicTensor<T, 3> dA, dB, dC;
  DynamicTensor<T, 1> dskip;
};

template <class T>
void expect_equal(const DiagonalScanCase& test, const DiagonalScanRun<T>& actual,
                  const DiagonalScanRun<T>& expected) {
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.final_state, expected.final_state) < tolerance<T>.value);
  CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
  if (test.gates) {
    CHECK(difference(actual.dgate_in.view, expected.dgate_in.view) < tolerance<T>.gradient);
    CHECK(difference(actual.dgate_out.view, expected.dgate_out.view) < tolerance<T>.gradient);
  }
  if (test.states) CHECK(difference(actual.dinitial, expected.dinitial) < tolerance<T>.gradient);
  CHECK(difference(actual.ddt, expected.ddt) < tolerance<T>.gradient);
  CHECK(difference(actual.dA, expected.dA) < tolerance<T>.gradient);
  CHECK(difference(actual.dB, expected.dB) < tolerance<T>.gradient);
  CHECK(difference(actual.dC, expected.dC) < tolerance<T>.gradient);
  CHECK(difference(actual.dskip, expected.dskip) < tolerance<T>.gradient);
}

}  // namespace ssm::test
