// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/shift_convolution.hpp"

#include <array>
#include <vector>

#include "cuda/tensor_cores_on_host.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index batch = 1, length = 65, channels = 20, taps = 6;
  bool skip = true, initial = false, dfinal = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<ShiftConvolution<T, HostSpace>, ShiftConvolutionBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'D', test.channels}, {'N', test.taps}}, layout,
            test.segments,
            left_out({{"skip", test.skip},
                      {"initial_state", test.initial},
                      {"dfinal_state", test.dfinal}})) {}
  void evaluate(auto& ctx) { shift_convolution(ctx, this->forward); }
  void differentiate(auto& ctx) { shift_convolution_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasShiftConvolution<B, T>;
};

/// With everything that a call may have.
constexpr Case full(Case test) {
  test.channels = 2;
  test.initial = test.dfinal = true;
  return test;
}

TEST_CASE("two taps give the hand-worked numbers") {
  Run<double> call({.length = 3, .channels = 1, .taps = 2, .initial = true}, Layout::rows);
  auto& a = call.forward;
  call.set(a.B, {2, 3});
  call.set(a.C, {5, 7});
  call.set(a.skip, {0.5});
  call.set(a.x, {1, -1, 2});
  call.set(a.initial_state, {10, 20});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);  // state: (2, 10+3), (−2, 2−3), (4, −2+6)
    CHECK(a.y(0, 0, 0) == 2 * 5 + 13 * 7 + 0.5);
    CHECK(a.y(0, 1, 0) == -2 * 5 - 1 * 7 - 0.5);
    CHECK(a.y(0, 2, 0) == 4 * 5 + 4 * 7 + 1);
    CHECK(difference(a.final_state, tensor_of({4, 4}).reshape(1, 1, 2)) == 0);
  });
}

TEST_CASE("the impulse response is the published kernel of H3's shift") {
  constexpr Index channels = 4, length = 6;
  auto B = wave_tensor(0.05, 0.7, channels, 8);
  auto x = zero_tensor(1, length, channels);
  const auto C = wave_tensor(0.3, 0.8, channels, 8);
  for (Index d = 0; d < channels; ++d) B(d, 0) += x(0, 0, d) = 1;
  constexpr double half_of_last_digit = 0.5e-7 * 1.01;
  const std::array first{0.2822062, 0.3471854, 0.2558099, 0.0537620, -0.1657582, -0.3050079};
  const std::array last{-0.2298546, -0.1277437, 0.0413790, 0.2006796, 0.2734101, 0.2198636};
  on_each_backend<Run<double>>([&](auto& ctx) {
    auto y = nan_tensor(1, length, channels);
    shift_convolution(ctx, ShiftConvolution<double, HostSpace>{.B = B, .C = C, .x = x, .y = y});
    for (Index t = 0; t < length; ++t) {
      CHECK(std::abs(y(0, t, 0) - first[static_cast<std::size_t>(t)]) < half_of_last_digit);
      CHECK(std::abs(y(0, t, 3) - last[static_cast<std::size_t>(t)]) < half_of_last_digit);
    }
  });
}

TEST_CASE("the recurrence equals convolution with the correlation of C with B") {
  for (const Index length : {1, 2, 63, 64, 65, 1000})
    for (const Index taps : {1, 2, 64}) {
      CAPTURE(length);
      CAPTURE(taps);
      NanContext<Reference> ctx;
      Run<double> call({.batch = 3, .length = length, .channels = 2, .taps = taps}, Layout::rows);
      const auto& a = call.forward;
      call.evaluate(ctx);
      auto kernel = zero_tensor(2, taps);
      for_each_index(kernel, [&](Index d, Index s) {
        for (Index j = 0; j + s < taps; ++j) kernel(d, s) += a.B(d, j) * a.C(d, j + s);
      });
      auto expected = nan_tensor(3, length, 2);
      causal_convolution(ctx, CausalConvolution<double, HostSpace>{
                                  .kernel = kernel, .skip = a.skip, .x = a.x, .y = expected});
      CHECK(difference(a.y, expected) < tolerance<double>.value);
    }
}

TEST_CASE("states are carried, kept apart, and updated in place") {
  carries_its_state<Run<double>>(full({.batch = 3, .taps = 8}), {0, 1, 3, 40, 65});
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  packs_sequences<Run<double>>(full({.length = 20, .taps = 8, .segments = offsets}));
  for (const Index length : {1, 3, 5, 9, 70})
    for (const Index taps : {6, 40})
      updates_its_state_in_place<Run<double>>(full({.batch = 3, .length = length, .taps = taps}));
  updates_its_state_in_place<Run<float>>({.length = 9, .initial = true});
}

TEST_CASE("single precision agrees with double precision") {
  rounds_to_single_precision<Run>(full({.batch = 3, .length = 64, .taps = 64}));
}

TEST_CASE("gradients equal central differences, with more taps than positions and fewer") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index taps : {1, 4, 9})
      has_its_gradients<Run<double>>(full({.batch = 3, .length = length, .taps = taps}));
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  has_its_gradients<Run<double>>(full({.length = 10, .taps = 3, .segments = offsets}));
}

TEST_CASE("everything optional may be left out") {
  does_without_optional_operands<Run<double>>(full({.length = 5}));
}

TEST_CASE("operands whose extents disagree are named") {
  Context<Reference> ctx;
  const Run<double> call(full({.batch = 3, .length = 5, .taps = 4}), Layout::rows);
  auto operands = call.forward;
  const auto wide = zero_tensor(3, 4);
  operands.C = wide;
  CHECK_THROWS_WITH_AS(shift_convolution(ctx, operands),
                       "shift_convolution: C must be [2, 4], got [3, 4]", ShapeError);
  operands = call.forward;
  operands.y = {};
  CHECK_THROWS_WITH_AS(shift_convolution(ctx, operands), "shift_convolution: y is missing",
                       ShapeError);
  const std::vector<Index> offsets{0, 5};
  operands = call.forward;
  operands.segments = offsets;
  CHECK_THROWS_AS(shift_convolution(ctx, operands), ShapeError);
}

TEST_CASE_TEMPLATE(
    "the filter and its gradient equal the reference at every length, with and without states", T,
    float, double) {
  for (const Index length : {1, 2, 7, 63, 64, 65, 127, 128, 129, 1000})
    for (const Index batch : {1, 3})
      for (const bool initial : {false, true})
        for (const bool dfinal : {false, true})
          equals_reference<Run<T>>(
              Case{.batch = batch, .length = length, .initial = initial, .dfinal = dfinal});
}

TEST_CASE_TEMPLATE("any number of channels and taps, more than positions among them", T, float,
                   double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index taps : {1, 2, 3, 4, 8, 9, 31, 32, 33, 70})
      for (const Index length : {1, 3, 40})
        for (const bool states : {false, true})
          equals_reference<Run<T>>({.batch = 2,
                                    .length = length,
                                    .channels = channels,
                                    .taps = taps,
                                    .skip = states,
                                    .initial = states,
                                    .dfinal = states});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70})
      equals_reference<Run<T>>({.batch = 2, .length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110, 110};
  for (const bool states : {false, true})
    equals_reference<Run<T>>(
        Case{.length = 110, .initial = states, .dfinal = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  equals_reference<Run<T>>({.batch = 2, .length = 0, .initial = true, .dfinal = true});
  equals_reference<Run<T>>({.batch = 0, .length = 5, .initial = true, .dfinal = true});
}

TEST_CASE("the same thread count gives the same gradient bits") {
  repeats_its_bits<Run<float>>({.batch = 5, .length = 300, .channels = 96});
}

#ifdef SSM_TEST_ON_CUDA
using TensorCores = BasicCuda<HostSpace, cuda::TensorCoreKernels>;

TEST_CASE_TEMPLATE("whichever kernels are chosen update the state in place", T, float, double) {
  for (const Index length : {1, 3, 9, 70})
    updates_its_state_in_place<Run<T>>({.length = length, .taps = 40, .initial = true},
                                       only<BasicCuda<HostSpace>>);
}

TEST_CASE_TEMPLATE("half types are filtered as floats where general kernels are", T, BFloat16,
                   Float16) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110, 110};
  for (const Index length : {0, 1, 70})
    for (const Layout layout : all_layouts)
      equals_reference<Run<T>>({.batch = 2, .length = length, .layout = layout}, only<Device>);
  equals_reference<Run<T>>({.length = 110, .segments = offsets}, only<Device>);
}

TEST_CASE_TEMPLATE("the tensor cores are given their layout, and what they give back arrives", T,
                   float, BFloat16, Float16) {
  cuda::pretend_tensor_core_kernels(true);
  for (const Layout layout : all_layouts)
    for (const bool skip : {false, true})
      for (const bool initial : {false, true})
        equals_reference<Run<T>>({.batch = 2,
                                  .length = 70,
                                  .taps = 33,
                                  .skip = skip,
                                  .initial = initial,
                                  .layout = layout},
                                 only<TensorCores>);
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE("gradients that nobody wants are not written") {
  for (const bool tensor_cores : {false, true}) {
    cuda::pretend_tensor_core_kernels(tensor_cores);
    const Case test{.length = 70, .taps = 20};
    Context<Reference> reference;
    Run<float> expected(test, Layout::rows);
    compute(reference, expected);
    Context<TensorCores> ctx;
    Run<float> run(test, Layout::rows);
    shift_convolution_backward(ctx, ShiftConvolutionBackward<float, HostSpace>{
                                        .forward = run.forward, .dy = run.gradient.dy});
    shift_convolution_backward(
        ctx, ShiftConvolutionBackward<float, HostSpace>{
                 .forward = run.forward, .dy = run.gradient.dy, .dC = run.gradient.dC});
    CHECK(difference(run.gradient.dC, expected.gradient.dC) < tolerance<float>.gradient);
  }
  cuda::pretend_tensor_core_kernels(false);
}
#endif

}  // namespace
}  // namespace ssm::test
