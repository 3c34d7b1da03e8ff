// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/ssd_scan.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/elementwise.hpp"  // clone, copy
#include "ssm/core/scalar.hpp"       // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

struct Sizes {
  Index batch = 2;
  Index length = 7;
  Index heads = 4;
  Index channels = 3;
  Index groups = 2;
  Index states = 5;
  Segments segments{};
};

/// One call with all its memory, and all its gradients.
template <class T = double>
struct SsdCall {
  explicit SsdCall(const Sizes& n)
      : segments(n.segments),
        rows(sequence_count(n.batch, segments)),
        A(random_tensor<T>("A", n.heads)),
        skip(random_tensor<T>("skip", n.heads)),
        dt_bias(random_tensor<T>("bias", n.heads)),
        dt(random_tensor<T>("delta", n.batch, n.length, n.heads)),
        x(random_tensor<T>("x", n.batch, n.length, n.heads, n.channels)),
        B(random_tensor<T>("B", n.batch, n.length, n.groups, n.states)),
        C(random_tensor<T>("C", n.batch, n.length, n.groups, n.states)),
        initial_state(random_tensor<T>("initial", rows, n.heads, n.channels, n.states)),
        y(nan_tensor<T>(n.batch, n.length, n.heads, n.channels)),
        final_state(nan_tensor<T>(rows, n.heads, n.channels, n.states)),
        dy(random_tensor<T>("dy", n.batch, n.length, n.heads, n.channels)),
        dfinal(random_tensor<T>("dfinal", rows, n.heads, n.channels, n.states)),
        dx(y.clone()),
        dB(nan_tensor<T>(n.batch, n.length, n.groups, n.states)),
        dC(dB.clone()),
        dinitial(final_state.clone()),
        ddt(nan_tensor<T>(n.batch, n.length, n.heads)),
        dA(zero_tensor<T>(n.heads)),
        dskip(zero_tensor<T>(n.heads)),
        ddt_bias(zero_tensor<T>(n.heads)) {
    ctx.workspace().fill_with_nan(true);
    for_each_index(A, [&](Index h) { A(h) = -std::exp(A(h)); });
  }

  ssm::SsdScan<T, HostSpace> operands() {
    return {.x = x,
            .dt = dt,
            .A = A,
            .B = B,
            .C = C,
            .skip = skip,
            .dt_bias = dt_bias,
            .dt_softplus = dt_softplus,
            .dt_min = dt_min,
            .dt_max = dt_max,
            .segments = segments,
            .initial_state = initial_state,
            .final_state = final_state,
            .y = y};
  }
  ssm::SsdScanBackward<T, HostSpace> gradients() {
    return {.forward = operands(),
            .dy = dy,
            .dfinal_state = dfinal,
            .dx = dx,
            .ddt = ddt,
            .dA = dA,
            .dB = dB,
            .dC = dC,
            .dskip = dskip,
            .ddt_bias = ddt_bias,
            .dinitial_state = dinitial};
  }
  void run() { ssd_scan(ctx, operands()); }
  void run_backward() { ssd_scan_backward(ctx, gradients()); }

  /// The operands of positions begin … end−1 of another call.
  void take_positions(const SsdCall& from, Index begin, Index end) {
    copy(from.x.slice(1, begin, end), x);
    copy(from.dt.slice(1, begin, end), dt);
    copy(from.B.slice(1, begin, end), B);
    copy(from.C.slice(1, begin, end), C);
  }

  Context<Reference> ctx;
  Segments segments;
  Index rows;
  bool dt_softplus = true;
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();
  DynamicTensor<T, 1> A, skip, dt_bias;
  DynamicTensor<T, 3> dt;
  DynamicTensor<T, 4> x, B, C, initial_state, y, final_state;
  DynamicTensor<T, 4> dy, dfinal, dx, dB, dC, dinitial;
  DynamicTensor<T, 3> ddt;
  DynamicTensor<T, 1> dA, dskip, ddt_bias;
};

/// The numbers that the published values were computed from: FNV-1a of the name, then SplitMix64.
template <class X>
void fill_named(X& tensor, std::string_view name) {
  std::uint64_t seed = 0xcbf29ce484222325U;
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  for (Index i = 0; i < tensor.size(); ++i) {
    std::uint64_t z = seed + (static_cast<std::uint64_t>(i) + 1) * 0x9E3779B97F4A7C15U;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
    z = (z ^ z >> 27) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    tensor.data()[i] = static_cast<double>(z >> 40) * 0x1p-23 - 1;
  }
}

TEST_CASE("outputs and state are those of the published ssd_minimal_discrete") {
  SsdCall<> call({.batch = 1, .length = 16, .heads = 2, .channels = 4, .groups = 2, .states = 3});
  fill_named(call.x, "ssd.x");
  fill_named(call.B, "ssd.B");
  fill_named(call.C, "ssd.C");
  fill_named(call.dt, "ssd.dt");
  for_each_index(call.dt, [&](auto... i) { call.dt(i...) = 0.05 + 0.5 * (call.dt(i...) + 1); });
  call.A = tensor_of({-1, -4});
  call.dt_softplus = false;
  auto operands = call.operands();
  operands.skip = operands.dt_bias = {};
  operands.initial_state = {};
  ssd_scan(call.ctx, operands);
  const std::array first{-0.0221925962, 0.00484046438, -0.00606216992, 0.0382130015};
  const std::array last{0.0452673272, -0.0203472017, 0.0280485101, -0.0140615822};
  constexpr double printed = 0.5e-10 * 1.01;  // of the numbers with fewest digits behind the point
  for (Index p = 0; p < 4; ++p) {
    CHECK(std::abs(call.y(0, 0, 0, p) - first[static_cast<std::size_t>(p)]) < printed);
    CHECK(std::abs(call.y(0, 15, 1, p) - last[static_cast<std::size_t>(p)]) < printed);
  }
  double sum = 0;
  for_each_index(call.y, [&](auto... i) { sum += std::abs(call.y(i...)); });
  CHECK(std::abs(sum - 19.7507196738) < printed);
  const std::array state{-0.420804281, 0.10514991, 0.537382155};
  for (Index n = 0; n < 3; ++n)
    CHECK(std::abs(call.final_state(0, 1, 0, n) - state[static_cast<std::size_t>(n)]) <
          0.5e-9 * 1.01);
}

TEST_CASE("the step is a softplus within its limits, and the number itself without either") {
  for (const bool softplus : {false, true})
    for (const double limit : {0.3, std::numeric_limits<double>::infinity()}) {
      SsdCall<> call({.batch = 1, .length = 1});
      call.dt_softplus = softplus;
      call.dt_min = -limit;
      call.dt_max = limit;
      call.run();
      for (Index h = 0; h < 4; ++h) {
        const double raw = call.dt(0, 0, h) + call.dt_bias(h);
        const double free = softplus ? std::log(1 + std::exp(raw)) : raw;
        const double step = std::min(std::max(free, -limit), limit);
        const double expected = std::exp(step * call.A(h)) * call.initial_state(0, h, 2, 1) +
                                step * call.x(0, 0, h, 2) * call.B(0, 0, h / 2, 1);
        CHECK(call.final_state(0, h, 2, 1) == doctest::Approx(expected).epsilon(1e-12));
      }
    }
}

TEST_CASE("a large step is finite and equals its argument") {
  SsdCall<> call({.batch = 1, .length = 1});
  for (Index h = 0; h < 4; ++h) call.dt(0, 0, h) = h % 2 == 0 ? 1000 : -1000;
  call.dt_bias = zero_tensor(4);
  call.run();
  CHECK(call.final_state(0, 0, 1, 2) == 1000 * call.x(0, 0, 0, 1) * call.B(0, 0, 0, 2));
  CHECK(call.final_state(0, 1, 1, 2) == call.initial_state(0, 1, 1, 2));
}

TEST_CASE("a sequence in two parts with the state between them equals the whole") {
  for (const Index length : {1, 2, 63, 64, 65})
    for (Index cut = 0; cut <= length; ++cut) {
      CAPTURE(length);
      CAPTURE(cut);
      SsdCall<> whole({.length = length});
      whole.run();
      SsdCall<> first({.length = cut});
      first.take_positions(whole, 0, cut);
      first.run();
      SsdCall<> second({.length = length - cut});
      second.take_positions(whole, cut, length);
      second.initial_state = first.final_state.clone();
      second.run();
      CHECK(difference(first.y, whole.y.slice(1, 0, cut)) < tolerance<double>.value);
      CHECK(difference(second.y, whole.y.slice(1, cut, length)) < tolerance<double>.value);
      CHECK(difference(second.final_state, whole.final_state) < tolerance<double>.value);
    }
}

TEST_CASE("packed segments equal separate sequences and an empty one keeps its state") {
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  SsdCall<> packed({.batch = 1, .length = 20, .segments = offsets});
  packed.run();
  for (Index i = 0; i + 1 < static_cast<Index>(offsets.size()); ++i) {
    CAPTURE(i);
    const Index begin = offsets[static_cast<std::size_t>(i)];
    const Index end = offsets[static_cast<std::size_t>(i) + 1];
    SsdCall<> alone({.batch = 1, .length = end - begin});
    alone.take_positions(packed, begin, end);
    alone.initial_state = clone(packed.initial_state.slice(0, i, i + 1));
    alone.run();
    CHECK(difference(alone.y, packed.y.slice(1, begin, end)) == 0);
    CHECK(difference(alone.final_state, packed.final_state.slice(0, i, i + 1)) == 0);
  }
  CHECK(difference(packed.final_state.slice(0, 1, 2), packed.initial_state.slice(0, 1, 2)) == 0);
}

TEST_CASE("the final state may overwrite the initial state") {
  SsdCall<> apart({});
  apart.run();
  SsdCall<> together({});
  auto operands = together.operands();
  operands.final_state = together.initial_state;
  ssd_scan(together.ctx, operands);
  CHECK(difference(together.initial_state, apart.final_state) == 0);
  CHECK(difference(together.y, apart.y) == 0);
}

TEST_CASE("single precision agrees with double precision") {
  SsdCall<double> exact({.length = 64});
  SsdCall<float> rounded({.length = 64});
  exact.run();
  rounded.run();
  CHECK(difference(rounded.y, exact.y) < tolerance<float>.value);
  CHECK(difference(rounded.final_state, exact.final_state) < tolerance<float>.value);
}

void check_gradients(SsdCall<>& call) {
  call.run_backward();
  const auto loss = [&] {
    call.run();
    return inner_product(call.dy, call.y) + inner_product(call.dfinal, call.final_state);
  };
  const double bound = tolerance<double>.gradient;
  CHECK(gradient_error(loss, call.x, call.dx) < bound);
  CHECK(gradient_error(loss, call.dt, call.ddt) < bound);
  CHECK(gradient_error(loss, call.A, call.dA) < bound);
  CHECK(gradient_error(loss, call.B, call.dB) < bound);
  CHECK(gradient_error(loss, call.C, call.dC) < bound);
  CHECK(gradient_error(loss, call.skip, call.dskip) < bound);
  CHECK(gradient_error(loss, call.dt_bias, call.ddt_bias) < bound);
  CHECK(gradient_error(loss, call.initial_state, call.dinitial) < bound);
}

TEST_CASE("gradients equal central differences") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index groups : {1, 2, 4})
      for (const bool softplus : {false, true}) {
        CAPTURE(length);
        CAPTURE(groups);
        CAPTURE(softplus);
        SsdCall<> call({.length = length, .groups = groups});
        call.dt_softplus = softplus;
        call.dt_min = -10;
        check_gradients(call);
      }
}

TEST_CASE("gradients of packed segments equal central differences") {
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  SsdCall<> call({.batch = 1, .length = 10, .segments = offsets});
  check_gradients(call);
}

TEST_CASE("a step that was clamped has no gradient, one between the limits has its own") {
  SsdCall<> call({});
  call.dt_bias = zero_tensor(4);
  call.dt_min = 0.5;
  call.dt_max = 0.9;
  constexpr double clear_of_limits[] = {-3, 0, 2};  // softplus: 0.05, 0.69, 2.13
  for_each_index(call.dt, [&](Index b, Index t, Index h) {
    call.dt(b, t, h) = clear_of_limits[(b + t + h) % 3];
  });
  check_gradients(call);
  for_each_index(call.ddt, [&](Index b, Index t, Index h) {
    CHECK((call.ddt(b, t, h) == 0) == ((b + t + h) % 3 != 1));
  });
}

TEST_CASE("parameter gradients are added to and input gradients overwritten") {
  SsdCall<> once({});
  once.run_backward();
  SsdCall<> twice({});
  twice.run_backward();
  twice.run_backward();
  for (Index h = 0; h < 4; ++h) {
    CHECK(twice.dA(h) == 2 * once.dA(h));
    CHECK(twice.dskip(h) == 2 * once.dskip(h));
    CHECK(twice.ddt_bias(h) == 2 * once.ddt_bias(h));
  }
  CHECK(difference(twice.dx, once.dx) == 0);
  CHECK(difference(twice.ddt, once.ddt) == 0);
  CHECK(difference(twice.dB, once.dB) == 0);
  CHECK(difference(twice.dC, once.dC) == 0);
  CHECK(difference(twice.dinitial, once.dinitial) == 0);
}

TEST_CASE("every optional operand may be left out") {
  SsdCall<> call({});
  const ssm::SsdScan<double, HostSpace> forward{
      .x = call.x, .dt = call.dt, .A = call.A, .B = call.B, .C = call.C, .y = call.y};
  CHECK_NOTHROW(ssd_scan(call.ctx, forward));
  CHECK_NOTHROW(ssd_scan_backward(
      call.ctx, SsdScanBackward<double, HostSpace>{.forward = forward, .dy = call.dy}));
}

TEST_CASE("operands that do not fit are named") {
  SsdCall<> call({});
  const auto refuses = [&](auto change, const char* words) {
    auto operands = call.operands();
    change(operands);
    CHECK_THROWS_WITH_AS(ssd_scan(call.ctx, operands), words, ShapeError);
  };
  const auto wide = zero_tensor(2, 7, 2, 6);
  const auto three = zero_tensor(2, 7, 3, 5);
  const auto none = zero_tensor(2, 7, 0, 5);
  const auto turned = zero_tensor(2, 4, 5, 3);
  refuses([&](auto& a) { a.C = wide; }, "ssd_scan: C must be [2, 7, 2, 5], got [2, 7, 2, 6]");
  refuses([&](auto& a) { a.B = three; },
          "ssd_scan: B has 3 groups, which do not divide the 4 heads");
  refuses([&](auto& a) { a.B = none; },
          "ssd_scan: B has 0 groups, which do not divide the 4 heads");
  refuses([&](auto& a) { a.initial_state = turned; },
          "ssd_scan: initial_state must be [2, 4, 3, 5], got [2, 4, 5, 3]");
  refuses([&](auto& a) { a.y = {}; }, "ssd_scan: y is missing");
  auto limits = call.operands();
  limits.dt_min = 2;
  limits.dt_max = 1;
  CHECK_THROWS_WITH_AS(ssd_scan(call.ctx, limits), "ssd_scan: dt_min is greater than dt_max",
                       ArgumentError);
  const auto longer = zero_tensor(2, 8, 4, 3);
  auto gradients = call.gradients();
  gradients.dy = longer;
  CHECK_THROWS_WITH_AS(ssd_scan_backward(call.ctx, gradients),
                       "ssd_scan_backward: dy must be [2, 7, 4, 3], got [2, 8, 4, 3]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
