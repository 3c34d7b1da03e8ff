// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/diagonal_scan.hpp"

#include <vector>

#include "cuda/tensor_cores_on_host.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

constexpr Discretization kinds[] = {Discretization::bilinear, Discretization::zero_order_hold};

struct Case {
  Index batch = 1, length = 65, channels = 20, rows = 20, modes = 5, parts = 2;
  Discretization discretization = Discretization::bilinear;
  bool skip = true, gates = false, states = false;
  bool integrates = false;  // the first mode's A is 0
  double fastest = 20;      // imaginary part of A
  bool keeps = false;       // states for the gradient
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<DiagonalScan<T, HostSpace>, DiagonalScanBackward<T, HostSpace>> {
  using Test = Case;
  using S = Wide<T>;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'B', test.batch},
                         {'L', test.length},
                         {'D', test.channels},
                         {'R', test.rows},
                         {'P', test.modes},
                         {'Z', test.parts}},
                        layout, test.segments,
                        left_out({{"skip", test.skip},
                                  {"gate_in", test.gates},
                                  {"gate_out", test.gates},
                                  {"initial_state", test.states},
                                  {"dinitial_state", test.states},
                                  {"dfinal_state", test.states}})),
        keeps_(test.keeps) {
    this->forward.discretization = test.discretization;
    const auto dt = this->writable(this->forward.dt);
    for_each_index(dt, [&](Index r) { dt(r) = S(0.1) + S(0.09) * dt(r); });
    const auto A = this->writable(this->forward.A);
    for_each_index(A, [&](Index r, Index p, Index part) {
      // real parts in the left half plane, some |dt·A| above 1
      S& a = A(r, p, part);
      a = part == 0 ? S(-0.6) + S(0.5) * a : static_cast<S>(test.fastest) * a;
      if (test.integrates && p == 0) a = 0;
    });
  }
  void evaluate(auto& ctx) {
    if (keeps_) {
      kept_.resize({kept_numbers(ctx, this->forward)});
      this->forward.kept = kept_;
    }
    diagonal_scan(ctx, this->forward);
    this->forward.kept = {};
  }
  void differentiate(auto& ctx) {
    if (keeps_) evaluate(ctx);
    auto g = this->backward();
    g.kept = kept_;
    diagonal_scan_backward(ctx, g);
  }
  template <class B>
  static constexpr bool exists = HasDiagonalScan<B, T>;

 private:
  bool keeps_;
  DynamicTensor<S, 1> kept_;
};

/// With everything that a call may have, and few channels.
constexpr Case full(Case test) {
  test.channels = 4;
  test.rows = 2;
  test.modes = 3;
  test.gates = test.states = true;
  test.fastest = 5;
  return test;
}

TEST_CASE("one real mode gives the hand-worked numbers") {
  Run<double> call({.length = 2,
                    .channels = 1,
                    .rows = 1,
                    .modes = 1,
                    .parts = 1,
                    .gates = true,
                    .states = true},
                   Layout::rows);
  auto& a = call.forward;
  call.set(a.dt, {0.5});
  call.set(a.A, {-4});  // z = −2: Ā = 0, B̄ = dt·B/2
  call.set(a.B, {8});
  call.set(a.C, {3});
  call.set(a.skip, {10});
  call.set(a.x, {1, -2});
  call.set(a.gate_in, {5, 1});
  call.set(a.gate_out, {1, 0.5});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(a.y(0, 0, 0) == 3 * 10 + 10 * 5);  // weight 1 for real modes
    CHECK(a.y(0, 1, 0) == 0.5 * (3 * -4 + 10 * -2));
    CHECK(a.final_state(0, 0, 0, 0) == -4);
  });
}

TEST_CASE("the scan equals convolution with the kernel of the same coefficients") {
  for (const Discretization kind : kinds)
    for (const Index parts : {1, 2})
      for (const Index length : {1, 2, 63, 64, 65, 1000})
        for (const Index batch : {1, 3}) {
          CAPTURE(parts);
          CAPTURE(length);
          NanContext<Reference> ctx;
          Run<double> call({.batch = batch,
                            .length = length,
                            .channels = 2,
                            .rows = 2,
                            .parts = parts,
                            .discretization = kind,
                            .gates = true},
                           Layout::rows);
          const auto& a = call.forward;
          call.evaluate(ctx);
          auto kernel = nan_tensor(2, length);
          diagonal_kernel(ctx, DiagonalKernel<double, HostSpace>{.dt = a.dt,
                                                                 .A = a.A,
                                                                 .B = a.B,
                                                                 .C = a.C,
                                                                 .discretization = kind,
                                                                 .kernel = kernel});
          auto expected = nan_tensor(batch, length, 2);
          causal_convolution(ctx, CausalConvolution<double, HostSpace>{.kernel = kernel,
                                                                       .skip = a.skip,
                                                                       .x = a.x,
                                                                       .gate_in = a.gate_in,
                                                                       .gate_out = a.gate_out,
                                                                       .y = expected});
          CHECK(difference(a.y, expected) < tolerance<double>.value);
        }
}

TEST_CASE("states are carried, kept apart, and updated in place") {
  carries_its_state<Run<double>>(full({.batch = 3}), {0, 1, 40, 65});
  const std::vector<Index> offsets{0, 0, 5, 6, 20};
  packs_sequences<Run<double>>(full({.length = 20, .segments = offsets}));
  for (const Index length : {1, 7, 9, 70}) {
    updates_its_state_in_place<Run<double>>(full({.batch = 3, .length = length}));
    updates_its_state_in_place<Run<float>>({.length = length, .skip = false, .states = true});
  }
}

TEST_CASE("single precision agrees with double precision") {
  rounds_to_single_precision<Run>(full({.batch = 3}));
}

TEST_CASE("a mode with A = 0 integrates its input") {
  const Case test{.length = 65,
                  .modes = 1,
                  .discretization = Discretization::zero_order_hold,
                  .integrates = true};
  rounds_to_single_precision<Run>(test);
  equals_reference<Run<float>>(test);
  equals_reference<Run<double>>(
      {.length = 33, .discretization = Discretization::zero_order_hold, .integrates = true});
}

TEST_CASE("gradients equal central differences for every kind of number and step") {
  for (const Discretization kind : kinds)
    for (const Index parts : {1, 2})
      for (const Index length : {0, 1, 2, 7})
        has_its_gradients<Run<double>>(
            full({.batch = 3, .length = length, .parts = parts, .discretization = kind}));
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  has_its_gradients<Run<double>>(full({.length = 10, .segments = offsets}));
}

TEST_CASE("everything optional may be left out") {
  does_without_optional_operands<Run<double>>(full({.length = 7}));
}

TEST_CASE("operands whose extents disagree are named") {
  Context<Reference> ctx;
  const Run<double> call(full({}), Layout::rows);
  auto operands = call.forward;
  const auto three = zero_tensor(3);
  operands.dt = three;
  CHECK_THROWS_WITH_AS(diagonal_scan(ctx, operands),
                       "diagonal_scan: dt has 3 rows, which do not divide the 4 channels",
                       ShapeError);
  operands = call.forward;
  const auto wide = zero_tensor(2, 3, 3);
  operands.A = wide;
  CHECK_THROWS_WITH_AS(diagonal_scan(ctx, operands),
                       "diagonal_scan: A must have 1 or 2 scalars a number, got 3", ShapeError);
}

TEST_CASE_TEMPLATE("the scan and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 1000})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        equals_reference<Run<T>>({.batch = batch, .length = length, .states = states});
}

TEST_CASE_TEMPLATE("any number of channels and modes, real or complex", T, float, double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index modes : {1, 2, 4, 17, 31, 32, 33, 70})
      for (const Index parts : {1, 2})
        for (const Index length : {1, 40})
          for (const bool states : {false, true})
            equals_reference<Run<T>>({.batch = 2,
                                      .length = length,
                                      .channels = channels,
                                      .rows = channels,
                                      .modes = modes,
                                      .parts = parts,
                                      .gates = states,
                                      .states = states});
}

TEST_CASE_TEMPLATE("channels that share rows add their gradients", T, float, double) {
  for (const Index rows : {1, 3, 12, 16, 48})
    for (const Index length : {1, 70})
      equals_reference<Run<T>>(
          {.batch = 3, .length = length, .channels = 96, .rows = rows, .states = true});
}

TEST_CASE_TEMPLATE("both discretizations, with and without gates and skip", T, float, double) {
  for (const auto kind : kinds)
    for (const Index parts : {1, 2})
      for (const bool gates : {false, true})
        for (const bool skip : {false, true})
          for (const bool states : {false, true})
            for (const Index length : {1, 70})
              equals_reference<Run<T>>({.length = length,
                                        .parts = parts,
                                        .discretization = kind,
                                        .skip = skip,
                                        .gates = gates,
                                        .states = states});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70}) {
      const Case test{.batch = 2, .length = length, .gates = true, .layout = layout};
      equals_reference<Run<T>>(test);
      equals_reference<Run<T>>(test, only<Reference>);
    }
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const bool states : {false, true})
    equals_reference<Run<T>>({.length = 170, .states = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  equals_reference<Run<T>>({.batch = 2, .length = 0, .states = true});
  equals_reference<Run<T>>({.batch = 0, .length = 5, .states = true});
}

TEST_CASE("the same thread count gives the same gradient bits") {
  repeats_its_bits<Run<float>>({.batch = 3, .length = 100, .channels = 96, .rows = 12});
}

#ifdef SSM_TEST_ON_CUDA
using TensorCores = BasicCuda<HostSpace, cuda::TensorCoreKernels>;

TEST_CASE_TEMPLATE("half types are scanned as floats where general kernels are", T, BFloat16,
                   Float16) {
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const Index length : {0, 1, 70})
    for (const Layout layout : all_layouts)
      equals_reference<Run<T>>(
          {.batch = 2, .length = length, .gates = true, .states = true, .layout = layout},
          only<Device>);
  equals_reference<Run<T>>({.length = 170, .states = true, .segments = offsets}, only<Device>);
}

TEST_CASE_TEMPLATE("the tensor cores are given their layout, and what they give back arrives", T,
                   float, BFloat16, Float16) {
  cuda::pretend_tensor_core_kernels(true);
  const Index offsets[] = {0, 0, 1, 40, 40, 170, 170};
  for (const Layout layout : all_layouts)
    for (const Index rows : {1, 4, 12}) {
      CAPTURE(rows);
      equals_reference<Run<T>>({.batch = 2,
                                .length = 70,
                                .channels = 12,
                                .rows = rows,
                                .skip = rows > 1,
                                .gates = rows > 4,
                                .states = rows < 12,
                                .layout = layout},
                               only<TensorCores>);
      equals_reference<Run<T>>(
          {.length = 170, .channels = 12, .rows = rows, .states = true, .segments = offsets},
          only<TensorCores>);
    }
  cuda::pretend_tensor_core_kernels(false);
}

TEST_CASE_TEMPLATE("the gradient goes on from states that the forward call keeps", T, float,
                   BFloat16, Float16) {
  cuda::pretend_tensor_core_kernels(true);
  for (const Index length : {70, 1024, 1100, 2048, 4200})
    for (const bool states : {false, true}) {
      const Case test{.batch = 2,
                      .length = length,
                      .channels = 70,
                      .rows = 70,
                      .gates = states,
                      .states = states,
                      .fastest = 5,
                      .keeps = true};
      equals_reference<Run<T>>(test, only<TensorCores>);
    }
  cuda::pretend_tensor_core_kernels(false);
  NanContext<TensorCores> ctx;
  Run<float> call({.length = 70}, Layout::rows);
  DynamicTensor<float, 1> kept({kept_numbers(ctx, call.forward) + 1});
  call.forward.kept = kept;
  CHECK_THROWS_AS(diagonal_scan(ctx, call.forward), ShapeError);
}

TEST_CASE_TEMPLATE("whichever kernels are chosen update the state in place", T, float, double) {
  for (const Index length : {1, 9, 70})
    updates_its_state_in_place<Run<T>>({.length = length, .skip = false, .states = true},
                                       only<BasicCuda<HostSpace>>);
}

TEST_CASE("gradients that nobody wants are not written") {
  for (const bool tensor_cores : {false, true}) {
    cuda::pretend_tensor_core_kernels(tensor_cores);
    const Case test{.length = 70, .gates = true, .states = true};
    Context<Reference> reference;
    Run<float> expected(test, Layout::rows);
    compute(reference, expected);
    Context<TensorCores> ctx;
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
#endif

}  // namespace
}  // namespace ssm::test
