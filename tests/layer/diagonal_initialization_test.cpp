// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/diagonal_initialization.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "ssm/core/scalar.hpp"  // tolerance

namespace {

using ssm::DiagonalMeasure;
using ssm::Index;
using std::numbers::pi;

bool near(double x, double y) {
  return std::abs(x - y) <= ssm::tolerance<double>.value * std::max(1.0, std::abs(y));
}

std::vector<double> frequencies(DiagonalMeasure measure, Index state, Index modes) {
  return ssm::measure_frequencies(measure, state, modes, ssm::Random(ssm::Seed{1}), 0);
}

TEST_CASE("lin, inv, inv2 and quad are the published formulas") {
  const auto lin = frequencies(DiagonalMeasure::lin, 64, 32);
  const auto inv = frequencies(DiagonalMeasure::inv, 64, 32);
  const auto inv2 = frequencies(DiagonalMeasure::inv2, 64, 32);
  const auto quad = frequencies(DiagonalMeasure::quad, 64, 32);
  CHECK(lin.size() == 32);
  CHECK(near(lin[0], 0));
  CHECK(near(lin[31], 31 * pi));
  CHECK(near(inv[0], 64 * 63 / pi));
  CHECK(near(inv[31], 64 / pi * (64.0 / 63 - 1)));
  CHECK(near(inv2[0], 64 * 63 / pi));
  CHECK(near(inv2[31], 64 / pi));
  CHECK(near(quad[0], 1 / pi));
  CHECK(near(quad[31], 63 * 63 / pi));
}

TEST_CASE("real modes have no frequency") {
  for (const double frequency : frequencies(DiagonalMeasure::real, 8, 8)) CHECK(frequency == 0);
}

TEST_CASE("random frequencies are normal, follow the seed and differ from channel to channel") {
  const ssm::Random draw(ssm::Seed{1});
  const auto first = ssm::measure_frequencies(DiagonalMeasure::random, 4000, 2000, draw, 0);
  const auto again = ssm::measure_frequencies(DiagonalMeasure::random, 4000, 2000, draw, 0);
  const auto next = ssm::measure_frequencies(DiagonalMeasure::random, 4000, 2000, draw, 2000);
  CHECK(first == again);
  CHECK(first != next);
  double mean = 0;
  double square = 0;
  for (const double frequency : first) {
    mean += frequency / 2000;
    square += frequency * frequency / 2000;
  }
  CHECK(std::abs(mean) < 0.1);
  CHECK(std::abs(square - 1) < 0.15);
}

TEST_CASE("legs frequencies of two states are one half of the root of three") {
  const auto omega = ssm::legs_frequencies(2);
  REQUIRE(omega.size() == 1);
  CHECK(near(omega[0], std::sqrt(3.0) / 2));
}

TEST_CASE("legs frequencies of four states solve the characteristic polynomial by hand") {
  // ω⁴ − c·ω² + p² for a skew matrix s: c = Σ s², p = s01·s23 − s02·s13 + s03·s12 (the Pfaffian).
  const auto s = [](double n, double k) { return std::sqrt((2 * n + 1) * (2 * k + 1)) / 2; };
  double c = 0;
  for (int n = 0; n < 4; ++n)
    for (int k = 0; k < n; ++k) c += s(n, k) * s(n, k);
  const double p = s(0, 1) * s(2, 3) - s(0, 2) * s(1, 3) + s(0, 3) * s(1, 2);
  const double root = std::sqrt(c * c / 4 - p * p);
  const auto omega = ssm::legs_frequencies(4);
  REQUIRE(omega.size() == 2);
  CHECK(near(omega[0], std::sqrt(c / 2 - root)));
  CHECK(near(omega[1], std::sqrt(c / 2 + root)));
}

TEST_CASE("legs frequencies of three states leave out the zero") {
  const auto omega = ssm::legs_frequencies(3);
  REQUIRE(omega.size() == 1);
  CHECK(near(omega[0], std::sqrt(23.0) / 2));  // Σ s² = (3 + 5 + 15) / 4
}

TEST_CASE("legs frequencies of 64 states rise and have the sum of squares of their matrix") {
  const auto omega = ssm::legs_frequencies(64);
  REQUIRE(omega.size() == 32);
  double sum = 0;
  double previous = 0;
  for (const double w : omega) {
    CHECK(w > previous);
    previous = w;
    sum += w * w;
  }
  double expected = 0;  // half of trace(−S²) counts each pair once
  for (int n = 0; n < 64; ++n)
    for (int k = 0; k < n; ++k) expected += (2 * n + 1) * (2 * k + 1) / 4.0;
  CHECK(near(sum, expected));
}

}  // namespace
