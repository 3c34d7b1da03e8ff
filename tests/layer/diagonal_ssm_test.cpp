// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/diagonal_ssm.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <numbers>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "ssm/core/compare.hpp"
#include "ssm/core/elementwise.hpp"
#include "ssm/core/fill_random.hpp"
#include "support/backends.hpp"

namespace {

using ssm::DiagonalForm;
using ssm::DiagonalMeasure;
using ssm::DiagonalSsm;
using ssm::DiagonalSsmConfig;
using ssm::Discretization;
using ssm::dyn;
using ssm::Index;
using std::numbers::pi;

/// The same parameters, and a sequence through them in another form of the layer.
template <class T, class B, class L, class P>
ssm::DynamicTensor<T, 3> run(const L& layer, const P& from, const ssm::DynamicTensor<T, 3>& x) {
  ssm::Context<B> ctx;
  auto p = layer.template zero_parameters<T>(ctx);
  ssm::copy_parameters(from, p);
  ssm::DynamicTensor<T, 3> y(x.extents());
  layer.forward(ctx, p, x, y);
  return y;
}

template <Discretization Rule, bool IsComplex>
void check_that_forms_agree() {
  using Scan = DiagonalSsm<DiagonalSsmConfig{
      .state = dyn, .complex = IsComplex, .form = DiagonalForm::scan}>;
  using Convolution = DiagonalSsm<DiagonalSsmConfig{
      .state = dyn, .complex = IsComplex, .form = DiagonalForm::convolution}>;
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    const Scan scan({.channels = 5, .state = 16, .discretization = Rule});
    const Convolution convolution({.channels = 5, .state = 16, .discretization = Rule});
    ssm::Context<B> ctx;
    const auto p = scan.template initialize<T>(ctx, ssm::Seed{3});
    for (const Index length : {1, 2, 63, 64, 65, 1000}) {
      CAPTURE(length);
      ssm::DynamicTensor<T, 3> x({3, length, 5});
      ssm::fill_normal(x, ssm::Seed{4});
      CHECK(ssm::all_close(run<T, B>(convolution, p, x), run<T, B>(scan, p, x),
                           ssm::tolerance<T>.value));
    }
  });
}

TEST_CASE("the scan and the convolution give the same numbers") {
  check_that_forms_agree<Discretization::bilinear, true>();
  check_that_forms_agree<Discretization::zero_order_hold, true>();
  check_that_forms_agree<Discretization::bilinear, false>();
  check_that_forms_agree<Discretization::zero_order_hold, false>();
}

/// What a forward and a backward call give, of half the sum of squares of y, and whether they
/// convolved.
template <class T, class B, class L, class P>
auto trained(const L& layer, const P& from, const ssm::DynamicTensor<T, 3>& x) {
  ssm::Context<B> ctx;
  auto p = layer.template zero_parameters<T>(ctx);
  ssm::copy_parameters(from, p);
  auto gradients = layer.template zero_parameters<T>(ctx);
  auto tape = layer.template make_tape<T>(ctx);
  ssm::DynamicTensor<T, 3> y(x.extents()), dx(x.extents());
  layer.forward(ctx, p, x, y, tape);
  layer.backward(ctx, p, tape, y, dx, gradients);
  return std::tuple(std::move(y), std::move(dx), std::move(gradients.C), tape.convolved);
}

TEST_CASE("the form that a backend's cost model chooses gives the numbers of the others") {
  const auto check = []<class B, class T>(Index batch, Index state, bool convolves) {
    const DiagonalSsm<DiagonalSsmConfig{.state = dyn}> scan({.channels = 3, .state = state});
    const DiagonalSsm<DiagonalSsmConfig{.state = dyn, .form = DiagonalForm::automatic}> automatic(
        {.channels = 3, .state = state});
    ssm::Context<B> ctx;
    const auto p = scan.template initialize<T>(ctx, ssm::Seed{3});
    ssm::DynamicTensor<T, 3> x({batch, 300, 3});
    ssm::fill_normal(x, ssm::Seed{4});
    const auto [y, dx, dC, scanned] = trained<T, B>(scan, p, x);
    const auto [y_chosen, dx_chosen, dC_chosen, convolved] = trained<T, B>(automatic, p, x);
    CHECK_FALSE(scanned);
    CHECK(convolved == convolves);
    CHECK(ssm::all_close(y_chosen, y, ssm::tolerance<T>.value));
    CHECK(ssm::all_close(dx_chosen, dx, ssm::tolerance<T>.gradient));
    CHECK(ssm::all_close(dC_chosen, dC, ssm::tolerance<T>.gradient));
    CHECK(ssm::all_close(run<T, B>(automatic, p, x), y, ssm::tolerance<T>.value));
  };
  ssm::laws::for_each_backend_and_scalar([&]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    const ssm::SequenceWork many{8, 300, 3, 64, true};
    const ssm::SequenceWork few{1, 300, 3, 4, true};
    if constexpr (ssm::ChoosesDiagonalForm<B, T>) {
      check.template operator()<B, T>(8, 128, B::template prefers_convolution<T>(many));
      check.template operator()<B, T>(1, 8, B::template prefers_convolution<T>(few));
      CHECK_FALSE(B::template prefers_convolution<T>({8, 300, 3, 64, false}));
    } else {
      check.template operator()<B, T>(8, 128, false);
    }
  });
  CHECK(ssm::Cpu::prefers_convolution<float>({8, 1024, 256, 32, true}));
  CHECK_FALSE(ssm::Cpu::prefers_convolution<float>({8, 1024, 256, 8, true}));
}

TEST_CASE("the response to a pulse is the discretized kernel, and D at once") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    const auto check = [&](const auto& layer, Discretization rule) {
      const auto p = layer.template initialize<T>(ctx, ssm::Seed{3});
      ssm::DynamicTensor<T, 3> x({1, 20, 1});
      ssm::fill(x, 0);
      x(0, 0, 0) = T{1};
      ssm::DynamicTensor<T, 3> y({1, 20, 1});
      layer.forward(ctx, p, x, y);
      using Complex = std::complex<double>;
      const double dt = std::exp(static_cast<double>(p.log_dt(0)));
      for (Index t = 0; t < 20; ++t) {
        double expected = t == 0 ? static_cast<double>(p.D(0)) : 0;
        for (Index n = 0; n < layer.mode_count(); ++n) {
          const Complex A(-std::exp(static_cast<double>(p.inv_A_real(0, n))),
                          static_cast<double>(p.A_imag(0, n)));
          const Complex C(static_cast<double>(p.C(0, 0, n, 0)),
                          static_cast<double>(p.C(0, 0, n, 1)));
          const bool zoh = rule == Discretization::zero_order_hold;
          const Complex half = dt * A / 2.0;
          const Complex step = zoh ? std::exp(dt * A) : (1.0 + half) / (1.0 - half);
          const Complex input = zoh ? (std::exp(dt * A) - 1.0) / A : dt / (1.0 - half);
          expected += 2 * (C * input * std::pow(step, static_cast<double>(t))).real();
        }
        CHECK(std::abs(static_cast<double>(y(0, t, 0)) - expected) <= ssm::tolerance<T>.value);
      }
    };
    check(DiagonalSsm<DiagonalSsmConfig{.channels = 1, .state = 8}>(), Discretization::bilinear);
    check(DiagonalSsm<DiagonalSsmConfig{.channels = 1, .state = 8}>(
              {.discretization = Discretization::zero_order_hold}),
          Discretization::zero_order_hold);
  });
}

template <DiagonalMeasure Measure>
auto initial_parameters() {
  const DiagonalSsm<DiagonalSsmConfig{}> layer({.channels = 40, .measure = Measure});
  ssm::Context<ssm::Reference> ctx;
  return layer.template initialize<double>(ctx, ssm::Seed{5});
}

template <class P>
void check_frequencies(const P& p, double decay, double first, double last) {
  for (Index n = 0; n < 32; ++n) {
    const double real = decay < 0 ? std::log(1.0 + static_cast<double>(n)) : std::log(decay);
    CHECK(std::abs(p.inv_A_real(7, n) - real) <= ssm::tolerance<double>.value);
  }
  CHECK(std::abs(p.A_imag(7, 0) - first) <= ssm::tolerance<double>.value * std::abs(first));
  CHECK(std::abs(p.A_imag(7, 31) - last) <= ssm::tolerance<double>.value * std::abs(last));
}

TEST_CASE("every measure starts with its own eigenvalues") {
  check_frequencies(initial_parameters<DiagonalMeasure::lin>(), 0.5, 0, 31 * pi);
  check_frequencies(initial_parameters<DiagonalMeasure::inv>(), 0.5, 64 * 63 / pi,
                    64 / pi * (64.0 / 63 - 1));
  check_frequencies(initial_parameters<DiagonalMeasure::inv2>(), 0.5, 64 * 63 / pi, 64 / pi);
  check_frequencies(initial_parameters<DiagonalMeasure::quad>(), 0.5, 1 / pi, 63 * 63 / pi);
  check_frequencies(initial_parameters<DiagonalMeasure::legs>(), 0.5,
                    ssm::legs_frequencies(64).front(), ssm::legs_frequencies(64).back());
  check_frequencies(initial_parameters<DiagonalMeasure::real>(), -1, 0, 0);
  const auto random = initial_parameters<DiagonalMeasure::random>();
  std::set<double> all;
  ssm::for_each_element([&](double w) { all.insert(w); }, random.A_imag);
  CHECK(all.size() == 40 * 32);
}

TEST_CASE("real modes start at −1, −2, … and have no imaginary parts") {
  const DiagonalSsm<DiagonalSsmConfig{.channels = 2, .state = 5, .complex = false}> layer;
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.initialize<double>(ctx, ssm::Seed{5});
  CHECK(layer.mode_count() == 5);
  CHECK(p.A_imag.size() == 0);
  CHECK(p.B.extent(2) == 1);
  for (Index n = 0; n < 5; ++n)
    CHECK(std::abs(std::exp(p.inv_A_real(1, n)) - static_cast<double>(n + 1)) <=
          ssm::tolerance<double>.value);
}

TEST_CASE("steps start log-uniform between their bounds, C with variance one, B at one") {
  const auto p = initial_parameters<DiagonalMeasure::lin>();
  double smallest = 1;
  double largest = 0;
  ssm::for_each_element(
      [&](double log_dt) {
        smallest = std::min(smallest, std::exp(log_dt));
        largest = std::max(largest, std::exp(log_dt));
      },
      p.log_dt);
  CHECK(smallest >= 0.001);
  CHECK(smallest < 0.002);
  CHECK(largest <= 0.1);
  CHECK(largest > 0.05);
  double variance = 0;
  ssm::for_each_element([&](double c) { variance += c * c / (40 * 32); }, p.C);
  CHECK(std::abs(variance - 1) < 0.1);
  for (Index n = 0; n < 32; ++n) {
    CHECK(p.B(3, n, 0) == 1);
    CHECK(p.B(3, n, 1) == 0);
  }
}

TEST_CASE("a shared layer is one whose channels repeat A and B, and sums their gradients") {
  using Own = DiagonalSsm<DiagonalSsmConfig{.state = dyn}>;
  using Shared = DiagonalSsm<DiagonalSsmConfig{.state = dyn, .shared = true}>;
  const Own own({.channels = 6, .state = 4});
  const Shared shared({.channels = 6, .state = 4, .n_ssm = 2});
  ssm::Context<ssm::Reference> ctx;
  auto p = shared.initialize<double>(ctx, ssm::Seed{1});
  ssm::fill_normal(p.A_imag, ssm::Seed{2});
  ssm::fill_normal(p.B, ssm::Seed{3});
  CHECK(p.inv_A_real.extent(0) == 2);
  auto q = own.zero_parameters<double>(ctx);
  ssm::copy(p.log_dt, q.log_dt);
  ssm::copy(p.C, q.C);
  ssm::copy(p.D, q.D);
  for (Index h = 0; h < 6; ++h) {
    ssm::copy(p.inv_A_real.select(0, h % 2), q.inv_A_real.select(0, h));
    ssm::copy(p.A_imag.select(0, h % 2), q.A_imag.select(0, h));
    ssm::copy(p.B.select(0, h % 2), q.B.select(0, h));
  }
  ssm::DynamicTensor<double, 3> x({2, 9, 6}), y(x.extents()), z(x.extents()), dx(x.extents());
  ssm::fill_normal(x, ssm::Seed{4});
  auto dp = shared.zero_parameters<double>(ctx);
  auto dq = own.zero_parameters<double>(ctx);
  auto tape = shared.make_tape(p);
  auto other = own.make_tape(q);
  shared.forward(ctx, p, x, y, tape);
  own.forward(ctx, q, x, z, other);
  CHECK(ssm::largest_difference(y, z).value == 0);
  shared.backward(ctx, p, tape, x, dx, dp);
  own.backward(ctx, q, other, x, dx, dq);
  for (Index row = 0; row < 2; ++row)
    for (Index n = 0; n < 2; ++n) {
      double real = 0, imag = 0, b = 0;
      for (Index h = row; h < 6; h += 2) {
        real += dq.inv_A_real(h, n);
        imag += dq.A_imag(h, n);
        b += dq.B(h, n, 1);
      }
      CHECK(dp.inv_A_real(row, n) == doctest::Approx(real));
      CHECK(dp.A_imag(row, n) == doctest::Approx(imag));
      CHECK(dp.B(row, n, 1) == doctest::Approx(b));
    }
  CHECK_THROWS_WITH_AS(Shared({.channels = 6, .state = 4, .n_ssm = 4}),
                       "DiagonalSsm: n_ssm 4 of 6 channels must divide them", ssm::ArgumentError);
  CHECK_THROWS_WITH_AS(Own({.channels = 6, .state = 4, .n_ssm = 2}),
                       "DiagonalSsm: n_ssm 2 of 6 channels needs a shared layer",
                       ssm::ArgumentError);
}

TEST_CASE("DiagonalSsm names its parameters as checkpoints do, and marks the dynamics") {
  const DiagonalSsm<DiagonalSsmConfig{.channels = 2, .state = 4}> layer;
  ssm::Context<ssm::Reference> ctx;
  auto p = layer.zero_parameters(ctx);
  std::vector<std::string> dynamics;
  std::vector<std::string> others;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec& spec, auto&) {
        CHECK(spec.role == ssm::ParameterRole::ssm);
        CHECK(spec.weight_decay != spec.own_learning_rate);
        (spec.own_learning_rate ? dynamics : others).push_back(spec.name);
      },
      p);
  using Names = std::vector<std::string>;
  CHECK(dynamics == Names{"kernel.kernel.log_dt", "kernel.kernel.inv_A_real",
                          "kernel.kernel.A_imag", "kernel.kernel.B"});
  CHECK(others == Names{"kernel.kernel.C", "D"});
}

TEST_CASE("DiagonalSsm refuses an odd state of conjugate pairs, missing sizes and wrong operands") {
  using Dynamic = DiagonalSsm<DiagonalSsmConfig{.state = dyn}>;
  using Reals = DiagonalSsm<DiagonalSsmConfig{.state = dyn, .complex = false}>;
  CHECK_THROWS_AS(Dynamic({.channels = 3, .state = 5}), ssm::ArgumentError);
  CHECK_NOTHROW(Reals({.channels = 3, .state = 5}));
  CHECK_THROWS_AS(Dynamic({.channels = dyn, .state = 4}), ssm::ArgumentError);
  const Dynamic layer({.channels = 3, .state = 4});
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.zero_parameters(ctx);
  ssm::DynamicTensor<float, 3> x({2, 5, 3});
  ssm::DynamicTensor<float, 3> wide({2, 5, 4});
  ssm::DynamicTensor<float, 3> swapped({5, 2, 3});
  auto state = layer.initial_state(ctx, 3);
  ssm::DynamicTensor<float, 3> y({2, 5, 3});
  CHECK_THROWS_AS(layer.forward(ctx, p, wide, wide), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, swapped), ssm::ShapeError);
  CHECK_THROWS_AS(layer.prefill(ctx, p, x, y, state), ssm::ShapeError);
  const std::vector<Index> falling{0, 4, 3, 5};
  CHECK_THROWS_AS(layer.forward(ctx, p, x, y, {.segments = falling}), ssm::ShapeError);
}

}  // namespace
