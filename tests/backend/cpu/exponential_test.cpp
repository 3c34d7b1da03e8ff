// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/exponential.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace ssm;

namespace {

template <class T>
using Register = cpu::Batch<T, xsimd::default_arch>;

/// The largest relative error of f over −range … range, in units of the last place.
template <class T, class F, class G>
double largest_error(double range, F&& f, G&& exact) {
  double error = 0;
  for (int i = -20000; i <= 20000; ++i) {
    const T x = static_cast<T>(range * i / 20000);
    const T value = cpu::largest_lane<T, xsimd::default_arch>(f(Register<T>(x)));
    const long double expected = exact(static_cast<long double>(x));
    error = std::max(error, static_cast<double>(std::abs((value - expected) / expected)));
  }
  return error / std::numeric_limits<T>::epsilon();
}

constexpr double places = 4;

}  // namespace

TEST_CASE_TEMPLATE("exponentials are right to the last places", T, float, double) {
  const double range = std::numeric_limits<T>::max_exponent - 2;
  CHECK(largest_error<T>(
            range, [](auto x) { return cpu::exp2_of(x); },
            [](long double x) { return std::exp2(x); }) < places);
  CHECK(largest_error<T>(
            1, [](auto x) { return cpu::exp_of(x); }, [](long double x) { return std::exp(x); }) <
        places);
}

TEST_CASE_TEMPLATE("sigmoid and softplus keep their relative precision", T, float, double) {
  CHECK(largest_error<T>(
            1, [](auto x) { return cpu::sigmoid_of(x); },
            [](long double x) { return 1 / (1 + std::exp(-x)); }) < places);
  CHECK(largest_error<T>(
            1, [](auto x) { return cpu::softplus_of(x); },
            [](long double x) { return std::log1p(std::exp(x)); }) < places);
  // The argument's own rounding counts as often as the exponent is large.
  CHECK(largest_error<T>(
            30, [](auto x) { return cpu::softplus_of(x); },
            [](long double x) { return std::max(x, 0.0L) + std::log1p(std::exp(-std::abs(x))); }) <
        30 * places);
}

TEST_CASE_TEMPLATE("the ends are zero, one and infinity, and NaN stays NaN", T, float, double) {
  const auto lane = [](const Register<T>& x) {
    return cpu::largest_lane<T, xsimd::default_arch>(x);
  };
  const T far = 3000;
  CHECK(lane(cpu::exp2_of(Register<T>(T{0}))) == 1);
  CHECK(lane(cpu::exp2_of(Register<T>(-far))) <= std::numeric_limits<T>::min());
  CHECK(std::isinf(lane(cpu::exp2_of(Register<T>(far)))));
  CHECK(std::isnan(lane(cpu::exp2_of(Register<T>(std::numeric_limits<T>::quiet_NaN())))));
  CHECK(lane(cpu::sigmoid_of(Register<T>(-far))) == 0);
  CHECK(lane(cpu::sigmoid_of(Register<T>(far))) == 1);
  CHECK(lane(cpu::softplus_of(Register<T>(far))) == far);
  CHECK(std::isnan(lane(cpu::softplus_of(Register<T>(std::numeric_limits<T>::quiet_NaN())))));
}

TEST_CASE_TEMPLATE("sine and cosine are right to the last places, whatever the angle", T, float,
                   double) {
  const auto lane = [](const Register<T>& x) {
    return cpu::largest_lane<T, xsimd::default_arch>(x);
  };
  double error = 0;
  const auto look = [&](T x) {
    const auto [sine, cosine] = cpu::sine_cosine_of(Register<T>(x));
    const auto exact = static_cast<long double>(x);
    error = std::max({error, static_cast<double>(std::abs(lane(sine) - std::sin(exact))),
                      static_cast<double>(std::abs(lane(cosine) - std::cos(exact)))});
  };
  for (const double range : {1.0, 30.0, 1e4, 1e6, 1e9})
    for (int i = -4000; i <= 4000; ++i) look(static_cast<T>(range * i / 4000));
  for (int quarter = -9; quarter <= 9; ++quarter)
    look(static_cast<T>(quarter * 1.5707963267948966));
  CHECK(error / std::numeric_limits<T>::epsilon() < 2);
  const auto [sine, cosine] = cpu::sine_cosine_of(Register<T>(std::numeric_limits<T>::infinity()));
  CHECK(std::isnan(lane(sine)));
  CHECK(std::isnan(lane(cosine)));
}
