// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/mamba2.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"

namespace {

using ssm::dyn;
using ssm::Index;
using ssm::Mamba2;
using ssm::Mamba2Config;
using ssm::Mamba2Options;

/// Every size only at run time, so that one type serves all of them.
using Dynamic = Mamba2<Mamba2Config{
    .head_dim = dyn, .groups = dyn, .state = dyn, .conv_width = dyn, .bias = true}>;

TEST_CASE("sizes that are left out follow from the channels, or are the published ones") {
  const Dynamic layer({.channels = 96});
  CHECK(layer.inner() == 192);
  CHECK(layer.head_dim() == 64);
  CHECK(layer.heads() == 3);
  CHECK(layer.groups() == 1);
  CHECK(layer.state() == 128);
  CHECK(layer.conv_width() == 4);
  CHECK(Dynamic({.channels = 64, .expand = 3}).heads() == 3);
  CHECK(Mamba2<Mamba2Config{.inner = dyn}>({.channels = 5, .inner = 128}).heads() == 2);
  CHECK(Mamba2<Mamba2Config{.channels = 4, .head_dim = 2, .groups = 2, .state = 3}>().heads() == 4);
}

/// What the constructor says of options that do not fit.
std::string complaint(const Mamba2Options& options) {
  try {
    const Dynamic layer(options);
  } catch (const ssm::ArgumentError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("heads that do not come out even and ranges that are none are refused by name") {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const double infinite = std::numeric_limits<double>::infinity();
  CHECK(complaint({.channels = 6, .head_dim = 4}).empty());
  CHECK(complaint({.channels = 6, .head_dim = 5}) ==
        "Mamba2: head_dim 5 does not divide 12 channels inside");
  CHECK(complaint({.channels = 6, .head_dim = 4, .groups = 2}) ==
        "Mamba2: groups 2 does not divide 3 heads");
  CHECK(complaint({.channels = 64, .groups = 0}).find("groups") != std::string::npos);
  for (const auto& [low, high] :
       {std::pair{-1.0, 1.0}, std::pair{2.0, 1.0}, std::pair{none, 1.0}, std::pair{0.0, none}})
    CHECK(complaint({.channels = 64, .dt_limit_min = low, .dt_limit_max = high})
              .find("dt_limit_min") != std::string::npos);
  CHECK(complaint({.channels = 64, .dt_limit_min = 0.5, .dt_limit_max = 0.5}).empty());
  for (const auto& [low, high] :
       {std::pair{0.0, 1.0}, std::pair{2.0, 1.0}, std::pair{1.0, infinite}, std::pair{none, 1.0}}) {
    CHECK(complaint({.channels = 64, .A_min = low, .A_max = high}).find("A_min") !=
          std::string::npos);
    CHECK(complaint({.channels = 64, .dt_min = low, .dt_max = high}).find("dt_min") !=
          std::string::npos);
  }
}

TEST_CASE("the type and the options must agree") {
  using Fixed = Mamba2<Mamba2Config{
      .channels = 4, .head_dim = 2, .groups = 2, .state = 3, .conv_width = 4, .conv_bias = false}>;
  const auto says = [](const Mamba2Options& options) {
    try {
      const Fixed layer(options);
    } catch (const ssm::ArgumentError& error) {
      const std::string text = error.what();
      return text.substr(0, text.find(' '));
    }
    return std::string();
  };
  CHECK(says({.channels = 4, .inner = 8, .head_dim = 2, .groups = 2, .state = 3}).empty());
  CHECK(says({.channels = 8}) == "channels");
  CHECK(says({.inner = 12}) == "inner");
  CHECK(says({.expand = 3}) == "expand");
  CHECK(says({.head_dim = 4}) == "head_dim");
  CHECK(says({.groups = 1}) == "groups");
  CHECK(says({.state = 4}) == "state");
  CHECK(says({.conv_width = 3}) == "conv_width");
  CHECK(says({.conv_bias = true}) == "conv_bias");
  CHECK(says({.bias = true}) == "bias");
}

TEST_CASE("steps start between dt_min and dt_max, and decays between A_min and A_max") {
  ssm::Context<ssm::Reference> ctx;
  const auto spans = [](const std::vector<double>& values, double low, double high) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const double slack = 1e-9 * high;
    return *least >= low - slack && *most <= high + slack && *least < low + (high - low) / 3 &&
           *most > high - (high - low) / 3;
  };
  const auto check = [&](const Mamba2Options& options) {
    const Dynamic layer(options);
    const auto p = layer.template initialize<double>(ctx, ssm::Seed{1});
    std::vector<double> log_steps, decays;
    for (Index h = 0; h < layer.heads(); ++h) {
      const double dt = std::log1p(std::exp(p.dt_bias(h)));
      log_steps.push_back(std::log(dt / options.dt_min));
      decays.push_back(std::exp(p.A_log(h)));
      CHECK(p.D(h) == 1);
    }
    CHECK(spans(log_steps, 0, std::log(options.dt_max / options.dt_min)));
    CHECK(spans(decays, options.A_min, options.A_max));
    for (Index d = 0; d < layer.inner(); ++d) CHECK(p.norm_weight(d) == 1);
  };
  check({.channels = 64, .head_dim = 1});
  check({.channels = 64, .head_dim = 1, .dt_min = 0.05, .dt_max = 0.5, .A_min = 2, .A_max = 3});
  const Dynamic floored({.channels = 8, .head_dim = 1, .dt_min = 1e-6, .dt_max = 1e-5});
  const auto p = floored.template initialize<double>(ctx, ssm::Seed{1});
  for (Index h = 0; h < floored.heads(); ++h)
    CHECK(std::log1p(std::exp(p.dt_bias(h))) == doctest::Approx(1e-4));
}

TEST_CASE("A, D and the bias of the step sizes are never decayed") {
  ssm::Context<ssm::Reference> ctx;
  const auto p = Dynamic({.channels = 4, .head_dim = 2, .state = 2}).zero_parameters<float>(ctx);
  std::vector<std::string> names;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec& spec, const auto&) {
        const bool is_dynamics = spec.name == "A_log" || spec.name == "D" || spec.name == "dt_bias";
        CHECK(spec.weight_decay == !is_dynamics);
        names.push_back(spec.name);
      },
      p);
  CHECK(names == std::vector<std::string>{"in_proj.weight", "in_proj.bias", "conv1d.weight",
                                          "conv1d.bias", "dt_bias", "A_log", "D", "norm.weight",
                                          "out_proj.weight", "out_proj.bias"});
}

/// One channel, one head and a filter of one tap whose weight is one, so that one position can be
/// worked out by hand: z = 2x, u = 3x, B = x, C = x, δ = x.
struct Single {
  using Layer = Mamba2<Mamba2Config{
      .channels = 1, .inner = 1, .head_dim = 1, .state = 1, .conv_width = 1, .conv_bias = false}>;
  Layer layer;
  ssm::Context<ssm::Reference> ctx;
  Layer::Parameters<double> p;

  explicit Single(const Mamba2Options& options) : layer(options) {
    p = layer.zero_parameters<double>(ctx);
    const double rows[] = {2, 3, 1, 1, 1};
    for (Index r = 0; r < 5; ++r) p.in_proj.weight(r, 0) = rows[r];
    ssm::fill(p.conv_weight, 1.0);
    p.dt_bias(0) = 0.5;
    p.D(0) = 0.25;
    p.norm_weight(0) = 1;
    p.out_proj.weight(0, 0) = 1;
  }
  double operator()(double x_0) {
    ssm::DynamicTensor<double, 3> x({1, 1, 1}), y({1, 1, 1});
    x(0, 0, 0) = x_0;
    layer.forward(ctx, p, x, y);
    return y(0, 0, 0);
  }
};

TEST_CASE("one position is the formula, with the step clamped to its limits") {
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  const auto expected = [&](double x, double step) {
    const double u = silu(3 * x), BC = silu(x) * silu(x);
    const double gated = (step * BC + 0.25) * u * silu(2 * x);
    return gated / std::sqrt(gated * gated + 0.5);
  };
  const double x = 0.7;
  const double free = std::log1p(std::exp(x + 0.5));
  CHECK(free > 1);
  CHECK(Single({.eps = 0.5})(x) == doctest::Approx(expected(x, free)).epsilon(1e-12));
  CHECK(Single({.eps = 0.5, .dt_limit_max = 0.3})(x) ==
        doctest::Approx(expected(x, 0.3)).epsilon(1e-12));
  CHECK(Single({.eps = 0.5, .dt_limit_min = 2})(x) ==
        doctest::Approx(expected(x, 2)).epsilon(1e-12));
}

TEST_CASE("each group of heads is normalized by itself") {
  ssm::Context<ssm::Reference> ctx;
  const Dynamic layer({.channels = 4,
                       .head_dim = 2,
                       .groups = 2,
                       .state = 3,
                       .conv_width = 2,
                       .conv_bias = false,
                       .bias = false,
                       .eps = 1e-12});
  auto p = layer.template initialize<double>(ctx, ssm::Seed{3});
  ssm::fill(p.out_proj.weight, 0.0);
  for (Index d = 0; d < 4; ++d) p.out_proj.weight(d, d) = 1;  // the first group, of two heads
  ssm::DynamicTensor<double, 3> x({1, 6, 4}), y({1, 6, 4}), louder({1, 6, 4});
  ssm::fill_normal(x, ssm::Seed{4});
  layer.forward(ctx, p, x, y);
  for (Index t = 0; t < 6; ++t) {
    double sum = 0;
    for (Index d = 0; d < 4; ++d) sum += y(0, t, d) * y(0, t, d);
    CHECK(sum == doctest::Approx(4));
  }
  // What the other group computes does not count.
  for (Index h = 2; h < 4; ++h) p.D(h) = 100;
  layer.forward(ctx, p, x, louder);
  CHECK(ssm::largest_difference(y, louder).value == 0);
}

}  // namespace
