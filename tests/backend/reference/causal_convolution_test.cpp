// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/causal_convolution.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

/// One call with all its memory, three channels.
template <class T = double>
struct ConvolutionCall {
  ConvolutionCall(Index batch, Index length, Index taps, Segments offsets = {})
      : segments(offsets),
        kernel(random_tensor<T>("kernel", 3, taps)),
        skip(random_tensor<T>("skip", 3)),
        x(random_tensor<T>("x", batch, length, 3)),
        gate_in(random_tensor<T>("gate_in", batch, length, 3)),
        gate_out(random_tensor<T>("gate_out", batch, length, 3)),
        y(nan_tensor<T>(batch, length, 3)) {}

  ssm::CausalConvolution<T, HostSpace> operands() {
    return {.kernel = kernel,
            .skip = skip,
            .x = x,
            .gate_in = gate_in,
            .gate_out = gate_out,
            .segments = segments,
            .y = y};
  }
  void run() { causal_convolution(ctx, operands()); }

  Context<Reference> ctx;
  Segments segments;
  DynamicTensor<T, 2> kernel;
  DynamicTensor<T, 1> skip;
  DynamicTensor<T, 3> x, gate_in, gate_out, y;
};

TEST_CASE("a kernel of three taps gives the hand-worked numbers") {
  Context<Reference> ctx;
  const auto kernel = tensor_of({1, 10, 100});
  const auto x = tensor_of({1, 2, 3, 4});
  const auto skip = tensor_of({1000});
  const auto gate = tensor_of({1, 1, 2, 1});
  auto y = nan_tensor(1, 4, 1);
  causal_convolution(ctx, CausalConvolution<double, HostSpace>{
                              .kernel = kernel.reshape(1, 3), .x = x.reshape(1, 4, 1), .y = y});
  CHECK(difference(y, tensor_of({1, 12, 123, 234}).reshape(1, 4, 1)) == 0);
  causal_convolution(ctx, CausalConvolution<double, HostSpace>{.kernel = kernel.reshape(1, 3),
                                                               .skip = skip,
                                                               .x = x.reshape(1, 4, 1),
                                                               .gate_in = gate.reshape(1, 4, 1),
                                                               .gate_out = gate.reshape(1, 4, 1),
                                                               .y = y});
  CHECK(difference(y, tensor_of({1001, 2012, 2 * 6126, 4264}).reshape(1, 4, 1)) == 0);
}

TEST_CASE("packed segments equal separate sequences") {
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  ConvolutionCall<> packed(1, 20, 8, offsets);
  packed.run();
  for (Index i = 0; i + 1 < static_cast<Index>(offsets.size()); ++i) {
    const Index begin = offsets[static_cast<std::size_t>(i)];
    const Index end = offsets[static_cast<std::size_t>(i) + 1];
    ConvolutionCall<> alone(1, end - begin, 8);
    alone.x = positions(packed.x, begin, end);
    alone.gate_in = positions(packed.gate_in, begin, end);
    alone.gate_out = positions(packed.gate_out, begin, end);
    alone.run();
    CHECK(difference(alone.y, positions(packed.y, begin, end)) == 0);
  }
}

TEST_CASE("later inputs do not change earlier outputs") {
  for (const Index length : {2, 63, 64, 65, 1000}) {
    ConvolutionCall<> call(3, length, length);
    call.run();
    const auto before = positions(call.y, 0, length - 1);
    for (Index d = 0; d < 3; ++d) call.x(0, length - 1, d) += 1;
    call.run();
    CHECK(difference(positions(call.y, 0, length - 1), before) == 0);
  }
}

TEST_CASE("single precision agrees with double precision") {
  for (const Index length : {1, 2, 63, 64, 65, 1000}) {
    ConvolutionCall<double> exact(3, length, length);
    ConvolutionCall<float> rounded(3, length, length);
    exact.run();
    rounded.run();
    CHECK(difference(rounded.y, exact.y) < tolerance<float>.value);
  }
}

void check_gradients(ConvolutionCall<>& call) {
  const Index batch = call.x.extent(0);
  const Index length = call.x.extent(1);
  const auto dy = random_tensor("dy", batch, length, 3);
  auto dx = nan_tensor(batch, length, 3);
  auto dgate_in = nan_tensor(batch, length, 3);
  auto dgate_out = nan_tensor(batch, length, 3);
  auto dkernel = zero_tensor(3, call.kernel.extent(1));
  auto dskip = zero_tensor(3);
  const CausalConvolutionBackward<double, HostSpace> backward{.forward = call.operands(),
                                                              .dy = dy,
                                                              .dx = dx,
                                                              .dgate_in = dgate_in,
                                                              .dgate_out = dgate_out,
                                                              .dkernel = dkernel,
                                                              .dskip = dskip};
  causal_convolution_backward(call.ctx, backward);
  const auto loss = [&] {
    call.run();
    return inner_product(dy, call.y);
  };
  const double bound = tolerance<double>.gradient;
  CHECK(gradient_error(loss, call.x, dx) < bound);
  CHECK(gradient_error(loss, call.gate_in, dgate_in) < bound);
  CHECK(gradient_error(loss, call.gate_out, dgate_out) < bound);
  CHECK(gradient_error(loss, call.kernel, dkernel) < bound);
  CHECK(gradient_error(loss, call.skip, dskip) < bound);
  const double once = dskip(1);
  causal_convolution_backward(call.ctx, backward);
  CHECK(dskip(1) == 2 * once);
}

TEST_CASE("gradients equal central differences, with more taps than positions and fewer") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index taps : {0, 1, 4, 9}) {
      CAPTURE(length);
      CAPTURE(taps);
      ConvolutionCall<> call(2, length, taps);
      check_gradients(call);
    }
}

TEST_CASE("gradients of packed segments equal central differences") {
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  ConvolutionCall<> call(1, 10, 6, offsets);
  check_gradients(call);
}

TEST_CASE("a kernel for other channels is named") {
  ConvolutionCall<> call(1, 5, 4);
  auto operands = call.operands();
  const auto kernel = zero_tensor(2, 4);
  operands.kernel = kernel;
  CHECK_THROWS_WITH_AS(causal_convolution(call.ctx, operands),
                       "causal_convolution: kernel must be [3, *], got [2, 4]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
