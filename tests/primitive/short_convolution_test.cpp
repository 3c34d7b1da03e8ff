// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/short_convolution.hpp"

#include <vector>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index batch = 1, length = 65, channels = 20, taps = 4;
  ActivationKind activation = ActivationKind::silu;
  bool bias = true, initial = false, dfinal = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<ShortConvolution<T, HostSpace>, ShortConvolutionBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'D', test.channels}, {'W', test.taps}}, layout,
            test.segments,
            left_out({{"bias", test.bias},
                      {"initial_state", test.initial},
                      {"dfinal_state", test.dfinal}})) {
    this->forward.activation = test.activation;
  }
  void evaluate(auto& ctx) { short_convolution(ctx, this->forward); }
  void differentiate(auto& ctx) { short_convolution_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasShortConvolution<B, T>;
};

/// With everything that a call may have, and few channels.
constexpr Case full(Case test) {
  test.channels = 2;
  test.initial = test.dfinal = true;
  return test;
}

TEST_CASE("three taps give the hand-worked numbers") {
  Run<double> call(
      {.length = 2, .channels = 1, .taps = 3, .activation = ActivationKind::none, .initial = true},
      Layout::rows);
  auto& a = call.forward;
  call.set(a.weight, {1, 2, 3});
  call.set(a.initial_state, {10, 20, 30});
  call.set(a.bias, {0.5});
  call.set(a.x, {5, 7});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(a.y(0, 0, 0) == 1 * 20 + 2 * 30 + 3 * 5 + 0.5);
    CHECK(a.y(0, 1, 0) == 1 * 30 + 2 * 5 + 3 * 7 + 0.5);
    CHECK(difference(a.final_state, tensor_of({30, 5, 7}).reshape(1, 1, 3)) == 0);
  });
}

TEST_CASE("without activation it is the convolution with the taps in reverse") {
  for (const Index length : {1, 2, 63, 64, 65, 1000})
    for (const Index taps : {1, 2, 4}) {
      CAPTURE(length);
      CAPTURE(taps);
      NanContext<Reference> ctx;
      Run<double> call({.batch = 3,
                        .length = length,
                        .channels = 2,
                        .taps = taps,
                        .activation = ActivationKind::none,
                        .bias = false},
                       Layout::rows);
      const auto& a = call.forward;
      call.evaluate(ctx);
      auto kernel = zero_tensor(2, taps);
      for_each_index(kernel, [&](Index d, Index s) { kernel(d, s) = a.weight(d, taps - 1 - s); });
      auto expected = nan_tensor(3, length, 2);
      causal_convolution(
          ctx, CausalConvolution<double, HostSpace>{.kernel = kernel, .x = a.x, .y = expected});
      CHECK(difference(a.y, expected) < tolerance<double>.value);
    }
}

TEST_CASE("the activation applies to the filtered sum") {
  NanContext<Reference> ctx;
  Run<double> linear(full({.batch = 3, .activation = ActivationKind::none}), Layout::rows);
  Run<double> curved(full({.batch = 3}), Layout::rows);
  linear.evaluate(ctx);
  curved.evaluate(ctx);
  const auto& y = linear.forward.y;
  for_each_index(y, [&](auto... i) { y(i...) = y(i...) / (1 + std::exp(-y(i...))); });
  CHECK(difference(curved.forward.y, y) < tolerance<double>.value);
}

TEST_CASE("states are carried, kept apart, and updated in place") {
  carries_its_state<Run<double>>(full({.batch = 3}), {0, 1, 3, 40, 65});
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  packs_sequences<Run<double>>(full({.length = 20, .segments = offsets}));
  for (const Index length : {0, 1, 2, 3, 5, 9}) {
    updates_its_state_in_place<Run<double>>(full({.batch = 3, .length = length}));
    updates_its_state_in_place<Run<float>>({.length = length, .initial = true});
  }
}

TEST_CASE("single precision agrees with double precision") {
  rounds_to_single_precision<Run>(full({.batch = 3, .length = 64}));
}

TEST_CASE("gradients equal central differences, with more taps than positions and fewer") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index taps : {1, 4, 9})
      for (const ActivationKind activation : {ActivationKind::none, ActivationKind::silu})
        has_its_gradients<Run<double>>(
            full({.batch = 3, .length = length, .taps = taps, .activation = activation}));
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  has_its_gradients<Run<double>>(full({.length = 10, .taps = 3, .segments = offsets}));
}

TEST_CASE("everything optional may be left out") {
  does_without_optional_operands<Run<double>>(full({.length = 5}));
}

TEST_CASE("operands that do not fit are named") {
  Context<Reference> ctx;
  const Run<double> call(full({.batch = 3, .length = 5}), Layout::rows);
  auto operands = call.forward;
  const auto wide = zero_tensor(3);
  operands.bias = wide;
  CHECK_THROWS_WITH_AS(short_convolution(ctx, operands),
                       "short_convolution: bias must be [2], got [3]", ShapeError);
  operands = call.forward;
  operands.y = {};
  CHECK_THROWS_WITH_AS(short_convolution(ctx, operands), "short_convolution: y is missing",
                       ShapeError);
  operands = call.forward;
  operands.activation = ActivationKind::relu;
  CHECK_THROWS_AS(short_convolution(ctx, operands), ArgumentError);
  const std::vector<Index> offsets{0, 5};
  operands = call.forward;
  operands.segments = offsets;
  CHECK_THROWS_AS(short_convolution(ctx, operands), ShapeError);
}

TEST_CASE_TEMPLATE(
    "the filter and its gradient equal the reference at every length, with and without states", T,
    float, double) {
  for (const Index length : {1, 2, 7, 10, 11, 12, 63, 64, 65, 1000})
    for (const Index batch : {1, 3})
      for (const bool initial : {false, true})
        for (const bool dfinal : {false, true})
          equals_reference<Run<T>>(
              {.batch = batch, .length = length, .initial = initial, .dfinal = dfinal});
}

TEST_CASE_TEMPLATE("any number of channels and taps, more than positions among them", T, float,
                   double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index taps : {1, 2, 3, 4, 5, 9})
      for (const Index length : {1, 3, 40})
        for (const bool states : {false, true})
          equals_reference<Run<T>>({.batch = 2,
                                    .length = length,
                                    .channels = channels,
                                    .taps = taps,
                                    .bias = states,
                                    .initial = states,
                                    .dfinal = states});
}

TEST_CASE_TEMPLATE("without a nonlinearity", T, float, double) {
  for (const Index length : {1, 40})
    equals_reference<Run<T>>({.length = length, .activation = ActivationKind::none});
}

TEST_CASE_TEMPLATE("more blocks of channels than take turns, and more sequences than slots", T,
                   float, double) {
  equals_reference<Run<T>>({.batch = 19, .length = 12, .channels = 1100, .initial = true});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70})
      equals_reference<Run<T>>({.batch = 2, .length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  for (const bool states : {false, true})
    equals_reference<Run<T>>(
        {.length = 110, .initial = states, .dfinal = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  equals_reference<Run<T>>({.batch = 2, .length = 0, .initial = true, .dfinal = true});
  equals_reference<Run<T>>({.batch = 0, .length = 5, .initial = true, .dfinal = true});
}

TEST_CASE_TEMPLATE("any number of neighboring channels and of taps, chunk after chunk", T, float,
                   BFloat16, Float16) {
  for (const Index channels : {1, 2, 4, 6, 40})
    for (const Index taps : {1, 2, 3, 4, 5, 8, 9})
      for (const Index length : {1, 2, 16, 33, 100})
        equals_reference<Run<T>>({.batch = 2,
                                  .length = length,
                                  .channels = channels,
                                  .taps = taps,
                                  .initial = true,
                                  .dfinal = true},
                                 only<Device>);
}

TEST_CASE_TEMPLATE("half types of any layout, and packed", T, BFloat16, Float16) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  for (const Layout layout : all_layouts)
    for (const ActivationKind activation : {ActivationKind::none, ActivationKind::silu})
      equals_reference<Run<T>>(
          {.batch = 2, .length = 70, .activation = activation, .layout = layout}, only<Device>);
  for (const bool states : {false, true})
    equals_reference<Run<T>>(
        {.length = 110, .bias = states, .initial = states, .dfinal = states, .segments = offsets},
        only<Device>);
}

TEST_CASE("the same thread count gives the same gradient bits") {
  repeats_its_bits<Run<float>>({.batch = 5, .length = 300, .channels = 96});
}

}  // namespace
}  // namespace ssm::test
