// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/diagonal_scan.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/scan_call.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

constexpr Discretization kinds[] = {Discretization::bilinear, Discretization::zero_order_hold};

TEST_CASE("one real mode gives the hand-worked numbers") {
  ScanCall<> call({.batch = 1, .length = 2, .channels = 1, .rows = 1, .modes = 1, .parts = 1});
  call.dt(0) = 0.5;
  call.A(0, 0, 0) = -4;  // z = −2: Ā = 0, B̄ = dt·B/2
  call.B(0, 0, 0) = 8;
  call.C(0, 0, 0) = 3;
  call.skip(0) = 10;
  call.x(0, 0, 0) = 1;
  call.x(0, 1, 0) = -2;
  call.gate_in(0, 0, 0) = 5;
  call.gate_in(0, 1, 0) = 1;
  call.gate_out(0, 0, 0) = 1;
  call.gate_out(0, 1, 0) = 0.5;
  call.run();
  CHECK(call.y(0, 0, 0) == 3 * 10 + 10 * 5);  // weight 1 for real modes
  CHECK(call.y(0, 1, 0) == 0.5 * (3 * -4 + 10 * -2));
  CHECK(call.final_state(0, 0, 0, 0) == -4);
}

TEST_CASE("the scan equals convolution with the kernel of the same coefficients") {
  for (const Discretization kind : kinds)
    for (const Index parts : {1, 2})
      for (const Index length : {1, 2, 63, 64, 65, 1000})
        for (const Index batch : {1, 3}) {
          CAPTURE(parts);
          CAPTURE(length);
          ScanCall<> call({.batch = batch, .length = length, .channels = 2, .parts = parts});
          call.discretization = kind;
          auto operands = call.operands();
          operands.initial_state = {};
          diagonal_scan(call.ctx, operands);
          auto kernel = nan_tensor(2, length);
          diagonal_kernel(call.ctx, DiagonalKernel<double, HostSpace>{.dt = call.dt,
                                                                      .A = call.A,
                                                                      .B = call.B,
                                                                      .C = call.C,
                                                                      .discretization = kind,
                                                                      .kernel = kernel});
          auto expected = nan_tensor(batch, length, 2);
          causal_convolution(call.ctx,
                             CausalConvolution<double, HostSpace>{.kernel = kernel,
                                                                  .skip = call.skip,
                                                                  .x = call.x,
                                                                  .gate_in = call.gate_in,
                                                                  .gate_out = call.gate_out,
                                                                  .y = expected});
          CHECK(difference(call.y, expected) < tolerance<double>.value);
        }
}

TEST_CASE("a sequence in two parts with the state between them equals the whole") {
  const Index length = 65;
  for (const Index cut : {0, 1, 40, 65}) {
    CAPTURE(cut);
    ScanCall<> whole({.length = length});
    whole.run();
    ScanCall<> first({.length = cut});
    ScanCall<> second({.length = length - cut});
    first.x = positions(whole.x, 0, cut);
    first.gate_in = positions(whole.gate_in, 0, cut);
    first.gate_out = positions(whole.gate_out, 0, cut);
    first.run();
    second.x = positions(whole.x, cut, length);
    second.gate_in = positions(whole.gate_in, cut, length);
    second.gate_out = positions(whole.gate_out, cut, length);
    second.initial_state = first.final_state.clone();
    second.run();
    CHECK(difference(first.y, positions(whole.y, 0, cut)) < tolerance<double>.value);
    CHECK(difference(second.y, positions(whole.y, cut, length)) < tolerance<double>.value);
    CHECK(difference(second.final_state, whole.final_state) < tolerance<double>.value);
  }
}

TEST_CASE("packed segments equal separate sequences and an empty one keeps its state") {
  const std::vector<Index> offsets{0, 0, 5, 6, 20};
  ScanCall<> packed({.batch = 1, .length = 20, .segments = offsets});
  packed.run();
  for (Index i = 0; i + 1 < static_cast<Index>(offsets.size()); ++i) {
    CAPTURE(i);
    const Index begin = offsets[static_cast<std::size_t>(i)];
    const Index end = offsets[static_cast<std::size_t>(i) + 1];
    ScanCall<> alone({.batch = 1, .length = end - begin});
    alone.x = positions(packed.x, begin, end);
    alone.gate_in = positions(packed.gate_in, begin, end);
    alone.gate_out = positions(packed.gate_out, begin, end);
    auto operands = alone.operands();
    operands.initial_state = packed.initial_state.slice(0, i, i + 1);
    diagonal_scan(alone.ctx, operands);
    CHECK(difference(alone.y, positions(packed.y, begin, end)) == 0);
    CHECK(difference(alone.final_state, packed.final_state.slice(0, i, i + 1)) == 0);
  }
  CHECK(difference(packed.final_state.slice(0, 0, 1), packed.initial_state.slice(0, 0, 1)) == 0);
}

TEST_CASE("channel-major operands give the numbers of position-major ones") {
  ScanCall<> call({});
  call.run();
  auto x = nan_tensor(3, 4, 7);
  for_each_index(x, [&](Index b, Index d, Index t) { x(b, d, t) = call.x(b, t, d); });
  auto y = nan_tensor(3, 4, 7);
  auto operands = call.operands();
  operands.x = x.transpose(1, 2);
  operands.y = y.transpose(1, 2);
  diagonal_scan(call.ctx, operands);
  CHECK(difference(y.transpose(1, 2), call.y) == 0);
}

TEST_CASE("the final state may overwrite the initial state") {
  ScanCall<> apart({});
  apart.run();
  ScanCall<> together({});
  auto operands = together.operands();
  operands.final_state = together.initial_state;
  diagonal_scan(together.ctx, operands);
  CHECK(difference(together.initial_state, apart.final_state) == 0);
  CHECK(difference(together.y, apart.y) == 0);
}

TEST_CASE("a mode of rate zero is finite in single and double precision") {
  ScanCall<float> call({.length = 65});
  call.discretization = Discretization::zero_order_hold;
  for_each_index(call.A, [&](Index r, Index p, Index part) { call.A(r, p, part) = 0; });
  ScanCall<double> exact({.length = 65});
  exact.discretization = Discretization::zero_order_hold;
  for_each_index(exact.A, [&](Index r, Index p, Index part) { exact.A(r, p, part) = 0; });
  call.run();
  exact.run();
  CHECK(difference(call.y, exact.y) < tolerance<float>.value);
}

TEST_CASE("operands whose extents disagree are named") {
  ScanCall<> call({});
  auto operands = call.operands();
  const auto three = zero_tensor(3);
  operands.dt = three;
  CHECK_THROWS_WITH_AS(diagonal_scan(call.ctx, operands),
                       "diagonal_scan: dt has 3 rows, which do not divide the 4 channels",
                       ShapeError);
  operands = call.operands();
  const auto wide = zero_tensor(2, 3, 3);
  operands.A = wide;
  CHECK_THROWS_WITH_AS(diagonal_scan(call.ctx, operands),
                       "diagonal_scan: A must have 1 or 2 scalars a number, got 3", ShapeError);
}

}  // namespace
}  // namespace ssm::test
