// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/diagonal_scan.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index batch = 1, length = 65, channels = 20, rows = 20, modes = 5, parts = 2;
  Discretization discretization = Discretization::bilinear;
  bool skip = true, gates = false, states = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

/// Operands and results of one run, in the layout of the case.
template <class T>
struct Run {
  Run(const Case& test, Layout layout)
      : sequences(sequence_count(test.batch, test.segments)),
        dt(random_tensor<T>("dt", test.rows)),
        A(random_tensor<T>("A", test.rows, test.modes, test.parts)),
        B(random_tensor<T>("B", test.rows, test.modes, test.parts)),
        C(random_tensor<T>("C", test.rows, test.modes, test.parts)),
        skip(random_tensor<T>("skip", test.rows)),
        x(sequence("x", test, layout)),
        gate_in(sequence("gate_in", test, layout)),
        gate_out(sequence("gate_out", test, layout)),
        dy(sequence("dy", test, layout)),
        initial(state("initial", test)),
        dfinal(state("dfinal", test)),
        y(place<T>(layout, test.batch, test.length, test.channels)),
        dx(place<T>(layout, test.batch, test.length, test.channels)),
        dgate_in(place<T>(layout, test.batch, test.length, test.channels)),
        dgate_out(place<T>(layout, test.batch, test.length, test.channels)),
        final_state(nan_tensor<T>(sequences, test.channels, test.modes, test.parts)),
        dinitial(nan_tensor<T>(sequences, test.channels, test.modes, test.parts)),
        ddt(random_tensor<T>("ddt", test.rows)),
        dA(random_tensor<T>("dA", test.rows, test.modes, test.parts)),
        dB(random_tensor<T>("dB", test.rows, test.modes, test.parts)),
        dC(random_tensor<T>("dC", test.rows, test.modes, test.parts)),
        dskip(random_tensor<T>("dskip", test.rows)) {
    for_each_index(dt, [&](Index r) { dt(r) = T(0.1) + T(0.09) * dt(r); });
    for_each_index(A, [&](Index r, Index p,
                          Index part) {  // real parts in the left half plane, some |dt·A| above 1
      A(r, p, part) = part == 0 ? T(-0.6) + T(0.5) * A(r, p, part) : T(20) * A(r, p, part);
    });
  }

  template <class Ctx>
  void compute(Ctx& ctx, const Case& test) {
    const DiagonalScan<T, HostSpace> forward{
        .dt = dt,
        .A = A,
        .B = B,
        .C = C,
        .skip = test.skip ? skip.view() : View<T, 1>(),
        .discretization = test.discretization,
        .x = x,
        .gate_in = test.gates ? gate_in.view : View<T, 3>(),
        .gate_out = test.gates ? gate_out.view : View<T, 3>(),
        .segments = test.segments,
        .initial_state = test.states ? initial.view() : View<T, 4>(),
        .final_state = final_state,
        .y = y};
    diagonal_scan(ctx, forward);
    diagonal_scan_backward(ctx, DiagonalScanBackward<T, HostSpace>{
                                    .forward = forward,
                                    .dy = dy,
                                    .dfinal_state = test.states ? dfinal.view() : View<T, 4>(),
                                    .dx = dx,
                                    .dgate_in = test.gates ? dgate_in.view : View<T, 3>(),
                                    .dgate_out = test.gates ? dgate_out.view : View<T, 3>(),
                                    .dinitial_state = test.states ? dinitial.view() : View<T, 4>(),
                                    .ddt = ddt,
                                    .dA = dA,
                                    .dB = dB,
                                    .dC = dC,
                                    .dskip = test.skip ? dskip.view() : View<T, 1>()});
  }

  static Placed<T, 3> sequence(const char* name, const Case& test, Layout layout) {
    return place_copy(layout, random_tensor<T>(name, test.batch, test.length, test.channels));
  }
  DynamicTensor<T, 4> state(const char* name, const Case& test) const {
    return random_tensor<T>(name, sequences, test.channels, test.modes, test.parts);
  }

  Index sequences;
  DynamicTensor<T, 1> dt;
  DynamicTensor<T, 3> A, B, C;
  DynamicTensor<T, 1> skip;
  Placed<T, 3> x, gate_in, gate_out, dy;
  DynamicTensor<T, 4> initial, dfinal;
  Placed<T, 3> y, dx, dgate_in, dgate_out;
  DynamicTensor<T, 4> final_state, dinitial;
  DynamicTensor<T, 1> ddt;
  DynamicTensor<T, 3> dA, dB, dC;
  DynamicTensor<T, 1> dskip;
};

template <class T>
void cpu_equals_reference(const Case& test) {
  CAPTURE(test.length);
  CAPTURE(test.channels);
  CAPTURE(test.rows);
  CAPTURE(test.modes);
  CAPTURE(test.parts);
  CAPTURE(test.states);
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  expected.compute(reference, test);
  on_each_thread_count([&](auto& ctx) {
    Run<T> actual(test, test.layout);
    actual.compute(ctx, test);
    CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
    CHECK(difference(actual.final_state, expected.final_state) < tolerance<T>.value);
    CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
    if (test.gates) {
      CHECK(difference(actual.dgate_in.view, expected.dgate_in.view) < tolerance<T>.gradient);
      CHECK(difference(actual.dgate_out.view, expected.dgate_out.view) < tolerance<T>.gradient);
    }
    if (test.states) CHECK(difference(actual.dinitial, expected.dinitial) < tolerance<T>.gradient);
    CHECK(difference(actual.ddt, expected.ddt) < tolerance<T>.gradient);
    CHECK(difference(actual.dA, expected.dA) < tolerance<T>.gradient);
    CHECK(difference(actual.dB, expected.dB) < tolerance<T>.gradient);
    CHECK(difference(actual.dC, expected.dC) < tolerance<T>.gradient);
    CHECK(difference(actual.dskip, expected.dskip) < tolerance<T>.gradient);
  });
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

TEST_CASE_TEMPLATE("both discretisations, with and without gates and skip", T, float, double) {
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
    diagonal_scan(ctx, DiagonalScan<T, HostSpace>{.dt = in_place.dt,
                                                  .A = in_place.A,
                                                  .B = in_place.B,
                                                  .C = in_place.C,
                                                  .x = in_place.x,
                                                  .initial_state = in_place.initial,
                                                  .final_state = in_place.initial,
                                                  .y = in_place.y});
    CHECK(difference(in_place.initial, apart.final_state) < tolerance<T>.value);
  }
}

TEST_CASE("a mode with A = 0 integrates its input") {
  const Case test{.length = 33, .rows = 20, .discretization = Discretization::zero_order_hold};
  Context<Reference> reference;
  Context<Cpu> ctx;
  Run<double> expected(test, Layout::rows);
  Run<double> actual(test, Layout::rows);
  for (auto* run : {&expected, &actual})
    for_each_index(run->A, [&](Index r, Index p, Index part) {
      run->A(r, p, part) = p == 0 ? 0 : run->A(r, p, part);
    });
  expected.compute(reference, test);
  actual.compute(ctx, test);
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<double>.value);
  CHECK(difference(actual.dA, expected.dA) < tolerance<double>.gradient);
}

TEST_CASE("the same thread count gives the same gradient bits") {
  const Case test{.batch = 3, .length = 100, .channels = 96, .rows = 12};
  on_each_thread_count([&](auto& ctx) {
    Run<float> once(test, Layout::rows);
    Run<float> again(test, Layout::rows);
    once.compute(ctx, test);
    again.compute(ctx, test);
    CHECK(std::equal(once.dA.data(), once.dA.data() + once.dA.size(), again.dA.data()));
  });
}
