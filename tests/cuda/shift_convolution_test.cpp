// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/shift_convolution.hpp"

#include "primitives_on_device.hpp"
#include "ssm/backend/cuda/rearrange.hpp"
#include "support/shift_convolution_run.hpp"
#include "tensor_cores_on_host.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = ShiftConvolutionCase;
template <class T>
using Run = ShiftConvolutionRun<T>;

template <class Choice>
using Shifts = OnDevice<cuda::primitive::BasicShiftConvolution<Choice>, cuda::primitive::Rearrange>;

template <class T, class Choice = cuda::GeneralKernels>
void equals_reference(const Case& test) {
  expect_reference_on<Shifts<Choice>, Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE(
    "the filter and its gradient equal the reference at every length, with and without states", T,
    float, double) {
  for (const Index length : {1, 2, 7, 63, 64, 65, 300})
    for (const bool initial : {false, true})
      for (const bool dfinal : {false, true})
        equals_reference<T>(
            {.batch = 3, .length = length, .channels = 5, .initial = initial, .dfinal = dfinal});
}

TEST_CASE_TEMPLATE("any number of taps, more than positions among them", T, float, double) {
  for (const Index taps : {1, 2, 31, 32, 33, 70})
    for (const Index length : {1, 3, 40})
      for (const bool states : {false, true})
        equals_reference<T>({.batch = 2,
                             .length = length,
                             .channels = 3,
                             .taps = taps,
                             .skip = states,
                             .initial = states,
                             .dfinal = states});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70})
      equals_reference<T>({.batch = 2, .length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110, 110};
  for (const bool states : {false, true})
    equals_reference<T>({.length = 110, .initial = states, .dfinal = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  equals_reference<T>({.batch = 2, .length = 0, .initial = true, .dfinal = true});
  equals_reference<T>({.batch = 0, .length = 5, .initial = true, .dfinal = true});
}

TEST_CASE_TEMPLATE("the state may be updated in place", T, float, double) {
  for (const Index length : {1, 3, 9, 70}) {
    const Case test{.length = length, .taps = 40, .initial = true};
    Run<T> apart(test, Layout::rows);
    Run<T> in_place(test, Layout::rows);
    Context<Shifts<cuda::Automatic>> ctx;
    apart.compute(ctx, test);
    auto forward = in_place.forward;
    forward.final_state = in_place.writable(forward.initial_state);
    shift_convolution(ctx, forward);
    CHECK(difference(forward.initial_state, apart.forward.final_state) == 0);
  }
}

TEST_CASE_TEMPLATE("half types are filtered as floats where general kernels are", T, BFloat16,
                   Float16) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110, 110};
  for (const Index length : {0, 1, 70})
    for (const Layout layout : all_layouts)
      equals_reference<T>(
          {.batch = 2, .length = length, .initial = true, .dfinal = true, .layout = layout});
  equals_reference<T>({.length = 110, .initial = true, .segments = offsets});
}

TEST_CASE_TEMPLATE("the tensor cores are given their layout, and what they give back arrives", T,
                   float, BFloat16, Float16) {
  cuda::pretend_tensor_core_kernels(true);
  for (const Layout layout : all_layouts)
    for (const bool skip : {false, true})
      for (const bool initial : {false, true})
        equals_reference<T, cuda::TensorCoreKernels>({.batch = 2,
                                                      .length = 70,
                                                      .taps = 33,
                                                      .skip = skip,
                                                      .initial = initial,
                                                      .layout = layout});
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE("gradients that nobody wants are not written") {
  for (const bool tensor_cores : {false, true}) {
    cuda::pretend_tensor_core_kernels(tensor_cores);
    const Case test{.length = 70, .taps = 20};
    Context<Reference> reference;
    Run<float> expected(test, Layout::rows);
    expected.compute(reference, test);
    Context<Shifts<cuda::TensorCoreKernels>> ctx;
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
