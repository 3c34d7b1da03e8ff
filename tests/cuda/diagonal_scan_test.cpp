// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/diagonal_scan.hpp"

#include "primitives_on_device.hpp"
#include "ssm/backend/cuda/rearrange.hpp"
#include "support/diagonal_scan_run.hpp"
#include "tensor_cores_on_host.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = DiagonalScanCase;
template <class T>
using Run = DiagonalScanRun<T>;

template <class Choice>
using Scans = OnDevice<cuda::primitive::BasicDiagonalScan<Choice>, cuda::primitive::Rearrange>;

template <class T, class Choice = cuda::GeneralKernels>
void equals_reference(const Case& test) {
  expect_reference_on<Scans<Choice>, Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("the scan and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {1, 2, 3, 15, 16, 17, 63, 64, 65, 130})
    for (const bool states : {false, true})
      equals_reference<T>(
          {.batch = 3, .length = length, .channels = 5, .rows = 5, .states = states});
  equals_reference<T>({.length = 1000, .channels = 3, .rows = 3, .states = true});
}

TEST_CASE_TEMPLATE("any number of modes, real or complex", T, float, double) {
  for (const Index modes : {1, 2, 31, 32, 33, 70})
    for (const Index parts : {1, 2})
      equals_reference<T>({.batch = 2,
                           .length = 20,
                           .channels = 3,
                           .rows = 3,
                           .modes = modes,
                           .parts = parts,
                           .gates = true,
                           .states = true});
}

TEST_CASE_TEMPLATE("channels that share rows add their gradients", T, float, double) {
  for (const Index rows : {1, 3, 12})
    equals_reference<T>({.batch = 3, .length = 70, .channels = 12, .rows = rows, .states = true});
}

TEST_CASE_TEMPLATE("both discretizations, with and without gates and skip", T, float, double) {
  for (const auto kind : {Discretization::bilinear, Discretization::zero_order_hold})
    for (const Index parts : {1, 2})
      for (const bool gates : {false, true})
        for (const bool skip : {false, true})
          equals_reference<T>(
              {.length = 20, .parts = parts, .discretization = kind, .skip = skip, .gates = gates});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    equals_reference<T>({.batch = 2, .length = 70, .gates = true, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const bool states : {false, true})
    equals_reference<T>({.length = 170, .states = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  equals_reference<T>({.batch = 2, .length = 0, .states = true});
  equals_reference<T>({.batch = 0, .length = 5, .states = true});
}

TEST_CASE_TEMPLATE("the state may be updated in place", T, float, double) {
  for (const Index length : {1, 9, 70}) {
    const Case test{.length = length, .states = true};
    Run<T> apart(test, Layout::rows);
    Run<T> in_place(test, Layout::rows);
    Context<Scans<cuda::Automatic>> ctx;
    apart.compute(ctx, test);
    auto forward = in_place.forward;
    forward.skip = {};
    forward.final_state = in_place.writable(forward.initial_state);
    diagonal_scan(ctx, forward);
    CHECK(difference(forward.initial_state, apart.forward.final_state) == 0);
  }
}

TEST_CASE_TEMPLATE("half types are scanned as floats where general kernels are", T, BFloat16,
                   Float16) {
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const Index length : {0, 1, 70})
    for (const Layout layout : all_layouts)
      equals_reference<T>(
          {.batch = 2, .length = length, .gates = true, .states = true, .layout = layout});
  equals_reference<T>({.length = 170, .states = true, .segments = offsets});
}

TEST_CASE_TEMPLATE("the tensor cores are given their layout, and what they give back arrives", T,
                   float, BFloat16, Float16) {
  cuda::pretend_tensor_core_kernels(true);
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const Layout layout : all_layouts)
    for (const Index rows : {1, 4, 12}) {
      CAPTURE(rows);
      equals_reference<T, cuda::TensorCoreKernels>({.batch = 2,
                                                    .length = 70,
                                                    .channels = 12,
                                                    .rows = rows,
                                                    .skip = rows > 1,
                                                    .gates = rows > 4,
                                                    .states = rows < 12,
                                                    .layout = layout});
      equals_reference<T, cuda::TensorCoreKernels>(
          {.length = 170, .channels = 12, .rows = rows, .states = true, .segments = offsets});
    }
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE("gradients that nobody wants are not written") {
  for (const bool tensor_cores : {false, true}) {
    cuda::pretend_tensor_core_kernels(tensor_cores);
    const Case test{.length = 70, .gates = true, .states = true};
    Context<Reference> reference;
    Run<float> expected(test, Layout::rows);
    expected.compute(reference, test);
    Context<Scans<cuda::TensorCoreKernels>> ctx;
    Run<float> run(test, Layout::rows);
    auto forward = run.forward;
    forward.final_state = {};
    DiagonalScanBackward<float, HostSpace> backward{.forward = forward, .dy = run.gradient.dy};
    diagonal_scan_backward(ctx, backward);
    backward.dgate_out = run.gradient.dgate_out;
    backward.dfinal_state = run.gradient.dfinal_state;
    diagonal_scan_backward(ctx, backward);
    CHECK(difference(run.gradient.dgate_out, expected.gradient.dgate_out) <
          tolerance<float>.gradient);
  }
  cuda::pretend_tensor_core_kernels(false);
}
