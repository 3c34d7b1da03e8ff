// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/diagonal_kernel.hpp"

#include <array>
#include <numbers>

#include "ssm/op/diagonal_parameters.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

constexpr Discretization discretizations[] = {Discretization::bilinear,
                                              Discretization::zero_order_hold};

struct Case {
  Index rows = 3, modes = 5, parts = 2, length = 65;
  Discretization discretization = Discretization::bilinear;
  double fastest = 20;  // imaginary part of A
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<DiagonalKernel<T, HostSpace>, DiagonalKernelBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'R', test.rows}, {'P', test.modes}, {'Z', test.parts}, {'L', test.length}}, layout,
            {}, {}, InputGradients::overwritten, layout) {
    this->forward.discretization = test.discretization;
    for_each_element([](T& dt) { dt = T(0.1) + T(0.09) * dt; }, this->writable(this->forward.dt));
    const auto A = this->writable(this->forward.A);
    for_each_index(A, [&](Index r, Index p, Index part) {
      T& a = A(r, p, part);
      a = part == 0 ? T(-0.6) + T(0.5) * a : static_cast<T>(test.fastest) * a;
    });
  }
  void evaluate(auto& ctx) { diagonal_kernel(ctx, this->forward); }
  void differentiate(auto& ctx) { diagonal_kernel_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasDiagonalKernel<B, T>;
};

TEST_CASE("the kernel from learned parameters is the published one of H3") {
  const Index rows = 4;
  const Index modes = 4;
  auto log_dt = wave_tensor(0.5, 1.0, rows);
  auto inv_A_real = wave_tensor(0.1, 1.2, rows, modes);
  auto A_imag = wave_tensor(0.1, 1.3, rows, modes);
  auto B = wave_tensor(0.1, 1.1, rows, modes, 2);
  const auto C = wave_tensor(0.7, 1.4, rows, modes, 2);
  for (Index r = 0; r < rows; ++r) {
    log_dt(r) += std::log(0.05);
    for (Index p = 0; p < modes; ++p) {
      inv_A_real(r, p) += std::log(0.5);
      A_imag(r, p) += std::numbers::pi * static_cast<double>(p);
      B(r, p, 0) += 1;
    }
  }
  constexpr double half_of_last_digit = 0.5e-7 * 1.01;
  const std::array first{0.0182848, 0.0973874, 0.1851036, 0.2533905, 0.2808096, 0.2597823};
  const std::array last{0.0396732, 0.0433410, 0.0392559, 0.0242044, -0.0026978, -0.0396372};
  on_each_backend<Run<double>>([&](auto& ctx) {
    auto dt = nan_tensor(rows);
    auto A = nan_tensor(rows, modes, 2);
    diagonal_parameters(
        ctx, DiagonalParameters<double, HostSpace>{
                 .log_dt = log_dt, .inv_A_real = inv_A_real, .A_imag = A_imag, .dt = dt, .A = A});
    auto kernel = nan_tensor(rows, 6);
    diagonal_kernel(
        ctx, DiagonalKernel<double, HostSpace>{.dt = dt, .A = A, .B = B, .C = C, .kernel = kernel});
    for (Index l = 0; l < 6; ++l) {
      CHECK(std::abs(kernel(0, l) - first[static_cast<std::size_t>(l)]) < half_of_last_digit);
      CHECK(std::abs(kernel(3, l) - last[static_cast<std::size_t>(l)]) < half_of_last_digit);
    }
  });
}

TEST_CASE("a real mode decays from its first value") {
  Run<double> call({.rows = 1, .modes = 1, .parts = 1, .length = 3}, Layout::rows);
  auto& a = call.forward;
  call.set(a.dt, {0.5});
  call.set(a.A, {-2});  // z = −1: Ā = 1/3, B̄ = dt·B/1.5
  call.set(a.B, {3});
  call.set(a.C, {9});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(difference(a.kernel, tensor_of({9, 3, 1}).reshape(1, 3)) < tolerance<double>.value);
  });
}

TEST_CASE("gradients equal central differences and are added to") {
  for (const Discretization kind : discretizations)
    for (const Index parts : {1, 2})
      for (const Index length : {0, 1, 2, 9})
        has_its_gradients<Run<double>>({.rows = 2,
                                        .modes = 3,
                                        .parts = parts,
                                        .length = length,
                                        .discretization = kind,
                                        .fastest = 1});
}

TEST_CASE("single precision agrees with double precision over a long kernel") {
  rounds_to_single_precision<Run>({.rows = 2, .modes = 3, .length = 1000, .fastest = 1});
}

TEST_CASE("a kernel with other rows than the coefficients is refused") {
  Context<Reference> ctx;
  Run<double> call({.rows = 2, .modes = 3}, Layout::rows);
  auto kernel = nan_tensor(3, 5);
  call.forward.kernel = kernel;
  CHECK_THROWS_WITH_AS(call.evaluate(ctx), "diagonal_kernel: kernel must be [2, *], got [3, 5]",
                       ShapeError);
}

TEST_CASE_TEMPLATE("the kernel and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {0, 1, 2, 15, 16, 17, 63, 64, 65, 1000})
    for (const Index parts : {1, 2}) equals_reference<Run<T>>({.parts = parts, .length = length});
}

TEST_CASE_TEMPLATE("any number of rows and modes, both discretizations, any layout", T, float,
                   double) {
  for (const auto kind : discretizations)
    for (const Index rows : {0, 1, 3, 4})
      for (const Index modes : {1, 3, 4, 16, 17, 32})
        for (const Index parts : {1, 2})
          for (const Layout layout : all_layouts)
            equals_reference<Run<T>>({.rows = rows,
                                      .modes = modes,
                                      .parts = parts,
                                      .discretization = kind,
                                      .layout = layout});
}

}  // namespace
}  // namespace ssm::test
