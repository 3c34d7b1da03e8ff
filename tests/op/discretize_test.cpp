// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/discretize.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <string>

#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

static_assert(Complex<double>{1, 2} * Complex<double>{3, -1} == Complex<double>{5, 5});
static_assert(1.0 / Complex<double>{0, 2} == Complex<double>{0, -0.5});
static_assert(conjugate(Complex<float>{1, 2}) == Complex<float>{1, -2});
static_assert(conjugate(3.0) == 3.0 && real_part(Complex<float>{1, 2}) == 1);

constexpr Discretization kinds[] = {Discretization::bilinear, Discretization::zero_order_hold};

TEST_CASE("one real mode is discretized by the printed formulas") {
  // z = 0.5·(−2) = −1
  const auto bilinear = discretize(Discretization::bilinear, 0.5, -2.0, 3.0);
  CHECK(std::abs(bilinear.A - 1.0 / 3) < tolerance<double>.value);
  CHECK(std::abs(bilinear.B - 1.0) < tolerance<double>.value);
  const auto held = discretize(Discretization::zero_order_hold, 0.5, -2.0, 3.0);
  CHECK(std::abs(held.A - std::exp(-1.0)) < tolerance<double>.value);
  CHECK(std::abs(held.B - 1.5 * (1 - std::exp(-1.0))) < tolerance<double>.value);
}

TEST_CASE("a held input through a mode of rate zero is integrated exactly") {
  const auto real = discretize(Discretization::zero_order_hold, 0.1, 0.0, 3.0);
  CHECK(real.A == 1.0);
  CHECK(real.B == doctest::Approx(0.3).epsilon(tolerance<double>.value));
  const auto complex =
      discretize(Discretization::zero_order_hold, 0.1F, Complex<float>{}, Complex<float>{1, 2});
  CHECK(complex.A == Complex<float>{1, 0});
  CHECK(complex.B == 0.1F * Complex<float>{1, 2});
}

TEST_CASE("the held input keeps its digits from tiny rates to large ones") {
  for (const double angle : {1.6, 2.2, 3.1})
    for (double radius = 1e-18; radius < 30; radius *= 1.7) {
      CAPTURE(radius);
      const std::complex<long double> z(radius * std::cos(angle), radius * std::sin(angle));
      // (eᶻ − 1)/z = e^{z/2}·sinh(z/2)/(z/2); the quotient is 1 + z²/24 to the last bit where z is
      // small
      const auto half = z / 2.0L;
      const auto gain = std::exp(half) *
                        (std::abs(z) < 1e-6L ? 1.0L + half * half / 6.0L : std::sinh(half) / half);
      const Complex<double> A{static_cast<double>(z.real()), static_cast<double>(z.imag())};
      const auto mode = discretize(Discretization::zero_order_hold, 1.0, A, Complex<double>{1, 0});
      CHECK(std::abs(mode.B.re - static_cast<double>(gain.real())) < tolerance<double>.value);
      CHECK(std::abs(mode.B.im - static_cast<double>(gain.imag())) < tolerance<double>.value);
    }
}

TEST_CASE("the gradient of a complex discretization equals central differences") {
  for (const Discretization kind : kinds)
    for (const double rate : {0.0, 1e-3, 0.9, 1.1, 8.0}) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(rate);
      auto v = tensor_of({0.8, -0.3 * rate, rate, 0.7, -0.4});  // dt, A, B
      const Complex<double> dA_bar{0.3, -0.8};
      const Complex<double> dB_bar{-0.5, 0.9};
      const auto loss = [&] {
        const auto mode = discretize(kind, v(0), Complex<double>{v(1), v(2)}, {v(3), v(4)});
        return real_part(mode.A * conjugate(dA_bar)) + real_part(mode.B * conjugate(dB_bar));
      };
      const auto g = discretize_backward(kind, v(0), Complex<double>{v(1), v(2)}, {v(3), v(4)},
                                         {.A = dA_bar, .B = dB_bar});
      const auto gradient = tensor_of({g.ddt, g.dA.re, g.dA.im, g.dB.re, g.dB.im});
      CHECK(gradient_error(loss, v, gradient) < tolerance<double>.gradient);
    }
}

TEST_CASE("the gradient of a real discretization equals central differences") {
  for (const Discretization kind : kinds) {
    auto v = tensor_of({0.8, -1.7, 0.6});  // dt, A, B
    const auto loss = [&] {
      const auto mode = discretize(kind, v(0), v(1), v(2));
      return 0.3 * mode.A - 0.5 * mode.B;
    };
    const auto g = discretize_backward(kind, v(0), v(1), v(2), {.A = 0.3, .B = -0.5});
    CHECK(gradient_error(loss, v, tensor_of({g.ddt, g.dA, g.dB})) < tolerance<double>.gradient);
  }
}

TEST_CASE("a wrong gradient is noticed") {
  auto v = tensor_of({0.8, -1.7});
  const auto loss = [&] { return v(0) * v(0) + v(1); };
  CHECK(gradient_error(loss, v, tensor_of({1.6, 1})) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, v, tensor_of({1.6, 1.001})) > tolerance<double>.gradient);
  CHECK(gradient_error(loss, v, tensor_of({std::nan(""), 1})) > tolerance<double>.gradient);
}

}  // namespace
}  // namespace ssm::test
