// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/shift_convolution.hpp"

#include <doctest/doctest.h>

#include <array>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

/// One call with all its memory. `rows` of state: the batch, or the segments.
template <class T = double>
struct ShiftCall {
  ShiftCall(Index batch, Index length, Index channels, Index taps, Segments offsets = {})
      : segments(offsets),
        rows(sequence_count(batch, offsets)),
        B(random_tensor<T>("B", channels, taps)),
        C(random_tensor<T>("C", channels, taps)),
        skip(random_tensor<T>("skip", channels)),
        x(random_tensor<T>("x", batch, length, channels)),
        initial_state(random_tensor<T>("initial", rows, channels, taps)),
        y(nan_tensor<T>(batch, length, channels)),
        final_state(nan_tensor<T>(rows, channels, taps)) {
    ctx.workspace().fill_with_nan(true);
  }

  ssm::ShiftConvolution<T, HostSpace> operands() {
    return {.B = B,
            .C = C,
            .skip = skip,
            .x = x,
            .segments = segments,
            .initial_state = initial_state,
            .final_state = final_state,
            .y = y};
  }
  void run() { shift_convolution(ctx, operands()); }

  Context<Reference> ctx;
  Segments segments;
  Index rows;
  DynamicTensor<T, 2> B, C;
  DynamicTensor<T, 1> skip;
  DynamicTensor<T, 3> x, initial_state, y, final_state;
};

TEST_CASE("two taps give the hand-worked numbers") {
  ShiftCall<> call(1, 3, 1, 2);
  call.B(0, 0) = 2;
  call.B(0, 1) = 3;
  call.C(0, 0) = 5;
  call.C(0, 1) = 7;
  call.skip(0) = 0.5;
  call.x(0, 0, 0) = 1;
  call.x(0, 1, 0) = -1;
  call.x(0, 2, 0) = 2;
  call.initial_state(0, 0, 0) = 10;
  call.initial_state(0, 0, 1) = 20;
  call.run();
  // state: (2, 10+3), (−2, 2−3), (4, −2+6)
  CHECK(call.y(0, 0, 0) == 2 * 5 + 13 * 7 + 0.5);
  CHECK(call.y(0, 1, 0) == -2 * 5 - 1 * 7 - 0.5);
  CHECK(call.y(0, 2, 0) == 4 * 5 + 4 * 7 + 1);
  CHECK(call.final_state(0, 0, 0) == 4);
  CHECK(call.final_state(0, 0, 1) == 4);
}

TEST_CASE("the impulse response is the published kernel of H3's shift") {
  const Index channels = 4;
  const Index length = 6;
  ShiftCall<> call(1, length, channels, 8);
  call.B = wave_tensor(0.05, 0.7, channels, 8);
  for (Index d = 0; d < channels; ++d) call.B(d, 0) += 1;
  call.C = wave_tensor(0.3, 0.8, channels, 8);
  call.x = zero_tensor(1, length, channels);
  for (Index d = 0; d < channels; ++d) call.x(0, 0, d) = 1;
  auto operands = call.operands();
  operands.skip = {};
  operands.initial_state = {};
  shift_convolution(call.ctx, operands);
  constexpr double half_of_last_digit = 0.5e-7 * 1.01;
  const std::array first{0.2822062, 0.3471854, 0.2558099, 0.0537620, -0.1657582, -0.3050079};
  const std::array last{-0.2298546, -0.1277437, 0.0413790, 0.2006796, 0.2734101, 0.2198636};
  for (Index t = 0; t < length; ++t) {
    CHECK(std::abs(call.y(0, t, 0) - first[static_cast<std::size_t>(t)]) < half_of_last_digit);
    CHECK(std::abs(call.y(0, t, 3) - last[static_cast<std::size_t>(t)]) < half_of_last_digit);
  }
}

TEST_CASE("the recurrence equals convolution with the correlation of C with B") {
  for (const Index length : {1, 2, 63, 64, 65, 1000})
    for (const Index taps : {1, 2, 64}) {
      CAPTURE(length);
      CAPTURE(taps);
      const Index batch = 3;
      const Index channels = 2;
      ShiftCall<> call(batch, length, channels, taps);
      auto operands = call.operands();
      operands.initial_state = {};
      shift_convolution(call.ctx, operands);
      auto kernel = zero_tensor(channels, taps);
      for (Index d = 0; d < channels; ++d)
        for (Index s = 0; s < taps; ++s)
          for (Index j = 0; j + s < taps; ++j) kernel(d, s) += call.B(d, j) * call.C(d, j + s);
      auto expected = nan_tensor(batch, length, channels);
      causal_convolution(call.ctx,
                         CausalConvolution<double, HostSpace>{
                             .kernel = kernel, .skip = call.skip, .x = call.x, .y = expected});
      CHECK(difference(call.y, expected) < tolerance<double>.value);
    }
}

TEST_CASE("a sequence in two parts with the state between them equals the whole") {
  const Index length = 65;
  for (const Index cut : {0, 1, 3, 40, 65}) {
    CAPTURE(cut);
    ShiftCall<> whole(3, length, 2, 8);
    whole.run();
    ShiftCall<> first(3, cut, 2, 8);
    first.x = positions(whole.x, 0, cut);
    first.run();
    ShiftCall<> second(3, length - cut, 2, 8);
    second.x = positions(whole.x, cut, length);
    second.initial_state = first.final_state.clone();
    second.run();
    CHECK(difference(first.y, positions(whole.y, 0, cut)) < tolerance<double>.value);
    CHECK(difference(second.y, positions(whole.y, cut, length)) < tolerance<double>.value);
    CHECK(difference(second.final_state, whole.final_state) < tolerance<double>.value);
  }
}

TEST_CASE("packed segments equal separate sequences and an empty one keeps its state") {
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  ShiftCall<> packed(1, 20, 2, 8, offsets);
  packed.run();
  for (Index i = 0; i + 1 < static_cast<Index>(offsets.size()); ++i) {
    CAPTURE(i);
    const Index begin = offsets[static_cast<std::size_t>(i)];
    const Index end = offsets[static_cast<std::size_t>(i) + 1];
    ShiftCall<> alone(1, end - begin, 2, 8);
    alone.x = positions(packed.x, begin, end);
    for_each_index(alone.initial_state, [&](Index, Index d, Index n) {
      alone.initial_state(0, d, n) = packed.initial_state(i, d, n);
    });
    alone.run();
    CHECK(difference(alone.y, positions(packed.y, begin, end)) == 0);
    CHECK(difference(alone.final_state, packed.final_state.slice(0, i, i + 1)) == 0);
  }
  CHECK(difference(packed.final_state.slice(0, 1, 2), packed.initial_state.slice(0, 1, 2)) == 0);
}

TEST_CASE("the final state may overwrite the initial state") {
  ShiftCall<> apart(3, 5, 2, 8);
  apart.run();
  ShiftCall<> together(3, 5, 2, 8);
  auto operands = together.operands();
  operands.final_state = together.initial_state;
  shift_convolution(together.ctx, operands);
  CHECK(difference(together.initial_state, apart.final_state) == 0);
  CHECK(difference(together.y, apart.y) == 0);
}

TEST_CASE("single precision agrees with double precision") {
  ShiftCall<double> exact(3, 64, 2, 64);
  ShiftCall<float> rounded(3, 64, 2, 64);
  exact.run();
  rounded.run();
  CHECK(difference(rounded.y, exact.y) < tolerance<float>.value);
  CHECK(difference(rounded.final_state, exact.final_state) < tolerance<float>.value);
}

/// All gradients of one call.
struct ShiftGradients {
  explicit ShiftGradients(const ShiftCall<>& call)
      : dy(random_tensor("dy", call.x.extent(0), call.x.extent(1), call.x.extent(2))),
        dfinal(random_tensor("dfinal", call.rows, call.B.extent(0), call.B.extent(1))),
        dx(nan_tensor(call.x.extent(0), call.x.extent(1), call.x.extent(2))),
        dinitial(nan_tensor(call.rows, call.B.extent(0), call.B.extent(1))),
        dB(zero_tensor(call.B.extent(0), call.B.extent(1))),
        dC(zero_tensor(call.B.extent(0), call.B.extent(1))),
        dskip(zero_tensor(call.B.extent(0))) {}

  void run(ShiftCall<>& call) {
    shift_convolution_backward(
        call.ctx, ShiftConvolutionBackward<double, HostSpace>{.forward = call.operands(),
                                                              .dy = dy,
                                                              .dfinal_state = dfinal,
                                                              .dx = dx,
                                                              .dinitial_state = dinitial,
                                                              .dB = dB,
                                                              .dC = dC,
                                                              .dskip = dskip});
  }

  DynamicTensor<double, 3> dy, dfinal, dx, dinitial;
  DynamicTensor<double, 2> dB, dC;
  DynamicTensor<double, 1> dskip;
};

void check_gradients(ShiftCall<>& call) {
  ShiftGradients g(call);
  g.run(call);
  const auto loss = [&] {
    call.run();
    return inner_product(g.dy, call.y) + inner_product(g.dfinal, call.final_state);
  };
  CHECK(gradient_error(loss, call.x, g.dx) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.initial_state, g.dinitial) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.B, g.dB) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.C, g.dC) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.skip, g.dskip) < tolerance<double>.gradient);
}

TEST_CASE("gradients equal central differences, with more taps than positions and fewer") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index taps : {1, 4, 9}) {
      CAPTURE(length);
      CAPTURE(taps);
      ShiftCall<> call(3, length, 2, taps);
      check_gradients(call);
    }
}

TEST_CASE("gradients of packed segments equal central differences") {
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  ShiftCall<> call(1, 10, 2, 3, offsets);
  check_gradients(call);
}

TEST_CASE("parameter gradients are added to and input gradients overwritten") {
  ShiftCall<> call(3, 5, 2, 4);
  ShiftGradients once(call);
  once.run(call);
  ShiftGradients twice(call);
  twice.run(call);
  twice.run(call);
  for (Index d = 0; d < 2; ++d) {
    CHECK(twice.dskip(d) == 2 * once.dskip(d));
    CHECK(twice.dB(d, 1) == 2 * once.dB(d, 1));
    CHECK(twice.dC(d, 1) == 2 * once.dC(d, 1));
  }
  CHECK(difference(twice.dx, once.dx) == 0);
}

TEST_CASE("every gradient may be left out") {
  ShiftCall<> call(1, 5, 2, 4);
  ShiftGradients g(call);
  auto forward = call.operands();
  forward.skip = {};
  forward.initial_state = {};
  CHECK_NOTHROW(shift_convolution_backward(
      call.ctx, ShiftConvolutionBackward<double, HostSpace>{.forward = forward, .dy = g.dy}));
}

TEST_CASE("operands whose extents disagree are named") {
  ShiftCall<> call(3, 5, 2, 4);
  auto operands = call.operands();
  const auto wide = zero_tensor(3, 4);
  operands.C = wide;
  CHECK_THROWS_WITH_AS(shift_convolution(call.ctx, operands),
                       "shift_convolution: C must be [2, 4], got [3, 4]", ShapeError);
  operands = call.operands();
  operands.y = {};
  CHECK_THROWS_WITH_AS(shift_convolution(call.ctx, operands), "shift_convolution: y is missing",
                       ShapeError);
  const std::vector<Index> offsets{0, 5};
  operands = call.operands();
  operands.segments = offsets;
  CHECK_THROWS_AS(shift_convolution(call.ctx, operands), ShapeError);
}

}  // namespace
}  // namespace ssm::test
