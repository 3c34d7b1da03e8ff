// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/ssd_scan.hpp"

#include <cmath>
#include <limits>

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index batch = 1, length = 65, heads = 4, channels = 6, groups = 2, terms = 9;
  bool states = true;    // initial and final
  bool optional = true;  // skip and bias
  bool softplus = true;
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();
  Segments segments{};
  Layout layout = Layout::rows;
  Index sequences() const { return sequence_count(batch, segments); }
};

template <class T>
struct Run {
  Run(const Case& test, Layout layout)
      : A(random_tensor<T>("A", test.heads)),
        skip(random_tensor<T>("skip", test.heads)),
        bias(random_tensor<T>("bias", test.heads)),
        dA(random_tensor<T>("dA", test.heads)),
        dskip(random_tensor<T>("dskip", test.heads)),
        dbias(random_tensor<T>("dbias", test.heads)),
        dt(place_copy(layout, random_tensor<T>("dt", test.batch, test.length, test.heads))),
        ddt(place<T>(layout, test.batch, test.length, test.heads)),
        x(operand("x", layout, test.batch, test.length, test.heads, test.channels)),
        dy(operand("dy", layout, test.batch, test.length, test.heads, test.channels)),
        B(operand("B", layout, test.batch, test.length, test.groups, test.terms)),
        C(operand("C", layout, test.batch, test.length, test.groups, test.terms)),
        initial(
            operand("initial", layout, test.sequences(), test.heads, test.channels, test.terms)),
        dfinal(operand("dfinal", layout, test.sequences(), test.heads, test.channels, test.terms)),
        y(place<T>(layout, test.batch, test.length, test.heads, test.channels)),
        dx(place<T>(layout, test.batch, test.length, test.heads, test.channels)),
        dB(place<T>(layout, test.batch, test.length, test.groups, test.terms)),
        dC(place<T>(layout, test.batch, test.length, test.groups, test.terms)),
        final(place<T>(layout, test.sequences(), test.heads, test.channels, test.terms)),
        dinitial(place<T>(layout, test.sequences(), test.heads, test.channels, test.terms)) {
    for_each_index(A, [&](Index h) { A(h) = -std::exp(A(h)); });
  }

  SsdScan<T, HostSpace> forward(const Case& test) {
    SsdScan<T, HostSpace> a{.x = x,
                            .dt = dt,
                            .A = A,
                            .B = B,
                            .C = C,
                            .dt_softplus = test.softplus,
                            .dt_min = test.dt_min,
                            .dt_max = test.dt_max,
                            .segments = test.segments,
                            .y = y};
    if (test.optional) {
      a.skip = skip;
      a.dt_bias = bias;
    }
    if (test.states) {
      a.initial_state = initial;
      a.final_state = final;
    }
    return a;
  }
  template <class Ctx>
  void compute(Ctx& ctx, const Case& test) {
    ssd_scan(ctx, forward(test));
    SsdScanBackward<T, HostSpace> g{
        .forward = forward(test), .dy = dy, .dx = dx, .ddt = ddt, .dA = dA, .dB = dB, .dC = dC};
    if (test.optional) {
      g.dskip = dskip;
      g.ddt_bias = dbias;
    }
    if (test.states) {
      g.dfinal_state = dfinal;
      g.dinitial_state = dinitial;
    }
    ssd_scan_backward(ctx, g);
  }
  template <class... N>
  static Placed<T, 4> operand(const char* name, Layout layout, N... extents) {
    return place_copy(layout, random_tensor<T>(name, extents...));
  }

  DynamicTensor<T, 1> A, skip, bias, dA, dskip, dbias;
  Placed<T, 3> dt, ddt;
  Placed<T, 4> x, dy, B, C, initial, dfinal;
  Placed<T, 4> y, dx, dB, dC, final, dinitial;
};

template <class T>
void expect_equal(const Case& test, const Run<T>& actual, const Run<T>& expected) {
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
  CHECK(difference(actual.ddt.view, expected.ddt.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dB.view, expected.dB.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dC.view, expected.dC.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dA, expected.dA) < tolerance<T>.gradient);
  CHECK(difference(actual.dskip, expected.dskip) < tolerance<T>.gradient);
  CHECK(difference(actual.dbias, expected.dbias) < tolerance<T>.gradient);
  if (!test.states) return;
  CHECK(difference(actual.final.view, expected.final.view) < tolerance<T>.value);
  CHECK(difference(actual.dinitial.view, expected.dinitial.view) < tolerance<T>.gradient);
}

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("the scan equals the reference at every length", T, float, double) {
  for (const Index length : {0, 1, 2, 63, 64, 65, 300})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        cpu_equals_reference<T>({.batch = batch, .length = length, .states = states});
}

TEST_CASE_TEMPLATE("any widths, groups and numbers of states", T, float, double) {
  for (const Index channels : {0, 1, 3, 4, 9, 32})
    for (const Index terms : {0, 1, 7, 16, 33})
      for (const Index groups : {1, 3})
        for (const Index length : {1, 17})
          cpu_equals_reference<T>({.length = length,
                                   .heads = 3,
                                   .channels = channels,
                                   .groups = groups,
                                   .terms = terms});
}

TEST_CASE_TEMPLATE("a head that is alone is divided among the threads", T, float, double) {
  for (const Index channels : {1, 5, 64})
    cpu_equals_reference<T>({.length = 70, .heads = 1, .channels = channels, .groups = 1});
}

TEST_CASE_TEMPLATE("steps as they are, softplus, limits, and nothing optional", T, float, double) {
  for (const bool softplus : {false, true})
    for (const bool optional : {false, true}) {
      cpu_equals_reference<T>({.optional = optional, .softplus = softplus});
      cpu_equals_reference<T>(
          {.optional = optional, .softplus = softplus, .dt_min = 0.1, .dt_max = 0.7});
    }
}

TEST_CASE_TEMPLATE("any layout of the operands", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 30})
      cpu_equals_reference<T>({.batch = 2, .length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments do not see each other", T, float, double) {
  const Index offsets[] = {0, 0, 1, 60, 60, 130};
  for (const bool states : {false, true})
    cpu_equals_reference<T>({.length = 130, .states = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("the state may be overwritten in place", T, float, double) {
  for (const Index length : {0, 1, 20}) {
    const Case test{.batch = 2, .length = length, .channels = 37, .terms = 21};
    on_each_thread_count([&](auto& ctx) {
      Run<T> apart(test, Layout::rows), together(test, Layout::rows);
      ssd_scan(ctx, apart.forward(test));
      auto call = together.forward(test);
      call.final_state = together.initial;
      ssd_scan(ctx, call);
      CHECK(difference(together.y.view, apart.y.view) == 0);
      CHECK(difference(together.initial.view, apart.final.view) == 0);
    });
  }
}
