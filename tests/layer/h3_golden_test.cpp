// SPDX-License-Identifier: Apache-2.0
// Numbers of the public H3 layer with deterministic weights: element i of a tensor, in row-major
// order, is base + s·sin(φ + 0.7·i). It ran in double, but forms its shift kernel in single
// precision whatever it is asked for, so that the last printed digit may be one off.
#include <doctest/doctest.h>

#include <cmath>
#include <initializer_list>
#include <numbers>
#include <string>

#include "ssm/core/elementwise.hpp"
#include "ssm/layer/h3.hpp"
#include "support/backends.hpp"

namespace {

using ssm::H3;
using ssm::H3Config;
using ssm::Index;

template <class AnyTensor>
void fill_wave(AnyTensor&& tensor, double s, double phase, double base = 0) {
  double i = 0;
  ssm::for_each_element([&](double& e) { e = base + s * std::sin(phase + 0.7 * i++); }, tensor);
}

template <class P>
void fill_parameters(P& p) {
  fill_wave(p.q_proj.weight, 0.5, 0.1);
  fill_wave(p.q_proj.bias, 0.1, 0.2);
  fill_wave(p.k_proj.weight, 0.5, 0.3);
  fill_wave(p.k_proj.bias, 0.1, 0.4);
  fill_wave(p.v_proj.weight, 0.5, 0.5);
  fill_wave(p.v_proj.bias, 0.1, 0.6);
  fill_wave(p.shift.B, 0.05, 0.7);
  fill_wave(p.shift.C, 0.3, 0.8);
  fill_wave(p.shift.D, 0.1, 0.9, 1);
  fill_wave(p.diagonal.log_dt, 0.5, 1.0, std::log(0.05));
  fill_wave(p.diagonal.B, 0.1, 1.1);
  fill_wave(p.diagonal.inv_A_real, 0.1, 1.2, std::log(0.5));
  fill_wave(p.diagonal.A_imag, 0.1, 1.3);
  fill_wave(p.diagonal.C, 0.7, 1.4);
  fill_wave(p.diagonal.D, 0.5, 1.5);
  fill_wave(p.output_linear.weight, 0.5, 1.6);
  fill_wave(p.output_linear.bias, 0.1, 1.7);
  for (Index d = 0; d < p.shift.B.extent(0); ++d) p.shift.B(d, 0) += 1;
  for (Index h = 0; h < p.diagonal.B.extent(0); ++h)
    for (Index n = 0; n < p.diagonal.B.extent(1); ++n) {
      p.diagonal.B(h, n, 0) += 1;
      p.diagonal.A_imag(h, n) += std::numbers::pi * static_cast<double>(n);
    }
}

ssm::DynamicTensor<double, 3> input() {
  ssm::DynamicTensor<double, 3> u({1, 7, 4});
  fill_wave(u, 1, 1.8);
  return u;
}

/// The first elements of a tensor are these numbers, printed with so many decimals.
template <class AnyTensor>
void check_first(const AnyTensor& tensor, std::initializer_list<double> printed, int decimals = 7) {
  const double last_digit = std::pow(10.0, -decimals);
  const double* element = tensor.data();
  for (const double expected : printed) CHECK(std::abs(*element++ - expected) <= last_digit);
}

using OneChannelHeads = H3<H3Config{.channels = 4, .state = 8}>;

TEST_CASE("H3 reproduces the published outputs, chunk and step") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    const OneChannelHeads layer;
    ssm::Context<B> ctx;
    auto p = layer.template zero_parameters<double>(ctx);
    fill_parameters(p);
    const auto u = input();
    ssm::DynamicTensor<double, 3> y({1, 6, 4});
    auto state = layer.template initial_state<double>(ctx, 1);
    layer.prefill(ctx, p, u.slice(1, 0, 6), y, state);
    check_first(y, {0.1147408,  0.0611308,  0.0006735,  -0.0482037, 0.0741592, 0.0898048,
                    -0.0127796, -0.0515261, 0.2760345,  -0.0982748, 0.1397708, -0.1509194,
                    -0.0851178, 0.1958872,  -0.0534090, -0.0810448, 0.5736598, -0.3448181,
                    0.3067426,  -0.2190252, -0.1104778, 0.1595484,  0.0404295, -0.2215394});
    check_first(state.shift, {-1.0766330, 1.1396842, -0.9999081, 0.8556797, -0.4377515, 0.2015839,
                              0.0209825, 0.0039247});
    check_first(state.diagonal, {0.4133808, 0.0432338, 0.3362941, 0.1810616, 0.1935702, 0.2188249,
                                 0.0550575, 0.2211326});
    ssm::DynamicTensor<double, 2> next({1, 4});
    layer.step(ctx, p, u.select(1, 6), next, state);
    check_first(next, {0.4829014, -0.2547130, 0.2277030, -0.1601845});
  });
}

TEST_CASE("the kernels inside H3 are the published ones") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    auto p = OneChannelHeads().template zero_parameters<double>(ctx);
    fill_parameters(p);
    ssm::fill(p.shift.D, 0);
    ssm::fill(p.diagonal.D, 0);
    ssm::DynamicTensor<double, 3> pulse({1, 6, 4});
    ssm::fill(pulse, 0);
    for (Index d = 0; d < 4; ++d) pulse(0, 0, d) = 1;
    ssm::DynamicTensor<double, 3> response({1, 6, 4});
    ssm::DynamicTensor<double, 2> kernel({4, 6});
    const auto by_channel = [&] {
      for (Index d = 0; d < 4; ++d)
        for (Index t = 0; t < 6; ++t) kernel(d, t) = response(0, t, d);
    };
    const ssm::ShiftSsm<ssm::ShiftSsmConfig{.channels = 4, .state = 8}> shift;
    shift.forward(ctx, p.shift, pulse, response);
    by_channel();
    check_first(kernel.select(0, 0),
                {0.2822062, 0.3471854, 0.2558099, 0.0537620, -0.1657582, -0.3050079});
    check_first(kernel.select(0, 3),
                {-0.2298546, -0.1277437, 0.0413790, 0.2006796, 0.2734101, 0.2198636});
    const ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 4, .state = 8}> diagonal;
    diagonal.forward(ctx, p.diagonal, pulse, response);
    by_channel();
    check_first(kernel.select(0, 0),
                {0.0182848, 0.0973874, 0.1851036, 0.2533905, 0.2808096, 0.2597823});
    check_first(kernel.select(0, 3),
                {0.0396732, 0.0433410, 0.0392559, 0.0242044, -0.0026978, -0.0396372});
  });
}

TEST_CASE("H3 reproduces the published loss and gradients") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    const OneChannelHeads layer;
    ssm::Context<B> ctx;
    auto p = layer.template zero_parameters<double>(ctx);
    fill_parameters(p);
    const auto all = input();
    const auto u = all.slice(1, 0, 6);
    ssm::DynamicTensor<double, 3> y({1, 6, 4});
    ssm::DynamicTensor<double, 3> w({1, 6, 4});
    fill_wave(w, 1, 1.9);
    auto tape = layer.template make_tape<double>();
    layer.forward(ctx, p, u, y, tape);
    double loss = 0;
    ssm::for_each_element([&](double a, double b) { loss += a * b; }, y, w);
    CHECK(std::abs(loss - 0.365655104) <= 1e-9);  // as many digits as single precision leaves

    auto g = layer.template zero_parameters<double>(ctx);
    ssm::DynamicTensor<double, 3> du({1, 6, 4});
    layer.backward(ctx, p, tape, w, du, g);
    check_first(g.diagonal.log_dt, {0.0213567, 0.1175173, -0.0268474, -0.0048753});
    check_first(g.diagonal.inv_A_real, {-3.170317e-4, -7.223782e-5, 1.609607e-3, 9.709834e-4}, 9);
    check_first(g.diagonal.A_imag, {-5.135661e-4, 9.276579e-4, 2.106560e-3, 6.830219e-4}, 9);
    check_first(g.diagonal.C, {0.0677897, -0.0061426, 0.0690764, -0.0038895});
    check_first(g.diagonal.B, {0.0428958, -0.0376649, 0.0162672, 0.0150537});
    check_first(g.shift.B, {0.0150985, 0.0271496, 0.0264318, 0.0130131});
    check_first(g.shift.C, {0.1505628, -0.0696106, 0.0220411, 0.0181160});
    check_first(g.diagonal.D, {0.3657068, 0.1353863, -0.1088884, 0.0140386});
    check_first(g.shift.D, {0.1458644, 0.1320999, -0.0397085, -0.0038046});
    check_first(g.q_proj.weight, {0.3204902, 0.3114540, 0.1559361, -0.0729210});
    check_first(g.k_proj.weight, {0.2391804, 0.2340536, 0.1188476, -0.0522542});
    check_first(g.v_proj.weight, {0.2064450, 0.1984441, 0.0971119, -0.0498936});
    check_first(g.output_linear.weight, {1.9310420, -0.9457847, 0.1091225, -0.0313912});
    check_first(du, {0.0046492, 0.0204822, 0.0266820, 0.0203329});
  });
}

TEST_CASE("H3 with two channels a head keeps the channel order of the published kernel") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    const H3<H3Config{.channels = 4, .state = 8, .head_dim = 2}> layer;
    ssm::Context<B> ctx;
    auto p = layer.template zero_parameters<double>(ctx);
    fill_parameters(p);
    const auto all = input();
    const auto u = all.slice(1, 0, 6);
    ssm::DynamicTensor<double, 3> y({1, 6, 4});
    auto tape = layer.template make_tape<double>();
    layer.forward(ctx, p, u, y, tape);
    check_first(y.select(1, 0), {0.0577441, 0.0892588, 0.0046645, -0.0838527});
    check_first(y.select(1, 5), {-0.3947106, 0.2655960, 0.1248215, -0.4866190});
    const auto& mixed = tape.mixed;  // before output_linear
    check_first(mixed.select(1, 0), {0.0233328, 0.0056428, -0.0639295, 0.1912928});
    check_first(mixed.select(1, 1), {-0.0644302, 0.0492546, 0.0207981, -0.0798650});
    check_first(mixed.select(1, 5), {-2.6310220, 2.7016068, -0.5950783, 0.5444681});
  });
}

}  // namespace
