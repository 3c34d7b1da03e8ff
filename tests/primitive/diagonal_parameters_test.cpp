// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/diagonal_parameters.hpp"

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index rows = 3, modes = 5;
  bool complex = true, steps = true;
  Layout layout = Layout::rows;
};

template <class T>
struct Run
    : OperandRun<DiagonalParameters<T, HostSpace>, DiagonalParametersBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'R', test.rows}, {'P', test.modes}, {'Z', test.complex ? 2 : 1}}, layout, {},
            left_out({{"log_dt", test.steps}, {"dt", test.steps}, {"A_imag", test.complex}}),
            InputGradients::overwritten, layout) {}
  void evaluate(auto& ctx) { diagonal_parameters(ctx, this->forward); }
  void differentiate(auto& ctx) { diagonal_parameters_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasDiagonalParameters<B, T>;
};

TEST_CASE("logarithms become steps and decays") {
  Run<double> call({.rows = 1, .modes = 2}, Layout::rows);
  auto& a = call.forward;
  call.set(a.log_dt, {std::log(0.05)});
  call.set(a.inv_A_real, {std::log(0.5), std::log(3.0)});
  call.set(a.A_imag, {7, -8});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(difference(a.dt, tensor_of({0.05})) < tolerance<double>.value);
    CHECK(difference(a.A, tensor_of({-0.5, 7, -3, -8}).reshape(1, 2, 2)) < tolerance<double>.value);
  });
}

TEST_CASE("gradients equal central differences for complex and real modes and are added to") {
  for (const bool complex : {false, true})
    for (const bool steps : {false, true})
      has_its_gradients<Run<double>>({.rows = 2, .modes = 3, .complex = complex, .steps = steps});
}

TEST_CASE("complex modes without an imaginary part are refused") {
  Context<Reference> ctx;
  Run<double> call({.rows = 1, .modes = 3}, Layout::rows);
  call.forward.A_imag = {};
  CHECK_THROWS_WITH_AS(call.evaluate(ctx),
                       "diagonal_parameters: A must be [1, 3, 1], got [1, 3, 2]", ShapeError);
}

TEST_CASE_TEMPLATE("dt, A and their gradients equal the reference, real and complex, in any layout",
                   T, float, double) {
  for (const Index rows : {0, 1, 17, 300})
    for (const Index modes : {1, 5, 16, 33})
      for (const bool complex : {false, true})
        for (const bool steps : {false, true})
          for (const Layout layout : all_layouts)
            equals_reference<Run<T>>({rows, modes, complex, steps, layout});
}

}  // namespace
}  // namespace ssm::test
