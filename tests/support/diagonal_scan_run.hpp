// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/diagonal_scan.hpp"
#include "support/operand_run.hpp"

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
struct DiagonalScanRun
    : OperandRun<DiagonalScan<T, HostSpace>, DiagonalScanBackward<T, HostSpace>> {
  DiagonalScanRun(const DiagonalScanCase& test, Layout layout)
      : DiagonalScanRun::OperandRun({{'B', test.batch},
                                     {'L', test.length},
                                     {'D', test.channels},
                                     {'R', test.rows},
                                     {'P', test.modes},
                                     {'Z', test.parts}},
                                    layout, test.segments,
                                    left_out({{"skip", test.skip},
                                              {"gate_in", test.gates},
                                              {"gate_out", test.gates},
                                              {"initial_state", test.states},
                                              {"dinitial_state", test.states},
                                              {"dfinal_state", test.states}})) {
    this->forward.discretization = test.discretization;
    const auto dt = this->writable(this->forward.dt);
    for_each_index(dt, [&](Index r) { dt(r) = Wide<T>(0.1) + Wide<T>(0.09) * dt(r); });
    const auto A = this->writable(this->forward.A);
    for_each_index(A, [&](Index r, Index p,
                          Index part) {  // real parts in the left half plane, some |dt·A| above 1
      A(r, p, part) =
          part == 0 ? Wide<T>(-0.6) + Wide<T>(0.5) * A(r, p, part) : Wide<T>(20) * A(r, p, part);
    });
  }
  template <class Ctx>
  void compute(Ctx& ctx, const DiagonalScanCase&) {
    diagonal_scan(ctx, this->forward);
    diagonal_scan_backward(ctx, this->backward());
  }
};

}  // namespace ssm::test
