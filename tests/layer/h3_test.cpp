// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/h3.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "support/backends.hpp"

namespace {

using ssm::dyn;
using ssm::H3;
using ssm::H3Config;
using ssm::Index;

using Dynamic = H3<H3Config{.state = dyn, .head_dim = dyn}>;

TEST_CASE("H3 is projections, a shift SSM, a diagonal SSM per product, and a readout") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    constexpr Index width = 6;
    constexpr Index head = 2;
    constexpr Index length = 9;
    const H3<H3Config{.channels = width, .state = 4, .head_dim = head}> layer;
    ssm::Context<B> ctx;
    const auto p = layer.template initialize<T>(ctx, ssm::Seed{1});
    ssm::DynamicTensor<T, 3> x({1, length, width});
    ssm::fill_normal(x, ssm::Seed{2});
    ssm::DynamicTensor<T, 3> y({1, length, width});
    layer.forward(ctx, p, x, y);

    ssm::DynamicTensor<T, 3> q({1, length, width});
    ssm::DynamicTensor<T, 3> k({1, length, width});
    ssm::DynamicTensor<T, 3> v({1, length, width});
    ssm::DynamicTensor<T, 3> shifted({1, length, width});
    ssm::DynamicTensor<T, 3> mixed({1, length, width});
    ssm::DynamicTensor<T, 3> expected({1, length, width});
    const ssm::Linear<ssm::LinearConfig{.inputs = width, .outputs = width}> linear;
    linear.forward(ctx, p.q_proj, x, q);
    linear.forward(ctx, p.k_proj, x, k);
    linear.forward(ctx, p.v_proj, x, v);
    const ssm::ShiftSsm<ssm::ShiftSsmConfig{.channels = width, .state = 4}> shift;
    shift.forward(ctx, p.shift, k, shifted);
    const ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = width / head, .state = 4}> diagonal;
    ssm::DynamicTensor<T, 3> product({1, length, width / head});
    ssm::DynamicTensor<T, 3> memory({1, length, width / head});
    ssm::fill(mixed, 0);
    for (Index i = 0; i < head; ++i)
      for (Index j = 0; j < head; ++j) {
        for (Index t = 0; t < length; ++t)
          for (Index h = 0; h < width / head; ++h)
            product(0, t, h) = shifted(0, t, h * head + i) * v(0, t, h * head + j);
        diagonal.forward(ctx, p.diagonal, product, memory);
        for (Index t = 0; t < length; ++t)
          for (Index h = 0; h < width / head; ++h)
            mixed(0, t, h * head + j) += q(0, t, h * head + i) * memory(0, t, h);
      }
    linear.forward(ctx, p.output_linear, mixed, expected);
    CHECK(ssm::all_close(y, expected, ssm::tolerance<T>.value));
  });
}

TEST_CASE("H3 names its parameters as checkpoints do") {
  const H3<H3Config{.channels = 2, .state = 4}> layer;
  ssm::Context<ssm::Reference> ctx;
  auto p = layer.zero_parameters(ctx);
  std::vector<std::string> names;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec& spec, auto&) { names.push_back(spec.name); }, p);
  CHECK(names == std::vector<std::string>{
                     "q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias",
                     "v_proj.weight", "v_proj.bias", "ssm_k_kernel.kernel.B",
                     "ssm_k_kernel.kernel.C", "ssm_k_D", "kernel.kernel.log_dt",
                     "kernel.kernel.inv_A_real", "kernel.kernel.A_imag", "kernel.kernel.B",
                     "kernel.kernel.C", "D", "output_linear.weight", "output_linear.bias"});
}

TEST_CASE("a mixer with one channel a head and a state of 64 has 4 d² + 327 d parameters") {
  ssm::Context<ssm::Reference> ctx;
  const H3<H3Config{}> layer({.channels = 10});
  CHECK(ssm::parameter_count(layer.zero_parameters(ctx)) == 4 * 100 + 327 * 10);
}

TEST_CASE("the shift state has a row per channel, the diagonal state one per product and head") {
  ssm::Context<ssm::Reference> ctx;
  const Dynamic layer({.channels = 12, .state = 8, .head_dim = 4});
  const auto state = layer.initial_state(ctx, 5);
  CHECK(state.shift.extents() == ssm::DynamicExtents<3>(5, 12, 8));
  CHECK(state.diagonal.extents() == ssm::DynamicExtents<6>(5, 4, 4, 3, 4, 2));
}

TEST_CASE("H3 refuses heads that do not divide the channels, odd states and missing sizes") {
  CHECK_THROWS_AS(Dynamic({.channels = 6, .state = 4, .head_dim = 4}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 6, .state = 5, .head_dim = 2}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 6, .state = 4, .head_dim = 0}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = dyn, .state = 4, .head_dim = 2}), ssm::ArgumentError);
}

TEST_CASE("H3 refuses operands and states of other sizes") {
  const Dynamic layer({.channels = 6, .state = 4, .head_dim = 2});
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.zero_parameters(ctx);
  ssm::DynamicTensor<float, 3> x({2, 5, 6});
  ssm::DynamicTensor<float, 3> y({2, 5, 6});
  ssm::DynamicTensor<float, 3> narrow({2, 5, 4});
  ssm::DynamicTensor<float, 3> swapped({5, 2, 6});
  auto one = layer.initial_state(ctx, 1);
  auto two = layer.initial_state(ctx, 2);
  const std::vector<Index> segments{0, 2, 5};
  CHECK_THROWS_AS(layer.forward(ctx, p, narrow, narrow), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, swapped), ssm::ShapeError);
  CHECK_THROWS_AS(layer.prefill(ctx, p, x, y, one), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, y, {.segments = segments}), ssm::ShapeError);
  CHECK_NOTHROW(layer.prefill(ctx, p, x, y, two));
}

}  // namespace
