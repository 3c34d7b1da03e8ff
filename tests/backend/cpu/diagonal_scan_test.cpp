// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/diagonal_scan.hpp"

#include "compare.hpp"
#include "support/diagonal_scan_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = DiagonalScanCase;
template <class T>
using Run = DiagonalScanRun<T>;

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("the scan and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {1, 2, 31, 32, 33, 63, 64, 65, 1000})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        cpu_equals_reference<T>({.batch = batch, .length = length, .states = states});
}

TEST_CASE_TEMPLATE("any number of channels and modes, real or complex", T, float, double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index modes : {1, 2, 4, 17, 32})
      for (const Index parts : {1, 2})
        for (const Index length : {1, 40})
          for (const bool states : {false, true})
            cpu_equals_reference<T>({.batch = 2,
                                     .length = length,
                                     .channels = channels,
                                     .rows = channels,
                                     .modes = modes,
                                     .parts = parts,
                                     .states = states});
}

TEST_CASE_TEMPLATE("channels that share rows add their gradients", T, float, double) {
  for (const Index rows : {1, 3, 12, 16, 48})
    for (const Index length : {1, 70})
      cpu_equals_reference<T>(
          {.batch = 3, .length = length, .channels = 96, .rows = rows, .states = true});
}

TEST_CASE_TEMPLATE("both discretizations, with and without gates and skip", T, float, double) {
  for (const auto kind : {Discretization::bilinear, Discretization::zero_order_hold})
    for (const Index parts : {1, 2})
      for (const bool gates : {false, true})
        for (const bool skip : {false, true})
          for (const bool states : {false, true})
            for (const Index length : {1, 70})
              cpu_equals_reference<T>({.length = length,
                                       .parts = parts,
                                       .discretization = kind,
                                       .skip = skip,
                                       .gates = gates,
                                       .states = states});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70})
      cpu_equals_reference<T>({.batch = 2, .length = length, .gates = true, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 40, 40, 110};
  for (const bool states : {false, true})
    cpu_equals_reference<T>({.length = 110, .states = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  cpu_equals_reference<T>({.batch = 2, .length = 0, .states = true});
  cpu_equals_reference<T>({.batch = 0, .length = 5, .states = true});
}

TEST_CASE_TEMPLATE("the state may be updated in place", T, float, double) {
  for (const Index length : {1, 9}) {
    const Case test{.length = length, .states = true};
    Run<T> apart(test, Layout::rows);
    Run<T> in_place(test, Layout::rows);
    Context<Cpu> ctx;
    apart.compute(ctx, test);
    auto forward = in_place.forward;
    forward.skip = {};
    forward.final_state = in_place.writable(forward.initial_state);
    diagonal_scan(ctx, forward);
    CHECK(difference(forward.initial_state, apart.forward.final_state) < tolerance<T>.value);
  }
}

TEST_CASE("a mode with A = 0 integrates its input") {
  const Case test{.length = 33, .rows = 20, .discretization = Discretization::zero_order_hold};
  Context<Reference> reference;
  Context<Cpu> ctx;
  Run<double> expected(test, Layout::rows);
  Run<double> actual(test, Layout::rows);
  for (auto* run : {&expected, &actual}) {
    const auto A = run->writable(run->forward.A);
    for_each_index(A, [&](Index r, Index p, Index part) {
      if (p == 0) A(r, p, part) = 0;
    });
  }
  expected.compute(reference, test);
  actual.compute(ctx, test);
  CHECK(difference(actual.forward.y, expected.forward.y) < tolerance<double>.value);
  CHECK(difference(actual.gradient.dA, expected.gradient.dA) < tolerance<double>.gradient);
}

TEST_CASE("the same thread count gives the same gradient bits") {
  const Case test{.batch = 3, .length = 100, .channels = 96, .rows = 12};
  on_each_thread_count([&](auto& ctx) {
    Run<float> once(test, Layout::rows);
    Run<float> again(test, Layout::rows);
    once.compute(ctx, test);
    again.compute(ctx, test);
    expect_same(again, once);
  });
}
