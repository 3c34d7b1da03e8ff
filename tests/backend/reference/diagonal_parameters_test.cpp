// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/diagonal_parameters.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("logarithms become steps and decays") {
  Context<Reference> ctx;
  const auto log_dt = tensor_of({std::log(0.05)});
  const auto inv_A_real = tensor_of({std::log(0.5), std::log(3.0)});
  const auto A_imag = tensor_of({7, -8});
  auto dt = nan_tensor(1);
  auto A = nan_tensor(1, 2, 2);
  diagonal_parameters(ctx,
                      DiagonalParameters<double, HostSpace>{.log_dt = log_dt,
                                                            .inv_A_real = inv_A_real.reshape(1, 2),
                                                            .A_imag = A_imag.reshape(1, 2),
                                                            .dt = dt,
                                                            .A = A});
  CHECK(difference(dt, tensor_of({0.05})) < tolerance<double>.value);
  CHECK(difference(A, tensor_of({-0.5, 7, -3, -8}).reshape(1, 2, 2)) < tolerance<double>.value);
}

TEST_CASE("gradients equal central differences for complex and real modes and are added to") {
  for (const Index parts : {1, 2}) {
    CAPTURE(parts);
    Context<Reference> ctx;
    auto log_dt = random_tensor("log_dt", 2);
    auto inv_A_real = random_tensor("inv_A_real", 2, 3);
    auto A_imag = random_tensor("A_imag", 2, 3);
    auto dt = nan_tensor(2);
    auto A = nan_tensor(2, 3, parts);
    DiagonalParameters<double, HostSpace> forward{
        .log_dt = log_dt, .inv_A_real = inv_A_real, .dt = dt, .A = A};
    const auto ddt = random_tensor("ddt", 2);
    const auto dA = random_tensor("dA", 2, 3, parts);
    auto dlog_dt = zero_tensor(2);
    auto dinv_A_real = zero_tensor(2, 3);
    auto dA_imag = zero_tensor(2, 3);
    DiagonalParametersBackward<double, HostSpace> backward{
        .dt = dt, .A = A, .ddt = ddt, .dA = dA, .dlog_dt = dlog_dt, .dinv_A_real = dinv_A_real};
    if (parts == 2) {
      forward.A_imag = A_imag;
      backward.dA_imag = dA_imag;
    }
    diagonal_parameters(ctx, forward);
    diagonal_parameters_backward(ctx, backward);
    const double once = dinv_A_real(1, 2);
    const auto loss = [&] {
      diagonal_parameters(ctx, forward);
      return inner_product(ddt, dt) + inner_product(dA, A);
    };
    CHECK(gradient_error(loss, log_dt, dlog_dt) < tolerance<double>.gradient);
    CHECK(gradient_error(loss, inv_A_real, dinv_A_real) < tolerance<double>.gradient);
    CHECK(gradient_error(loss, A_imag, dA_imag) < tolerance<double>.gradient);
    diagonal_parameters(ctx, forward);
    diagonal_parameters_backward(ctx, backward);
    CHECK(dinv_A_real(1, 2) == 2 * once);
  }
}

TEST_CASE("complex modes without an imaginary part are refused") {
  Context<Reference> ctx;
  const auto log_dt = zero_tensor(1);
  const auto inv_A_real = zero_tensor(1, 3);
  auto dt = nan_tensor(1);
  auto A = nan_tensor(1, 3, 2);
  CHECK_THROWS_WITH_AS(
      diagonal_parameters(ctx,
                          DiagonalParameters<double, HostSpace>{
                              .log_dt = log_dt, .inv_A_real = inv_A_real, .dt = dt, .A = A}),
      "diagonal_parameters: A must be [1, 3, 1], got [1, 3, 2]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
