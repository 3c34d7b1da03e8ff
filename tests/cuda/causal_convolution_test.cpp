// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/causal_convolution.hpp"

#include "primitives_on_device.hpp"
#include "ssm/backend/cuda/rearrange.hpp"
#include "support/causal_convolution_run.hpp"
#include "tensor_cores_on_host.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = CausalConvolutionCase;
template <class T>
using Run = CausalConvolutionRun<T>;

template <class Choice>
using Convolutions =
    OnDevice<cuda::primitive::BasicCausalConvolution<Choice>, cuda::primitive::Rearrange>;

template <class T, class Choice = cuda::GeneralKernels>
void equals_reference(const Case& test) {
  expect_reference_on<Convolutions<Choice>, Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("the convolution and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {1, 2, 63, 64, 65, 300})
    for (const Index batch : {1, 3})
      equals_reference<T>({.batch = batch, .length = length, .terms = length});
}

TEST_CASE_TEMPLATE("kernels of other lengths than the sequence, short and long", T, float, double) {
  for (const Index terms : {1, 3, 64, 100})
    for (const Index length : {1, 70}) equals_reference<T>({.length = length, .terms = terms});
}

TEST_CASE_TEMPLATE("any number of channels, with and without gates and skip, in any layout", T,
                   float, double) {
  for (const Index channels : {1, 17})
    for (const bool gates : {false, true})
      for (const Layout layout : all_layouts)
        equals_reference<T>({.batch = 2,
                             .length = 70,
                             .channels = channels,
                             .terms = 30,
                             .skip = gates,
                             .gates = gates,
                             .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const Index terms : {30, 170})
    equals_reference<T>({.length = 170, .terms = terms, .gates = true, .segments = offsets});
}

TEST_CASE_TEMPLATE("empty batches and sequences are legal", T, float, double) {
  equals_reference<T>({.batch = 2, .length = 0, .terms = 30});
  equals_reference<T>({.batch = 0, .length = 40, .terms = 40});
}

TEST_CASE_TEMPLATE("half types are convolved as floats where general kernels are", T, BFloat16,
                   Float16) {
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const Index length : {0, 1, 70})
    for (const Layout layout : all_layouts)
      equals_reference<T>(
          {.batch = 2, .length = length, .terms = 30, .gates = true, .layout = layout});
  equals_reference<T>({.length = 170, .terms = 30, .gates = true, .segments = offsets});
}

TEST_CASE_TEMPLATE("the tensor cores are given their layout, and what they give back arrives", T,
                   float, BFloat16, Float16) {
  cuda::pretend_tensor_core_kernels(true);
  for (const Layout layout : all_layouts)
    for (const bool gates : {false, true})
      for (const Index terms : {30, 70, 100})
        equals_reference<T, cuda::TensorCoreKernels>({.batch = 2,
                                                      .length = 70,
                                                      .terms = terms,
                                                      .skip = gates,
                                                      .gates = gates,
                                                      .layout = layout});
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE("gradients that nobody wants are not written") {
  for (const bool tensor_cores : {false, true}) {
    cuda::pretend_tensor_core_kernels(tensor_cores);
    const Case test{.length = 70, .gates = true};
    Context<Reference> reference;
    Run<float> expected(test, Layout::rows);
    expected.compute(reference, test);
    Context<Convolutions<cuda::TensorCoreKernels>> ctx;
    Run<float> run(test, Layout::rows);
    CausalConvolutionBackward<float, HostSpace> backward{
        .forward = {.kernel = run.forward.kernel,
                    .x = run.forward.x,
                    .gate_in = run.forward.gate_in},
        .dy = run.gradient.dy};
    causal_convolution_backward(ctx, backward);
    backward.forward = run.forward;
    backward.dskip = run.gradient.dskip;
    causal_convolution_backward(ctx, backward);
    CHECK(difference(run.gradient.dskip, expected.gradient.dskip) < tolerance<float>.gradient);
  }
  cuda::pretend_tensor_core_kernels(false);
}
