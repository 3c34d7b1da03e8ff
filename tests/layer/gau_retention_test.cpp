// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/gau_retention.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "ssm/core/elementwise.hpp"
#include "support/backends.hpp"
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

// Behind the vector headers: it defines what they declare.
#include "ssm/laws/allocation_count.hpp"

namespace {

using ssm::Index;
using ssm::test::difference;
using ssm::test::nan_tensor;
using ssm::test::random_tensor;
using ssm::test::zero_tensor;
using Layer = ssm::GauRetention<ssm::GauRetentionConfig{}>;
using Hidden = Layer::Hidden<double>;

const Layer& layer() {
  static const Layer one({.channels = 5,
                          .query_key_dim = 4,
                          .value_dim = 6,
                          .heads = 2,
                          .k_hidden = 2,
                          .v_hidden = 3,
                          .eps = 0.5});
  return one;
}

struct Pair {
  explicit Pair(const char* name, Index length)
      : k(random_tensor(std::string("k ") + name, 2, length, 4)),
        v(random_tensor(std::string("v ") + name, 2, length, 6)) {}
  Pair like(double value) const {
    Pair other = Pair("", k.extent(1));
    ssm::fill(other.k, value);
    ssm::fill(other.v, value);
    return other;
  }
  Hidden views() { return {.k = k, .v = v}; }
  ssm::DynamicTensor<double, 3> k, v;
};

TEST_CASE("a first layer ignores its gates and norms, and gives them no gradient") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    auto p = layer().template initialize<double>(ctx, ssm::Seed{1});
    const auto x = random_tensor("x", 2, 7, 5);
    auto expected = nan_tensor(2, 7, 5), y = expected.clone(), dx = expected.clone();
    layer().forward(ctx, p, x, expected);
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    ssm::fill(p.k_selection.select.fc1.weight, nan);
    ssm::fill(p.k_selection.fusion.norm.weight, nan);
    ssm::fill(p.v_selection.select.fc2.weight, nan);
    ssm::fill(p.v_selection.fusion.norm.weight, nan);
    auto tape = layer().template make_tape<double>(ctx);
    auto gradients = layer().template zero_parameters<double>(ctx);
    layer().forward(ctx, p, x, y, tape);
    CHECK(difference(y, expected) == 0);
    layer().backward(ctx, p, tape, x, dx, gradients);
    CHECK(difference(dx, zero_tensor(2, 7, 5)) > 0);
    CHECK(difference(gradients.k_selection.select.fc1.weight, zero_tensor(2, 5)) == 0);
    CHECK(difference(gradients.v_selection.fusion.norm.weight, zero_tensor(6)) == 0);
  });
}

TEST_CASE("gradients reach the sources, the gates, and what later layers read") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    ctx.workspace().fill_with_nan(true);
    auto p = layer().template initialize<double>(ctx, ssm::Seed{1});
    auto x = random_tensor("x", 2, 4, 5);
    const auto dy = random_tensor("dy", 2, 4, 5);
    auto y = nan_tensor(2, 4, 5), dx = y.clone();
    Pair first("first", 4), second("second", 4), own("own", 4), down("down", 4);
    Pair dfirst = first.like(0), dsecond = first.like(3);
    const std::vector<Hidden> sources{first.views(), second.views()};
    const std::vector<Hidden> dsources{dfirst.views(), dsecond.views()};
    auto tape = layer().template make_tape<double>(ctx);
    const auto loss = [&] {
      layer().evaluate(ctx, p, x, y, nullptr, {}, sources, own.views());
      return ssm::test::inner_product(dy, y) + ssm::test::inner_product(down.k, own.k) +
             ssm::test::inner_product(down.v, own.v);
    };
    auto gradients = layer().template zero_parameters<double>(ctx);
    layer().evaluate(ctx, p, x, y, &tape, {}, sources, own.views());
    layer().differentiate(ctx, p, tape, dy, dx, gradients, {}, sources, own.views(), dsources,
                          down.views());
    ssm::for_each_element([](double& d) { d -= 3; }, dsecond.k);  // what was there before
    ssm::for_each_element([](double& d) { d -= 3; }, dsecond.v);
    constexpr double allowed = ssm::tolerance<double>.gradient;
    CHECK(ssm::test::gradient_error(loss, x, dx) <= allowed);
    CHECK(ssm::test::gradient_error(loss, first.k, dfirst.k) <= allowed);
    CHECK(ssm::test::gradient_error(loss, second.k, dsecond.k) <= allowed);
    CHECK(ssm::test::gradient_error(loss, first.v, dfirst.v) <= allowed);
    CHECK(ssm::test::gradient_error(loss, second.v, dsecond.v) <= allowed);
    Layer::for_each_parameter(
        [&](const ssm::ParameterSpec& spec, auto& parameter, auto& gradient) {
          CAPTURE(spec.name);
          CHECK(ssm::test::gradient_error(loss, parameter, gradient) <= allowed);
        },
        p, gradients);
  });
}

TEST_CASE("what later layers read is not joined with the sources, and may go unread") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    const auto p = layer().template initialize<double>(ctx, ssm::Seed{1});
    const auto x = random_tensor("x", 2, 7, 5);
    auto y = nan_tensor(2, 7, 5), alone = y.clone(), dx = y.clone();
    Pair source("source", 7), dense("dense", 7), plain("plain", 7);
    const std::vector<Hidden> sources{source.views()};
    auto tape = layer().template make_tape<double>(ctx);
    layer().evaluate(ctx, p, x, alone, nullptr, {}, {}, plain.views());
    layer().evaluate(ctx, p, x, y, &tape, {}, sources, dense.views());
    CHECK(difference(dense.k, plain.k) == 0);
    CHECK(difference(dense.v, plain.v) == 0);
    CHECK(difference(y, alone) > ssm::tolerance<double>.value);
    auto gradients = layer().template zero_parameters<double>(ctx);
    Pair dsource = source.like(0), zero = source.like(0);
    const std::vector<Hidden> dsources{dsource.views()};
    layer().differentiate(ctx, p, tape, x, dx, gradients, {}, sources, dense.views(), dsources, {});
    auto expected = nan_tensor(2, 7, 5);
    layer().differentiate(ctx, p, tape, x, expected, gradients, {}, sources, dense.views(),
                          dsources, zero.views());
    CHECK(difference(dx, expected) == 0);
  });
}

TEST_CASE(
    "for reading only, gated queries read the states that the sources' own keys and values leave") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    constexpr Index length = 7;
    const Layer reading({.channels = 5,
                         .query_key_dim = 4,
                         .value_dim = 6,
                         .heads = 2,
                         .k_hidden = 2,
                         .v_hidden = 3,
                         .eps = 0.5,
                         .fusion = ssm::DenseFusion::readout});
    CHECK(reading.fusion() == ssm::DenseFusion::readout);
    ssm::Context<B> ctx;
    const auto p = reading.template initialize<double>(ctx, ssm::Seed{1});
    const auto x = random_tensor("x", 2, length, 5);
    auto y = nan_tensor(2, length, 5);
    Pair first("first", length), second("second", length), own("own", length);
    const std::vector<Hidden> sources{first.views(), second.views()};
    auto tape = reading.template make_tape<double>(ctx);
    reading.evaluate(ctx, p, x, y, &tape, {}, sources, own.views());
    // One pair a head turns by one radian a position.
    const auto score = [](double q0, double q1, const auto& k, Index b, Index m, Index h,
                          double angle) {
      const double k0 = k(b, m, 2 * h), k1 = k(b, m, 2 * h + 1);
      return q0 * (k0 * std::cos(angle) - k1 * std::sin(angle)) +
             q1 * (k1 * std::cos(angle) + k0 * std::sin(angle));
    };
    const auto& t = tape.readings;
    auto expected = zero_tensor(2, length, 6);
    ssm::test::for_each_index(expected, [&](Index b, Index n, Index c) {
      const Index h = c / 3;
      const double q0 = t.q(b, n, 2 * h), q1 = t.q(b, n, 2 * h + 1);
      const double gated0 = q0 * t.k_gate(b, n, 2 * h), gated1 = q1 * t.k_gate(b, n, 2 * h + 1);
      for (Index m = 0; m <= n; ++m) {
        const double angle = static_cast<double>(m - n);
        const double kept = std::pow(1 - std::exp2(-5.0 - static_cast<double>(h)), -angle);
        double from_sources = 0;
        for (const Pair* source : {&first, &second})
          from_sources += score(gated0, gated1, source->k, b, m, h, angle) * source->v(b, m, c);
        expected(b, n, c) += kept * (score(q0, q1, own.k, b, m, h, angle) * own.v(b, m, c) +
                                     t.v_gate(b, n, c) * from_sources);
      }
    });
    CHECK(difference(tape.heads.o, expected) < ssm::tolerance<double>.value);
  });
}

TEST_CASE("a step with sources allocates nothing after the first") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    const auto p = layer().template initialize<double>(ctx, ssm::Seed{1});
    const auto x = random_tensor("x", 2, 1, 5);
    auto y = nan_tensor(2, 1, 5);
    Pair first("first", 1), second("second", 1), own("own", 1);
    const std::vector<Hidden> sources{first.views(), second.views()};
    auto state = layer().template initial_state<double>(ctx, 2);
    std::size_t before = 0;
    for (int t = 0; t < 5; ++t) {
      if (t == 1) before = ssm::laws::allocation_count();
      layer().evaluate(ctx, p, x, y, nullptr, {.initial_state = &state, .final_state = &state},
                       sources, own.views());
    }
    CHECK(ssm::laws::allocation_count() == before);
    CHECK(state.position(1) == 5);
  });
}

TEST_CASE("GauRetention names its parameters as checkpoints do") {
  ssm::Context<ssm::Reference> ctx;
  auto p = layer().zero_parameters(ctx);
  std::vector<std::string> names;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec& spec, auto&) { names.push_back(spec.name); }, p);
  CHECK(names == std::vector<std::string>{"q_proj.weight", "k_proj.weight", "to_hidden.0.weight",
                                          "group_norm.weight", "to_out.0.weight",
                                          "k_select.fc1.weight", "k_select.fc2.weight",
                                          "v_select.fc1.weight", "v_select.fc2.weight",
                                          "k_norm.weight", "v_norm.weight"});
}

}  // namespace
