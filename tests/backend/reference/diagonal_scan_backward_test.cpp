// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include "ssm/backend/reference/diagonal_scan.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/scan_call.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

/// All gradients of one call.
struct ScanGradients {
  explicit ScanGradients(const ScanCall<>& call)
      : dy(random_tensor("dy", call.x.extent(0), call.x.extent(1), call.x.extent(2))),
        dx(nan_tensor(call.x.extent(0), call.x.extent(1), call.x.extent(2))),
        dgate_in(dx.clone()),
        dgate_out(dx.clone()),
        dA(zero_tensor(call.A.extent(0), call.A.extent(1), call.A.extent(2))),
        dB(dA.clone()),
        dC(dA.clone()),
        dfinal(random_tensor("dfinal", call.final_state.extent(0), call.final_state.extent(1),
                             call.final_state.extent(2), call.final_state.extent(3))),
        dinitial(nan_tensor(call.final_state.extent(0), call.final_state.extent(1),
                            call.final_state.extent(2), call.final_state.extent(3))),
        ddt(zero_tensor(call.dt.extent(0))),
        dskip(zero_tensor(call.dt.extent(0))) {}

  void run(ScanCall<>& call) {
    diagonal_scan_backward(call.ctx,
                           DiagonalScanBackward<double, HostSpace>{.forward = call.operands(),
                                                                   .dy = dy,
                                                                   .dfinal_state = dfinal,
                                                                   .dx = dx,
                                                                   .dgate_in = dgate_in,
                                                                   .dgate_out = dgate_out,
                                                                   .dinitial_state = dinitial,
                                                                   .ddt = ddt,
                                                                   .dA = dA,
                                                                   .dB = dB,
                                                                   .dC = dC,
                                                                   .dskip = dskip});
  }

  DynamicTensor<double, 3> dy, dx, dgate_in, dgate_out, dA, dB, dC;
  DynamicTensor<double, 4> dfinal, dinitial;
  DynamicTensor<double, 1> ddt, dskip;
};

void check_gradients(ScanCall<>& call) {
  ScanGradients g(call);
  g.run(call);
  const auto loss = [&] {
    call.run();
    return inner_product(g.dy, call.y) + inner_product(g.dfinal, call.final_state);
  };
  const double bound = tolerance<double>.gradient;
  CHECK(gradient_error(loss, call.x, g.dx) < bound);
  CHECK(gradient_error(loss, call.gate_in, g.dgate_in) < bound);
  CHECK(gradient_error(loss, call.gate_out, g.dgate_out) < bound);
  CHECK(gradient_error(loss, call.initial_state, g.dinitial) < bound);
  CHECK(gradient_error(loss, call.dt, g.ddt) < bound);
  CHECK(gradient_error(loss, call.A, g.dA) < bound);
  CHECK(gradient_error(loss, call.B, g.dB) < bound);
  CHECK(gradient_error(loss, call.C, g.dC) < bound);
  CHECK(gradient_error(loss, call.skip, g.dskip) < bound);
}

TEST_CASE("gradients equal central differences for every kind of number and step") {
  for (const Discretization kind : {Discretization::bilinear, Discretization::zero_order_hold})
    for (const Index parts : {1, 2})
      for (const Index length : {0, 1, 2, 7}) {
        CAPTURE(static_cast<int>(kind));
        CAPTURE(parts);
        CAPTURE(length);
        ScanCall<> call({.length = length, .parts = parts});
        call.discretization = kind;
        check_gradients(call);
      }
}

TEST_CASE("gradients of packed segments equal central differences") {
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  ScanCall<> call({.batch = 1, .length = 10, .segments = offsets});
  check_gradients(call);
}

TEST_CASE("parameter gradients are added to and every gradient may be left out") {
  ScanCall<> call({});
  ScanGradients once(call);
  once.run(call);
  ScanGradients twice(call);
  twice.run(call);
  twice.run(call);
  CHECK(twice.ddt(1) == 2 * once.ddt(1));
  CHECK(twice.dA(1, 2, 1) == 2 * once.dA(1, 2, 1));
  CHECK(twice.dskip(1) == 2 * once.dskip(1));
  CHECK(difference(twice.dx, once.dx) == 0);
  auto forward = call.operands();
  forward.skip = {};
  forward.gate_in = {};
  forward.gate_out = {};
  forward.initial_state = {};
  CHECK_NOTHROW(diagonal_scan_backward(
      call.ctx, DiagonalScanBackward<double, HostSpace>{.forward = forward, .dy = once.dy}));
}

}  // namespace
}  // namespace ssm::test
