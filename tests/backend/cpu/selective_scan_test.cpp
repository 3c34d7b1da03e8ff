// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/selective_scan.hpp"

#include <cmath>

#include "compare.hpp"
#include "ssm/core/elementwise.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index batch = 1, length = 65, channels = 20, states = 5;
  bool softplus = true;
  bool optional = true;  // skip, bias, gate, and the step that comes out
  bool initial = false, dfinal = false, accumulate = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run {
  explicit Run(const Case& test) : Run(test, test.layout) {}
  Run(const Case& test, Layout layout)
      : sequences(sequence_count(test.batch, test.segments)),
        A(random_tensor<T>("A", test.channels, test.states)),
        skip(random_tensor<T>("skip", test.channels)),
        bias(random_tensor<T>("bias", test.channels)),
        u(wide("u", test, layout)),
        dt(wide("delta", test, layout)),
        gate(wide("gate", test, layout)),
        dy(wide("dy", test, layout)),
        ddt_used(wide("dstep", test, layout)),
        y(wide("y", test, layout)),
        dt_used(wide("y", test, layout)),
        du(wide("du", test, layout)),
        ddt(wide("ddelta", test, layout)),
        dgate(wide("dgate", test, layout)),
        B(narrow("B", test, layout)),
        C(narrow("C", test, layout)),
        dB(narrow("dB", test, layout)),
        dC(narrow("dC", test, layout)),
        initial(random_tensor<T>("initial", sequences, test.channels, test.states)),
        dfinal(random_tensor<T>("dfinal", sequences, test.channels, test.states)),
        final_state(nan_tensor<T>(sequences, test.channels, test.states)),
        dinitial(random_tensor<T>("dinitial", sequences, test.channels, test.states)),
        dA(random_tensor<T>("dA", test.channels, test.states)),
        dskip(random_tensor<T>("dskip", test.channels)),
        dbias(random_tensor<T>("dbias", test.channels)) {
    for_each_index(A, [&](auto... i) { A(i...) = -std::exp(A(i...)); });
    // Negative steps would grow without bound, and the bias may make a small one so.
    if (!test.softplus) for_each_element([](T& step) { step = T(1) + std::abs(step); }, dt.view);
  }

  SelectiveScan<T, HostSpace> forward(const Case& test) {
    SelectiveScan<T, HostSpace> a{.u = u,
                                  .dt = dt,
                                  .A = A,
                                  .B = B,
                                  .C = C,
                                  .dt_softplus = test.softplus,
                                  .segments = test.segments,
                                  .final_state = final_state,
                                  .y = y};
    if (test.initial) a.initial_state = initial;
    if (!test.optional) return a;
    a.skip = skip;
    a.dt_bias = bias;
    a.gate = gate;
    a.dt_used = dt_used;
    return a;
  }
  template <class Ctx>
  void compute(Ctx& ctx, const Case& test) {
    selective_scan(ctx, forward(test));
    SelectiveScanBackward<T, HostSpace> g{.forward = forward(test),
                                          .dy = dy,
                                          .accumulate = test.accumulate,
                                          .du = du,
                                          .ddt = ddt,
                                          .dA = dA,
                                          .dB = dB,
                                          .dC = dC,
                                          .dinitial_state = dinitial};
    if (test.dfinal) g.dfinal_state = dfinal;
    if (test.optional) {
      g.ddt_used = ddt_used;
      g.dskip = dskip;
      g.ddt_bias = dbias;
      g.dgate = dgate;
    }
    selective_scan_backward(ctx, g);
  }

  static Placed<T, 3> wide(const char* name, const Case& test, Layout layout) {
    return place_copy(layout, random_tensor<T>(name, test.batch, test.length, test.channels));
  }
  static Placed<T, 3> narrow(const char* name, const Case& test, Layout layout) {
    return place_copy(layout, random_tensor<T>(name, test.batch, test.length, test.states));
  }

  Index sequences;
  DynamicTensor<T, 2> A;
  DynamicTensor<T, 1> skip, bias;
  Placed<T, 3> u, dt, gate, dy, ddt_used, y, dt_used, du, ddt, dgate, B, C, dB, dC;
  DynamicTensor<T, 3> initial, dfinal, final_state, dinitial;
  DynamicTensor<T, 2> dA;
  DynamicTensor<T, 1> dskip, dbias;
};

template <class T>
void check_same(const Run<T>& actual, const Run<T>& expected, Tolerance allowed) {
  CHECK(difference(actual.y.view, expected.y.view) <= allowed.value);
  CHECK(difference(actual.dt_used.view, expected.dt_used.view) <= allowed.value);
  CHECK(difference(actual.final_state, expected.final_state) <= allowed.value);
  CHECK(difference(actual.du.view, expected.du.view) <= allowed.gradient);
  CHECK(difference(actual.ddt.view, expected.ddt.view) <= allowed.gradient);
  CHECK(difference(actual.dgate.view, expected.dgate.view) <= allowed.gradient);
  CHECK(difference(actual.dB.view, expected.dB.view) <= allowed.gradient);
  CHECK(difference(actual.dC.view, expected.dC.view) <= allowed.gradient);
  CHECK(difference(actual.dinitial, expected.dinitial) <= allowed.gradient);
  CHECK(difference(actual.dA, expected.dA) <= allowed.gradient);
  CHECK(difference(actual.dskip, expected.dskip) <= allowed.gradient);
  CHECK(difference(actual.dbias, expected.dbias) <= allowed.gradient);
}

template <class T>
void cpu_equals_reference(const Case& test) {
  CAPTURE(test.batch);
  CAPTURE(test.length);
  CAPTURE(test.channels);
  CAPTURE(test.states);
  CAPTURE(test.initial);
  CAPTURE(test.dfinal);
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  expected.compute(reference, test);
  on_each_thread_count([&](auto& ctx) {
    Run<T> actual(test);
    actual.compute(ctx, test);
    check_same(actual, expected, tolerance<T>);
  });
}

}  // namespace

TEST_CASE_TEMPLATE(
    "the scan and its gradient equal the reference at every length, with and without states", T,
    float, double) {
  for (const Index length : {1, 2, 7, 31, 32, 33, 63, 64, 65, 1000})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        cpu_equals_reference<T>(
            {.batch = batch, .length = length, .initial = states, .dfinal = states});
}

TEST_CASE_TEMPLATE("any number of channels and states", T, float, double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index states : {1, 2, 4, 7, 16, 33})
      for (const Index length : {1, 40})
        cpu_equals_reference<T>({.batch = 2,
                                 .length = length,
                                 .channels = channels,
                                 .states = states,
                                 .initial = true,
                                 .dfinal = true});
}

TEST_CASE_TEMPLATE("operands left out, and gradients added to", T, float, double) {
  for (const Index length : {1, 40})
    for (const bool softplus : {false, true})
      for (const bool optional : {false, true})
        for (const bool accumulate : {false, true})
          cpu_equals_reference<T>({.length = length,
                                   .softplus = softplus,
                                   .optional = optional,
                                   .initial = true,
                                   .accumulate = accumulate});
}

TEST_CASE_TEMPLATE("more blocks of channels than take turns, and more sequences than slots", T,
                   float, double) {
  cpu_equals_reference<T>(
      {.batch = 11, .length = 5, .channels = 600, .states = 4, .initial = true, .dfinal = true});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70})
      cpu_equals_reference<T>({.batch = 2, .length = length, .initial = true, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  for (const bool states : {false, true})
    cpu_equals_reference<T>(
        {.length = 110, .initial = states, .dfinal = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  cpu_equals_reference<T>({.batch = 2, .length = 0, .initial = true, .dfinal = true});
  cpu_equals_reference<T>({.batch = 0, .length = 5, .initial = true, .dfinal = true});
}

TEST_CASE_TEMPLATE("the state may be updated in place", T, float, double) {
  for (const Index length : {0, 1, 9}) {
    const Case test{.length = length, .initial = true};
    Run<T> apart(test);
    Run<T> in_place(test);
    Context<Cpu> ctx;
    apart.compute(ctx, test);
    auto forward = in_place.forward(test);
    forward.final_state = in_place.initial;
    selective_scan(ctx, forward);
    CHECK(difference(in_place.initial, apart.final_state) == 0);
    CHECK(difference(in_place.y.view, apart.y.view) == 0);
  }
}

TEST_CASE_TEMPLATE("large steps neither overflow nor hide what is not a number", T, float, double) {
  const Case test{.batch = 2, .length = 3, .channels = 17, .initial = true};
  Context<Reference> reference;
  Context<Cpu> ctx;
  Run<T> expected(test);
  Run<T> actual(test);
  for (Run<T>* run : {&expected, &actual}) {
    run->dt.view(0, 1, 2) = 1000;
    run->dt.view(1, 1, 16) = -1000;
  }
  expected.compute(reference, test);
  actual.compute(ctx, test);
  check_same(actual, expected, tolerance<T>);
  actual.dt.view(0, 1, 2) = std::numeric_limits<T>::quiet_NaN();
  actual.compute(ctx, test);
  CHECK(std::isnan(actual.y.view(0, 2, 2)));
  CHECK(std::isfinite(actual.y.view(0, 2, 3)));
}

TEST_CASE("the same thread count gives the same gradient bits") {
  const Case test{.batch = 5, .length = 300, .channels = 96};
  on_each_thread_count([&](auto& ctx) {
    Run<float> once(test);
    Run<float> again(test);
    once.compute(ctx, test);
    again.compute(ctx, test);
    check_same(again, once, Tolerance{});
  });
}
