// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/diagonal_kernel.hpp"

#include <doctest/doctest.h>

#include <array>
#include <numbers>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

constexpr Discretization kinds[] = {Discretization::bilinear, Discretization::zero_order_hold};

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
  Context<Reference> ctx;
  auto dt = nan_tensor(rows);
  auto A = nan_tensor(rows, modes, 2);
  diagonal_parameters(
      ctx, DiagonalParameters<double, HostSpace>{
               .log_dt = log_dt, .inv_A_real = inv_A_real, .A_imag = A_imag, .dt = dt, .A = A});
  auto kernel = nan_tensor(rows, 6);
  diagonal_kernel(
      ctx, DiagonalKernel<double, HostSpace>{.dt = dt, .A = A, .B = B, .C = C, .kernel = kernel});
  constexpr double half_of_last_digit = 0.5e-7 * 1.01;
  const std::array first{0.0182848, 0.0973874, 0.1851036, 0.2533905, 0.2808096, 0.2597823};
  const std::array last{0.0396732, 0.0433410, 0.0392559, 0.0242044, -0.0026978, -0.0396372};
  for (Index l = 0; l < 6; ++l) {
    CHECK(std::abs(kernel(0, l) - first[static_cast<std::size_t>(l)]) < half_of_last_digit);
    CHECK(std::abs(kernel(3, l) - last[static_cast<std::size_t>(l)]) < half_of_last_digit);
  }
}

TEST_CASE("a real mode decays from its first value") {
  Context<Reference> ctx;
  const auto dt = tensor_of({0.5});
  const auto A = tensor_of({-2});  // z = −1: Ā = 1/3, B̄ = dt·B/1.5
  const auto B = tensor_of({3});
  const auto C = tensor_of({9});
  auto kernel = nan_tensor(1, 3);
  diagonal_kernel(ctx, DiagonalKernel<double, HostSpace>{.dt = dt,
                                                         .A = A.reshape(1, 1, 1),
                                                         .B = B.reshape(1, 1, 1),
                                                         .C = C.reshape(1, 1, 1),
                                                         .kernel = kernel});
  CHECK(difference(kernel, tensor_of({9, 3, 1}).reshape(1, 3)) < tolerance<double>.value);
}

TEST_CASE("gradients equal central differences and are added to") {
  for (const Discretization kind : kinds)
    for (const Index parts : {1, 2})
      for (const Index length : {0, 1, 2, 9}) {
        CAPTURE(static_cast<int>(kind));
        CAPTURE(parts);
        CAPTURE(length);
        Context<Reference> ctx;
        auto dt = tensor_of({0.2, 0.9});
        auto A = random_tensor("A", 2, 3, parts);
        auto B = random_tensor("B", 2, 3, parts);
        auto C = random_tensor("C", 2, 3, parts);
        auto kernel = nan_tensor(2, length);
        const auto dkernel = random_tensor("dkernel", 2, length);
        const DiagonalKernel<double, HostSpace> forward{
            .dt = dt, .A = A, .B = B, .C = C, .discretization = kind, .kernel = kernel};
        auto ddt = zero_tensor(2);
        auto dA = zero_tensor(2, 3, parts);
        auto dB = zero_tensor(2, 3, parts);
        auto dC = zero_tensor(2, 3, parts);
        const DiagonalKernelBackward<double, HostSpace> backward{
            .forward = forward, .dkernel = dkernel, .ddt = ddt, .dA = dA, .dB = dB, .dC = dC};
        diagonal_kernel_backward(ctx, backward);
        const auto loss = [&] {
          diagonal_kernel(ctx, forward);
          return inner_product(dkernel, kernel);
        };
        CHECK(gradient_error(loss, dt, ddt) < tolerance<double>.gradient);
        CHECK(gradient_error(loss, A, dA) < tolerance<double>.gradient);
        CHECK(gradient_error(loss, B, dB) < tolerance<double>.gradient);
        CHECK(gradient_error(loss, C, dC) < tolerance<double>.gradient);
        const double once = dC(1, 2, 0);
        diagonal_kernel_backward(ctx, backward);
        CHECK(dC(1, 2, 0) == 2 * once);
      }
}

TEST_CASE("single precision agrees with double precision over a long kernel") {
  const auto kernel_of = [](auto zero) {
    using T = decltype(zero);
    Context<Reference> ctx;
    const auto dt = tensor_of<T>({0.01, 0.1});
    auto A = random_tensor<T>("A", 2, 3, 2);
    const auto B = random_tensor<T>("B", 2, 3, 2);
    const auto C = random_tensor<T>("C", 2, 3, 2);
    for (Index r = 0; r < 2; ++r)
      for (Index p = 0; p < 3; ++p) A(r, p, 0) = T(-0.5);
    auto kernel = nan_tensor<T>(2, 1000);
    diagonal_kernel(
        ctx, DiagonalKernel<T, HostSpace>{.dt = dt, .A = A, .B = B, .C = C, .kernel = kernel});
    return kernel;
  };
  CHECK(difference(kernel_of(float{}), kernel_of(double{})) < tolerance<float>.value);
}

TEST_CASE("a kernel with other rows than the coefficients is refused") {
  Context<Reference> ctx;
  const auto dt = zero_tensor(2);
  const auto A = zero_tensor(2, 3, 2);
  auto kernel = nan_tensor(3, 5);
  CHECK_THROWS_WITH_AS(diagonal_kernel(ctx,
                                       DiagonalKernel<double, HostSpace>{
                                           .dt = dt, .A = A, .B = A, .C = A, .kernel = kernel}),
                       "diagonal_kernel: kernel must be [2, *], got [3, 5]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
