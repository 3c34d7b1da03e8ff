// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/h3_mixer.hpp"

#include <doctest/doctest.h>

#include "primitives_on_device.hpp"
#include "ssm/backend/cuda/diagonal_scan.hpp"
#include "ssm/backend/cuda/rearrange.hpp"
#include "ssm/backend/cuda/shift_convolution.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "tensor_cores_on_host.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

template <class Choice>
using Mixers = OnDevice<cuda::primitive::BasicDiagonalScan<Choice>,
                        cuda::primitive::BasicShiftConvolution<Choice>,
                        cuda::primitive::BasicH3Mixer<Choice>, cuda::primitive::Rearrange>;

struct Case {
  Index batch = 2, length = 70, channels = 4, heads = 4;
  bool states = true, final_states = true;
  Segments segments{};
  Layout layout = Layout::rows;
};

/// Operands and results of one run; every head has 3 modes, every channel 20 taps.
template <class T>
struct Run {
  using S = Wide<T>;

  Run(const Case& test, Layout layout)
      : sequences(sequence_count(test.batch, test.segments)),
        width(test.channels / test.heads),
        q(sequence("q", test, layout)),
        k(sequence("k", test, layout)),
        v(sequence("v", test, layout)),
        dy(sequence("dy", test, layout)),
        y(sequence("y", test, layout)),
        dq(sequence("dq", test, layout)),
        dk(sequence("dk", test, layout)),
        dv(sequence("dv", test, layout)),
        shift_B(random_tensor<S>("shift_B", test.channels, 20)),
        shift_C(random_tensor<S>("shift_C", test.channels, 20)),
        shift_skip(random_tensor<S>("shift_skip", test.channels)),
        dt(random_tensor<S>("dt", test.heads)),
        skip(random_tensor<S>("skip", test.heads)),
        A(random_tensor<S>("A", test.heads, 3, 2)),
        B(random_tensor<S>("B", test.heads, 3, 2)),
        C(random_tensor<S>("C", test.heads, 3, 2)),
        shift(random_tensor<S>("shift", sequences, test.channels, 20)),
        diagonal(random_tensor<S>("diagonal", sequences, width, width, test.heads, 3, 2)),
        dfinal_shift(random_tensor<S>("dshift", sequences, test.channels, 20)),
        dfinal_diagonal(random_tensor<S>("ddiagonal", sequences, width, width, test.heads, 3, 2)),
        dinitial_shift(shift.clone()),
        dinitial_diagonal(diagonal.clone()),
        dshift_B(shift_B.clone()),
        dshift_C(shift_C.clone()),
        dshift_skip(shift_skip.clone()),
        ddt(dt.clone()),
        dskip(skip.clone()),
        dA(A.clone()),
        dB(B.clone()),
        dC(C.clone()) {
    for (Index h = 0; h < test.heads; ++h) {
      dt(h) = S(0.2) + dt(h) / 10;
      for (Index p = 0; p < 3; ++p) A(h, p, 0) -= S(1.5);
    }
  }
  static Placed<T, 3> sequence(const char* name, const Case& test, Layout layout) {
    return place_copy(layout, random_tensor<T>(name, test.batch, test.length, test.channels));
  }

  H3Mixer<T, HostSpace> forward(const Case& test) {
    H3Mixer<T, HostSpace> a{.q = q,
                            .k = k,
                            .v = v,
                            .shift_B = shift_B,
                            .shift_C = shift_C,
                            .shift_skip = shift_skip,
                            .dt = dt,
                            .A = A,
                            .B = B,
                            .C = C,
                            .skip = skip,
                            .segments = test.segments,
                            .y = y};
    if (test.states) {
      a.initial_shift = shift;
      a.initial_diagonal = diagonal;
    }
    return a;
  }
  /// Backwards first: forwards the states advance in place.
  template <class Ctx>
  void compute(Ctx& ctx, const Case& test) {
    H3MixerBackward<T, HostSpace> g{.forward = forward(test),
                                    .dy = dy,
                                    .dq = dq,
                                    .dk = dk,
                                    .dv = dv,
                                    .dshift_B = dshift_B,
                                    .dshift_C = dshift_C,
                                    .dshift_skip = dshift_skip,
                                    .ddt = ddt,
                                    .dA = dA,
                                    .dB = dB,
                                    .dC = dC,
                                    .dskip = dskip};
    if (test.states) {
      g.dfinal_shift = dfinal_shift;
      g.dfinal_diagonal = dfinal_diagonal;
      g.dinitial_shift = dinitial_shift;
      g.dinitial_diagonal = dinitial_diagonal;
    }
    h3_mixer_backward(ctx, g);
    auto a = g.forward;
    if (test.final_states) {
      a.final_shift = shift;
      a.final_diagonal = diagonal;
    }
    h3_mixer(ctx, a);
  }

  Index sequences, width;
  Placed<T, 3> q, k, v, dy, y, dq, dk, dv;
  DynamicTensor<S, 2> shift_B, shift_C;
  DynamicTensor<S, 1> shift_skip, dt, skip;
  DynamicTensor<S, 3> A, B, C, shift;
  DynamicTensor<S, 6> diagonal;
  DynamicTensor<S, 3> dfinal_shift;
  DynamicTensor<S, 6> dfinal_diagonal;
  DynamicTensor<S, 3> dinitial_shift;
  DynamicTensor<S, 6> dinitial_diagonal;
  DynamicTensor<S, 2> dshift_B, dshift_C;
  DynamicTensor<S, 1> dshift_skip, ddt, dskip;
  DynamicTensor<S, 3> dA, dB, dC;
};

template <class T, class Choice = cuda::Automatic>
void equals_reference(const Case& test) {
  CAPTURE(test.length);
  CAPTURE(test.heads);
  CAPTURE(test.states);
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  expected.compute(reference, test);
  Context<Mixers<Choice>> ctx;
  ctx.workspace().fill_with_nan(true);
  Run<T> actual(test, test.layout);
  actual.compute(ctx, test);
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.shift, expected.shift) < tolerance<T>.value);
  CHECK(difference(actual.diagonal, expected.diagonal) < tolerance<T>.value);
  const double bound = tolerance<T>.gradient;
  CHECK(difference(actual.dq.view, expected.dq.view) < bound);
  CHECK(difference(actual.dk.view, expected.dk.view) < bound);
  CHECK(difference(actual.dv.view, expected.dv.view) < bound);
  CHECK(difference(actual.dinitial_shift, expected.dinitial_shift) < bound);
  CHECK(difference(actual.dinitial_diagonal, expected.dinitial_diagonal) < bound);
  CHECK(difference(actual.dshift_B, expected.dshift_B) < bound);
  CHECK(difference(actual.dshift_C, expected.dshift_C) < bound);
  CHECK(difference(actual.dshift_skip, expected.dshift_skip) < bound);
  CHECK(difference(actual.ddt, expected.ddt) < bound);
  CHECK(difference(actual.dA, expected.dA) < bound);
  CHECK(difference(actual.dB, expected.dB) < bound);
  CHECK(difference(actual.dC, expected.dC) < bound);
  CHECK(difference(actual.dskip, expected.dskip) < bound);
}

}  // namespace

TEST_CASE_TEMPLATE("heads of every width equal the reference, forwards and back", T, float,
                   double) {
  for (const bool tensor_cores : {false, true}) {
    cuda::pretend_tensor_core_kernels(tensor_cores);
    for (const Index heads : {4, 2, 1})
      for (const Index length : {0, 1, 5, 70})
        for (const bool states : {false, true})
          equals_reference<T>({.length = length, .heads = heads, .states = states});
  }
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index heads : {4, 2}) equals_reference<T>({.heads = heads, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 40, 40, 110, 110};
  for (const Index heads : {4, 2})
    equals_reference<T>({.batch = 1, .length = 110, .heads = heads, .segments = offsets});
}

TEST_CASE_TEMPLATE("sequences in half types, by fused kernels where there are no states", T,
                   BFloat16, Float16) {
  const Index offsets[] = {0, 0, 1, 40, 40, 110, 110};
  for (const bool tensor_cores : {false, true}) {
    CAPTURE(tensor_cores);
    cuda::pretend_tensor_core_kernels(tensor_cores);
    for (const Index heads : {4, 2})
      for (const Index length : {0, 1, 70}) {
        for (const bool states : {false, true})
          for (const bool final_states : {false, true})
            equals_reference<T, cuda::TensorCoreKernels>(
                {.length = length, .heads = heads, .states = states, .final_states = final_states});
        equals_reference<T>({.length = length, .heads = heads, .states = false});
      }
    for (const Layout layout : all_layouts)
      equals_reference<T, cuda::TensorCoreKernels>(
          {.states = false, .final_states = false, .layout = layout});
    equals_reference<T, cuda::TensorCoreKernels>(
        {.batch = 1, .length = 110, .states = false, .final_states = false, .segments = offsets});
  }
  cuda::pretend_tensor_core_kernels(false);
}

#ifndef SSM_TEST_ON_DEVICE
TEST_CASE_TEMPLATE("fused kernels round once", T, BFloat16, Float16) {
  cuda::pretend_tensor_core_kernels(true);
  const Case test{.states = false, .final_states = false};
  Context<Mixers<cuda::TensorCoreKernels>> fused;
  Run<T> actual(test, Layout::rows);
  actual.compute(fused, test);
  cuda::pretend_tensor_core_kernels(false);
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  expected.compute(reference, test);
  CHECK(difference(actual.y.view, expected.y.view) == 0);
  CHECK(difference(actual.dk.view, expected.dk.view) == 0);
}
#endif
