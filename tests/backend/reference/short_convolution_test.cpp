// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/short_convolution.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

/// One call with all its memory. `rows` of state: the batch, or the segments.
template <class T = double>
struct ShortCall {
  ShortCall(Index batch, Index length, Index channels, Index taps, Segments offsets = {})
      : segments(offsets),
        rows(sequence_count(batch, offsets)),
        weight(random_tensor<T>("weight", channels, taps)),
        bias(random_tensor<T>("bias", channels)),
        x(random_tensor<T>("x", batch, length, channels)),
        initial_state(random_tensor<T>("initial", rows, channels, taps)),
        y(nan_tensor<T>(batch, length, channels)),
        final_state(nan_tensor<T>(rows, channels, taps)) {
    ctx.workspace().fill_with_nan(true);
  }

  ssm::ShortConvolution<T, HostSpace> operands() {
    return {.weight = weight,
            .bias = bias,
            .activation = activation,
            .x = x,
            .segments = segments,
            .initial_state = initial_state,
            .final_state = final_state,
            .y = y};
  }
  void run() { short_convolution(ctx, operands()); }

  Context<Reference> ctx;
  Segments segments;
  Index rows;
  ActivationKind activation = ActivationKind::silu;
  DynamicTensor<T, 2> weight;
  DynamicTensor<T, 1> bias;
  DynamicTensor<T, 3> x, initial_state, y, final_state;
};

TEST_CASE("three taps give the hand-worked numbers") {
  ShortCall<> call(1, 2, 1, 3);
  call.activation = ActivationKind::none;
  for (Index w = 0; w < 3; ++w) {
    call.weight(0, w) = static_cast<double>(w + 1);
    call.initial_state(0, 0, w) = static_cast<double>(10 * (w + 1));
  }
  call.bias(0) = 0.5;
  call.x(0, 0, 0) = 5;
  call.x(0, 1, 0) = 7;
  call.run();
  CHECK(call.y(0, 0, 0) == 1 * 20 + 2 * 30 + 3 * 5 + 0.5);
  CHECK(call.y(0, 1, 0) == 1 * 30 + 2 * 5 + 3 * 7 + 0.5);
  CHECK(call.final_state(0, 0, 0) == 30);
  CHECK(call.final_state(0, 0, 1) == 5);
  CHECK(call.final_state(0, 0, 2) == 7);
}

TEST_CASE("without activation it is the convolution with the taps in reverse") {
  for (const Index length : {1, 2, 63, 64, 65, 1000})
    for (const Index taps : {1, 2, 4}) {
      CAPTURE(length);
      CAPTURE(taps);
      const Index batch = 3;
      const Index channels = 2;
      ShortCall<> call(batch, length, channels, taps);
      call.activation = ActivationKind::none;
      auto operands = call.operands();
      operands.bias = {};
      operands.initial_state = {};
      short_convolution(call.ctx, operands);
      auto kernel = zero_tensor(channels, taps);
      for_each_index(kernel,
                     [&](Index d, Index s) { kernel(d, s) = call.weight(d, taps - 1 - s); });
      auto expected = nan_tensor(batch, length, channels);
      causal_convolution(call.ctx, CausalConvolution<double, HostSpace>{
                                       .kernel = kernel, .x = call.x, .y = expected});
      CHECK(difference(call.y, expected) < tolerance<double>.value);
    }
}

TEST_CASE("the activation applies to the filtered sum") {
  ShortCall<> linear(3, 65, 2, 4);
  linear.activation = ActivationKind::none;
  linear.run();
  ShortCall<> curved(3, 65, 2, 4);
  curved.run();
  for_each_index(linear.y, [&](auto... i) {
    linear.y(i...) = linear.y(i...) / (1 + std::exp(-linear.y(i...)));
  });
  CHECK(difference(curved.y, linear.y) < tolerance<double>.value);
}

TEST_CASE("a sequence in two parts with the state between them equals the whole") {
  const Index length = 65;
  for (const Index cut : {0, 1, 3, 40, 65}) {
    CAPTURE(cut);
    ShortCall<> whole(3, length, 2, 4);
    whole.run();
    ShortCall<> first(3, cut, 2, 4);
    first.x = positions(whole.x, 0, cut);
    first.run();
    ShortCall<> second(3, length - cut, 2, 4);
    second.x = positions(whole.x, cut, length);
    second.initial_state = first.final_state.clone();
    second.run();
    CHECK(difference(first.y, positions(whole.y, 0, cut)) < tolerance<double>.value);
    CHECK(difference(second.y, positions(whole.y, cut, length)) < tolerance<double>.value);
    CHECK(difference(second.final_state, whole.final_state) == 0);
  }
}

TEST_CASE("packed segments equal separate sequences and an empty one keeps its state") {
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  ShortCall<> packed(1, 20, 2, 4, offsets);
  packed.run();
  for (Index i = 0; i + 1 < static_cast<Index>(offsets.size()); ++i) {
    CAPTURE(i);
    const Index begin = offsets[static_cast<std::size_t>(i)];
    const Index end = offsets[static_cast<std::size_t>(i) + 1];
    ShortCall<> alone(1, end - begin, 2, 4);
    alone.x = positions(packed.x, begin, end);
    for_each_index(alone.initial_state, [&](Index, Index d, Index w) {
      alone.initial_state(0, d, w) = packed.initial_state(i, d, w);
    });
    alone.run();
    CHECK(difference(alone.y, positions(packed.y, begin, end)) == 0);
    CHECK(difference(alone.final_state, packed.final_state.slice(0, i, i + 1)) == 0);
  }
  CHECK(difference(packed.final_state.slice(0, 1, 2), packed.initial_state.slice(0, 1, 2)) == 0);
}

TEST_CASE("the final state may overwrite the initial state") {
  for (const Index length : {0, 2, 5}) {
    ShortCall<> apart(3, length, 2, 4);
    apart.run();
    ShortCall<> together(3, length, 2, 4);
    auto operands = together.operands();
    operands.final_state = together.initial_state;
    short_convolution(together.ctx, operands);
    CHECK(difference(together.initial_state, apart.final_state) == 0);
    CHECK(difference(together.y, apart.y) == 0);
  }
}

TEST_CASE("single precision agrees with double precision") {
  ShortCall<double> exact(3, 64, 2, 4);
  ShortCall<float> rounded(3, 64, 2, 4);
  exact.run();
  rounded.run();
  CHECK(difference(rounded.y, exact.y) < tolerance<float>.value);
  CHECK(difference(rounded.final_state, exact.final_state) < tolerance<float>.value);
}

/// All gradients of one call.
struct ShortGradients {
  explicit ShortGradients(const ShortCall<>& call)
      : dy(random_tensor("dy", call.x.extent(0), call.x.extent(1), call.x.extent(2))),
        dfinal(random_tensor("dfinal", call.rows, call.weight.extent(0), call.weight.extent(1))),
        dx(nan_tensor(call.x.extent(0), call.x.extent(1), call.x.extent(2))),
        dinitial(nan_tensor(call.rows, call.weight.extent(0), call.weight.extent(1))),
        dweight(zero_tensor(call.weight.extent(0), call.weight.extent(1))),
        dbias(zero_tensor(call.weight.extent(0))) {}

  void run(ShortCall<>& call) {
    short_convolution_backward(
        call.ctx, ShortConvolutionBackward<double, HostSpace>{.forward = call.operands(),
                                                              .dy = dy,
                                                              .dfinal_state = dfinal,
                                                              .dx = dx,
                                                              .dinitial_state = dinitial,
                                                              .dweight = dweight,
                                                              .dbias = dbias});
  }

  DynamicTensor<double, 3> dy, dfinal, dx, dinitial;
  DynamicTensor<double, 2> dweight;
  DynamicTensor<double, 1> dbias;
};

void check_gradients(ShortCall<>& call) {
  ShortGradients g(call);
  g.run(call);
  const auto loss = [&] {
    call.run();
    return inner_product(g.dy, call.y) + inner_product(g.dfinal, call.final_state);
  };
  CHECK(gradient_error(loss, call.x, g.dx) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.initial_state, g.dinitial) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.weight, g.dweight) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.bias, g.dbias) < tolerance<double>.gradient);
}

TEST_CASE("gradients equal central differences, with more taps than positions and fewer") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index taps : {1, 4, 9})
      for (const ActivationKind activation : {ActivationKind::none, ActivationKind::silu}) {
        CAPTURE(length);
        CAPTURE(taps);
        ShortCall<> call(3, length, 2, taps);
        call.activation = activation;
        check_gradients(call);
      }
}

TEST_CASE("gradients of packed segments equal central differences") {
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  ShortCall<> call(1, 10, 2, 3, offsets);
  check_gradients(call);
}

TEST_CASE("parameter gradients are added to and input gradients overwritten") {
  ShortCall<> call(3, 5, 2, 4);
  ShortGradients once(call);
  once.run(call);
  ShortGradients twice(call);
  twice.run(call);
  twice.run(call);
  for (Index d = 0; d < 2; ++d) {
    CHECK(twice.dbias(d) == 2 * once.dbias(d));
    CHECK(twice.dweight(d, 1) == 2 * once.dweight(d, 1));
  }
  CHECK(difference(twice.dx, once.dx) == 0);
}

TEST_CASE("every optional operand may be left out") {
  ShortCall<> call(1, 5, 2, 4);
  const ShortGradients g(call);
  auto forward = call.operands();
  forward.bias = {};
  forward.initial_state = {};
  forward.final_state = {};
  CHECK_NOTHROW(short_convolution(call.ctx, forward));
  CHECK_NOTHROW(short_convolution_backward(
      call.ctx, ShortConvolutionBackward<double, HostSpace>{.forward = forward, .dy = g.dy}));
}

TEST_CASE("operands that do not fit are named") {
  ShortCall<> call(3, 5, 2, 4);
  auto operands = call.operands();
  const auto wide = zero_tensor(3);
  operands.bias = wide;
  CHECK_THROWS_WITH_AS(short_convolution(call.ctx, operands),
                       "short_convolution: bias must be [2], got [3]", ShapeError);
  operands = call.operands();
  operands.y = {};
  CHECK_THROWS_WITH_AS(short_convolution(call.ctx, operands), "short_convolution: y is missing",
                       ShapeError);
  operands = call.operands();
  operands.activation = ActivationKind::relu;
  CHECK_THROWS_AS(short_convolution(call.ctx, operands), ArgumentError);
  const std::vector<Index> offsets{0, 5};
  operands = call.operands();
  operands.segments = offsets;
  CHECK_THROWS_AS(short_convolution(call.ctx, operands), ShapeError);
}

}  // namespace
}  // namespace ssm::test
