// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/s4d.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <map>
#include <numbers>
#include <string>

#include "ssm/backend/reference.hpp"

namespace {

using namespace ssm;
using Complex = std::complex<double>;

/// The definition, with the length-L kernel written out.
template <class P>
double expected_output(const P& p, const DynamicTensor<double, 3>& x, Index t, Index channel) {
  const auto gelu = [](double u) { return 0.5 * u * (1 + std::erf(u / std::numbers::sqrt2)); };
  double y = p.output_linear.bias(channel);
  for (Index d = 0; d < x.extent(2); ++d) {
    const double dt = std::exp(p.log_dt(d));
    double sum = p.D(0, d) * x(0, t, d);
    for (Index n = 0; n < p.w_imag.extent(1); ++n) {
      const Complex A(-std::exp(p.log_w_real(0, n)), p.w_imag(0, n));
      const Complex C(p.C(0, d, n, 0), p.C(0, d, n, 1));
      for (Index s = 0; s <= t; ++s) {
        const Complex power = std::exp(A * dt * static_cast<double>(t - s));
        sum += 2 * std::real(C * (std::exp(A * dt) - 1.0) / A * power) * x(0, s, d);
      }
    }
    y += p.output_linear.weight(channel, d) * gelu(sum);
  }
  return y;
}

TEST_CASE("S4D is the convolution of its definition, a GELU and a linear map") {
  const S4D<S4DConfig{.channels = 4, .state = 8}> layer;
  Context<Reference> ctx;
  const auto p = layer.initialize<double>(ctx, Seed{3});
  DynamicTensor<double, 3> x({1, 9, 4});
  const Random random(Seed{4});
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal(static_cast<std::uint64_t>(i));
  DynamicTensor<double, 3> y({1, 9, 4});
  layer.forward(ctx, p, x, y);
  for (Index t = 0; t < 9; ++t)
    for (Index d = 0; d < 4; ++d)
      CHECK(std::abs(y(0, t, d) - expected_output(p, x, t, d)) <= tolerance<double>.value);
}

TEST_CASE("S4D starts with the published frequencies, and answers a constant with variance one") {
  constexpr Index channels = 4000;
  const S4D<S4DConfig{.channels = channels, .state = 64}> layer;
  Context<Reference> ctx;
  const auto p = layer.initialize<double>(ctx, Seed{1});
  for (Index n = 0; n < 32; ++n) {
    CHECK(p.log_w_real(0, n) == std::log(0.5 + 1e-4));
    CHECK(p.w_imag(0, n) ==
          doctest::Approx(64 / std::numbers::pi * (64.0 / static_cast<double>(2 * n + 1) - 1)));
  }
  double variance = 0;
  for (Index d = 0; d < channels; ++d) {
    Complex response = 0;  // ∫ K dt of a mode is −C/A
    for (Index n = 0; n < 32; ++n)
      response -= Complex(p.C(0, d, n, 0), p.C(0, d, n, 1)) / Complex(-0.5, p.w_imag(0, n));
    variance += std::pow(2 * response.real(), 2) / channels;
    CHECK(p.log_dt(d) >= std::log(0.001));
    CHECK(p.log_dt(d) <= std::log(0.1));
  }
  // 2·Re of a complex normal of variance ½ has variance one; five standard errors of the estimate.
  CHECK(std::abs(variance - 1) <= 5 * std::sqrt(2.0 / channels));
}

TEST_CASE("S4D names its tensors as safari does, and only the dynamics refuse weight decay") {
  const S4D<S4DConfig{.channels = 2, .state = 4}> layer;
  Context<Reference> ctx;
  const auto p = layer.initialize(ctx, Seed{1});
  std::map<std::string, bool> decays;
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto&) {
        CHECK(spec.own_learning_rate == !spec.weight_decay);
        decays[spec.name] = spec.weight_decay;
      },
      p);
  CHECK(decays == std::map<std::string, bool>{{"kernel.kernel.log_dt", false},
                                              {"kernel.kernel.log_w_real", false},
                                              {"kernel.kernel.w_imag", false},
                                              {"kernel.kernel.C", true},
                                              {"D", true},
                                              {"output_linear.weight", true},
                                              {"output_linear.bias", true}});
}

TEST_CASE("S4D refuses an odd state size") {
  using Odd = S4D<S4DConfig{.channels = 2, .state = dyn}>;
  CHECK_THROWS_AS(Odd({.state = 5}), ArgumentError);
}

}  // namespace
