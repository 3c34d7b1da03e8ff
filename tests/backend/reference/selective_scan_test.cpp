// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/selective_scan.hpp"

#include <doctest/doctest.h>

#include <array>
#include <vector>

#include "ssm/core/elementwise.hpp"  // clone
#include "ssm/core/scalar.hpp"       // tolerance
#include "support/gradient_check.hpp"
#include "support/selective_scan_call.hpp"

namespace ssm::test {
namespace {

/// sin(s + 0.7·(k + 1) + 1.1·(t + 1)) for position t of channel or state k.
template <class X>
void fill_sines(X& tensor, double s) {
  for_each_index(tensor, [&](Index, Index t, Index k) {
    tensor(0, t, k) =
        std::sin(s + 0.7 * static_cast<double>(k + 1) + 1.1 * static_cast<double>(t + 1));
  });
}

TEST_CASE("outputs and state are the published numbers") {
  SelectiveCall<> call({.batch = 1, .length = 5, .channels = 2, .states = 3});
  fill_sines(call.u, 0.2);
  fill_sines(call.dt, 0.9);
  fill_sines(call.B, 1.3);
  fill_sines(call.C, 2.1);
  fill_sines(call.gate, 3.3);
  call.dt_bias = tensor_of({-1, -2});
  call.skip = tensor_of({1, 0.5});
  for_each_index(call.A, [&](Index d, Index n) { call.A(d, n) = -static_cast<double>(n + 1); });
  auto operands = call.operands();
  operands.initial_state = {};
  selective_scan(call.ctx, operands);
  constexpr double half_of_last_digit = 0.5e-8 * 1.01;
  const std::array first{-0.38773304, -0.00423335, -0.67667819, -0.73481673, -0.00735891};
  const std::array second{-0.04895117, -0.12538963, -0.38432781, -0.03058811, -0.15326334};
  for (Index t = 0; t < 5; ++t) {
    CHECK(std::abs(call.y(0, t, 0) - first[static_cast<std::size_t>(t)]) < half_of_last_digit);
    CHECK(std::abs(call.y(0, t, 1) - second[static_cast<std::size_t>(t)]) < half_of_last_digit);
  }
  const std::array states{0.0929289, -0.00705317, -0.02209776, 0.26006823, 0.20349661, 0.08484878};
  for (Index i = 0; i < 6; ++i)
    CHECK(std::abs(call.final_state(0, i / 3, i % 3) - states[static_cast<std::size_t>(i)]) <
          half_of_last_digit);
}

TEST_CASE("the step is a softplus, and the number itself where none is asked for") {
  SelectiveCall<> call({});
  call.run();
  const double raw = call.dt(1, 2, 1) + call.dt_bias(1);
  CHECK(call.dt_used(1, 2, 1) == doctest::Approx(std::log(1 + std::exp(raw))));
  call.dt_softplus = false;
  call.run();
  CHECK(call.dt_used(1, 2, 1) == raw);
}

TEST_CASE("a large step is finite and equals its argument") {
  SelectiveCall<> call({.batch = 1, .length = 1, .channels = 2});
  call.dt(0, 0, 0) = 1000;
  call.dt(0, 0, 1) = -1000;
  call.run();
  CHECK(call.dt_used(0, 0, 0) == 1000 + call.dt_bias(0));
  CHECK(call.dt_used(0, 0, 1) == 0);
}

/// The operands of positions begin … end−1.
void take_positions(SelectiveCall<>& to, const SelectiveCall<>& from, Index begin, Index end) {
  to.u = positions(from.u, begin, end);
  to.dt = positions(from.dt, begin, end);
  to.gate = positions(from.gate, begin, end);
  to.B = positions(from.B, begin, end);
  to.C = positions(from.C, begin, end);
}

TEST_CASE("a sequence in two parts with the state between them equals the whole") {
  for (const Index length : {1, 2, 63, 64, 65, 1000})
    for (const Index cut : {Index{0}, length / 3, length}) {
      CAPTURE(length);
      CAPTURE(cut);
      SelectiveCall<> whole({.length = length});
      whole.run();
      SelectiveCall<> first({.length = cut});
      take_positions(first, whole, 0, cut);
      first.run();
      SelectiveCall<> second({.length = length - cut});
      take_positions(second, whole, cut, length);
      second.initial_state = first.final_state.clone();
      second.run();
      CHECK(difference(first.y, positions(whole.y, 0, cut)) < tolerance<double>.value);
      CHECK(difference(second.y, positions(whole.y, cut, length)) < tolerance<double>.value);
      CHECK(difference(second.final_state, whole.final_state) < tolerance<double>.value);
    }
}

TEST_CASE("packed segments equal separate sequences and an empty one keeps its state") {
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  SelectiveCall<> packed({.batch = 1, .length = 20, .segments = offsets});
  packed.run();
  for (Index i = 0; i + 1 < static_cast<Index>(offsets.size()); ++i) {
    CAPTURE(i);
    const Index begin = offsets[static_cast<std::size_t>(i)];
    const Index end = offsets[static_cast<std::size_t>(i) + 1];
    SelectiveCall<> alone({.batch = 1, .length = end - begin});
    take_positions(alone, packed, begin, end);
    alone.initial_state = clone(packed.initial_state.slice(0, i, i + 1));
    alone.run();
    CHECK(difference(alone.y, positions(packed.y, begin, end)) == 0);
    CHECK(difference(alone.final_state, packed.final_state.slice(0, i, i + 1)) == 0);
  }
  CHECK(difference(packed.final_state.slice(0, 1, 2), packed.initial_state.slice(0, 1, 2)) == 0);
}

TEST_CASE("the final state may overwrite the initial state") {
  SelectiveCall<> apart({});
  apart.run();
  SelectiveCall<> together({});
  auto operands = together.operands();
  operands.final_state = together.initial_state;
  selective_scan(together.ctx, operands);
  CHECK(difference(together.initial_state, apart.final_state) == 0);
  CHECK(difference(together.y, apart.y) == 0);
}

TEST_CASE("single precision agrees with double precision") {
  SelectiveCall<double> exact({.length = 64});
  SelectiveCall<float> rounded({.length = 64});
  exact.run();
  rounded.run();
  CHECK(difference(rounded.y, exact.y) < tolerance<float>.value);
  CHECK(difference(rounded.final_state, exact.final_state) < tolerance<float>.value);
}

void check_gradients(SelectiveCall<>& call) {
  call.run_backward();
  const auto loss = [&] {
    call.run();
    return inner_product(call.dy, call.y) + inner_product(call.dfinal, call.final_state) +
           inner_product(call.ddt_used, call.dt_used);
  };
  const double bound = tolerance<double>.gradient;
  CHECK(gradient_error(loss, call.u, call.du) < bound);
  CHECK(gradient_error(loss, call.dt, call.ddt) < bound);
  CHECK(gradient_error(loss, call.gate, call.dgate) < bound);
  CHECK(gradient_error(loss, call.A, call.dA) < bound);
  CHECK(gradient_error(loss, call.B, call.dB) < bound);
  CHECK(gradient_error(loss, call.C, call.dC) < bound);
  CHECK(gradient_error(loss, call.skip, call.dskip) < bound);
  CHECK(gradient_error(loss, call.dt_bias, call.ddt_bias) < bound);
  CHECK(gradient_error(loss, call.initial_state, call.dinitial) < bound);
}

TEST_CASE("gradients equal central differences") {
  for (const Index length : {0, 1, 2, 7})
    for (const bool softplus : {false, true}) {
      CAPTURE(length);
      CAPTURE(softplus);
      SelectiveCall<> call({.length = length});
      call.dt_softplus = softplus;
      check_gradients(call);
    }
}

TEST_CASE("gradients of packed segments equal central differences") {
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  SelectiveCall<> call({.batch = 1, .length = 10, .segments = offsets});
  check_gradients(call);
}

TEST_CASE("parameter gradients are added to and input gradients overwritten") {
  SelectiveCall<> once({});
  once.run_backward();
  SelectiveCall<> twice({});
  twice.run_backward();
  twice.run_backward();
  CHECK(twice.dA(1, 2) == 2 * once.dA(1, 2));
  CHECK(twice.dskip(1) == 2 * once.dskip(1));
  CHECK(twice.ddt_bias(1) == 2 * once.ddt_bias(1));
  CHECK(difference(twice.du, once.du) == 0);
  CHECK(difference(twice.dB, once.dB) == 0);
}

TEST_CASE("input gradients are added to on request") {
  SelectiveCall<> call({});
  call.run_backward();
  const auto before = clone(call.dB);
  const auto state_before = clone(call.dinitial);
  auto again = call.gradients();
  again.accumulate = true;
  selective_scan_backward(call.ctx, again);
  CHECK(call.dB(1, 2, 0) == 2 * before(1, 2, 0));
  CHECK(call.dinitial(1, 1, 0) == 2 * state_before(1, 1, 0));
}

TEST_CASE("every optional operand may be left out") {
  SelectiveCall<> call({});
  const ssm::SelectiveScan<double, HostSpace> forward{
      .u = call.u, .dt = call.dt, .A = call.A, .B = call.B, .C = call.C, .y = call.y};
  CHECK_NOTHROW(selective_scan(call.ctx, forward));
  CHECK_NOTHROW(selective_scan_backward(
      call.ctx, SelectiveScanBackward<double, HostSpace>{.forward = forward, .dy = call.dy}));
}

TEST_CASE("operands that do not fit are named") {
  SelectiveCall<> call({});
  auto operands = call.operands();
  const auto wide = zero_tensor(3, 7, 4);
  operands.C = wide;
  CHECK_THROWS_WITH_AS(selective_scan(call.ctx, operands),
                       "selective_scan: C must be [3, 7, 3], got [3, 7, 4]", ShapeError);
  operands = call.operands();
  operands.y = {};
  CHECK_THROWS_WITH_AS(selective_scan(call.ctx, operands), "selective_scan: y is missing",
                       ShapeError);
  auto gradients = call.gradients();
  gradients.forward.gate = {};
  CHECK_THROWS_WITH_AS(selective_scan_backward(call.ctx, gradients),
                       "selective_scan_backward: dgate is given, but the gate is not", ShapeError);
}

}  // namespace
}  // namespace ssm::test
