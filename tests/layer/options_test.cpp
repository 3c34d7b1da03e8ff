// SPDX-License-Identifier: Apache-2.0
// What a layer is told in its type and what at run time, and that nothing it is told is ignored.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "support/every_layer.hpp"

namespace {

using namespace ssm;

/// What an ArgumentError of `make` says; empty where there is none.
std::string refusal(const std::function<void()>& make) {
  try {
    make();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "";
}

/// Whether steps begin within a range, and use most of it. `log_dt` is of many channels.
template <class Steps>
bool spans(const Steps& log_dt, double dt_min, double dt_max) {
  const auto [first, last] = std::minmax_element(log_dt.data(), log_dt.data() + log_dt.size());
  const double low = std::log(dt_min), high = std::log(dt_max), slack = (high - low) / 20;
  return *first >= low - 1e-6 && *first <= low + slack && *last <= high + 1e-6 &&
         *last >= high - slack;
}

constexpr Index many = 400;
constexpr std::pair<double, double> ranges[] = {{0.4, 0.5}, {0.001, 0.1}, {0.001, 0.5}};

TEST_CASE("initial steps are asked for at run time, by every layer that has steps, defaults too") {
  Context<Reference> ctx;
  const auto begin = [&](const auto& layer) {
    return layer.template initialize<double>(ctx, Seed{1});
  };
  for (const auto& range : ranges) {
    const double low = range.first, high = range.second;
    CAPTURE(low);
    CAPTURE(high);
    using Diagonal = DiagonalSsm<DiagonalSsmConfig{.state = 2}>;
    CHECK(spans(begin(Diagonal({.channels = many, .dt_min = low, .dt_max = high})).log_dt, low,
                high));
    using Shared = S4D<S4DConfig{.state = 2}>;
    CHECK(
        spans(begin(Shared({.channels = many, .dt_min = low, .dt_max = high})).log_dt, low, high));
    using Mixer = H3<H3Config{.state = 2}>;
    CHECK(spans(begin(Mixer({.channels = many, .dt_min = low, .dt_max = high})).diagonal.log_dt,
                low, high));
    using Gated = GatedStateSpace<GatedStateSpaceConfig{.state = 2}>;
    CHECK(spans(begin(Gated({.channels = 2,
                             .gate_channels = 2,
                             .state_channels = many,
                             .dt_min = low,
                             .dt_max = high}))
                    .diagonal.log_dt,
                low, high));
    const auto log_steps = [](const auto& bias) {  // of softplus(bias)
      DynamicTensor<double, 1> steps(bias.size());
      for (Index d = 0; d < bias.size(); ++d) steps(d) = std::log(std::log1p(std::exp(bias(d))));
      return steps;
    };
    const MambaOptions steps{.channels = 2, .inner = many, .dt_min = low, .dt_max = high};
    CHECK(spans(log_steps(begin(Mamba<MambaConfig{.inner = dyn}>(steps)).dt_proj.bias), low, high));
    using Dense = DenseMamba<DenseMambaConfig{.mamba = {.inner = dyn}}>;
    CHECK(spans(log_steps(begin(Dense({.mamba = steps})).mamba.dt_proj.bias), low, high));
  }
}

TEST_CASE("steps that are no range are refused") {
  for (const auto& range : {std::pair{0.2, 0.1}, {0.0, 0.1}, {-1.0, 0.1}, {0.1, INFINITY}}) {
    const double dt_min = range.first, dt_max = range.second;
    CAPTURE(dt_min);
    CHECK(refusal([&] {
            DiagonalSsm<DiagonalSsmConfig{}>({.channels = 1, .dt_min = dt_min, .dt_max = dt_max});
          }).find("dt_min") != std::string::npos);
    CHECK(refusal([&] {
            S4D<S4DConfig{}>({.channels = 1, .dt_min = dt_min, .dt_max = dt_max});
          }).find("dt_min") != std::string::npos);
    CHECK(refusal([&] {
            H3<H3Config{}>({.channels = 1, .dt_min = dt_min, .dt_max = dt_max});
          }).find("dt_min") != std::string::npos);
    CHECK(refusal([&] {
            Mamba<MambaConfig{}>({.channels = 1, .dt_min = dt_min, .dt_max = dt_max});
          }).find("dt_min") != std::string::npos);
  }
}

TEST_CASE("the measure is asked for at run time, and where modes are real there is one only") {
  Context<Reference> ctx;
  const double inverse = 8 / std::numbers::pi * (8.0 / 3 - 1);
  const double quadratic = 9 / std::numbers::pi;
  const auto second = [&](const auto& layer, auto frequencies) {
    const auto p = layer.template initialize<double>(ctx, Seed{1});
    return frequencies(p).data()[1];
  };
  const auto own = [](const auto& p) -> const auto& { return p.A_imag; };
  const auto of_diagonal = [](const auto& p) -> const auto& { return p.diagonal.A_imag; };
  const auto shared = [](const auto& p) -> const auto& { return p.w_imag; };
  using enum DiagonalMeasure;
  using Diagonal = DiagonalSsm<DiagonalSsmConfig{.channels = 1, .state = 8}>;
  CHECK(second(Diagonal(), own) == doctest::Approx(std::numbers::pi));
  CHECK(second(Diagonal({.measure = inv}), own) == doctest::Approx(inverse));
  CHECK(second(Diagonal({.measure = quad}), own) == doctest::Approx(quadratic));
  using Mixer = H3<H3Config{.channels = 1, .state = 8}>;
  CHECK(second(Mixer({.measure = inv}), of_diagonal) == doctest::Approx(inverse));
  CHECK(second(Mixer({.measure = lin}), of_diagonal) == doctest::Approx(std::numbers::pi));
  using Shared = S4D<S4DConfig{.channels = 1, .state = 8}>;
  CHECK(second(Shared(), shared) == doctest::Approx(inverse));
  CHECK(second(Shared({.measure = lin}), shared) == doctest::Approx(std::numbers::pi));
  CHECK(second(Shared({.measure = quad}), shared) == doctest::Approx(quadratic));
  using Gated = GatedStateSpace<GatedStateSpaceConfig{
      .channels = 1, .gate_channels = 1, .state_channels = 1, .state = 8}>;
  CHECK(second(Gated({.measure = quad}), of_diagonal) == doctest::Approx(quadratic));
  using Reals = DiagonalSsm<DiagonalSsmConfig{.channels = 1, .complex = false}>;
  CHECK(refusal([] { Reals({.measure = real}); }) == "");
  CHECK(refusal([] { Reals({.measure = lin}); }).find("measure") != std::string::npos);
}

/// The output of a layer on one fixed sequence and initialization.
template <class L>
DynamicTensor<double, 3> output(const L& layer) {
  Context<Reference> ctx;
  DynamicTensor<double, 3> x({1, 6, layer.channels()}), y({1, 6, layer.channels()});
  fill_normal(x, Seed{2});
  layer.forward(ctx, layer.template initialize<double>(ctx, Seed{1}), x, y);
  return y;
}

template <class L>
void check_discretizations() {
  const auto by_default = output(L());
  const auto bilinear = output(L({.discretization = Discretization::bilinear}));
  const auto hold = output(L({.discretization = Discretization::zero_order_hold}));
  const double tolerance = ssm::tolerance<double>.value;
  CHECK_FALSE(all_close(bilinear, hold, tolerance));
  CHECK(all_close(by_default, bilinear, tolerance) != all_close(by_default, hold, tolerance));
}

TEST_CASE("the discretization is asked for at run time, the default one too") {
  check_discretizations<DiagonalSsm<DiagonalSsmConfig{.channels = 3, .state = 4}>>();
  check_discretizations<DiagonalSsm<DiagonalSsmConfig{
      .channels = 3, .state = 4, .form = DiagonalForm::convolution}>>();
  check_discretizations<S4D<S4DConfig{.channels = 3, .state = 4}>>();
  check_discretizations<H3<H3Config{.channels = 3, .state = 4}>>();
  check_discretizations<GatedStateSpace<GatedStateSpaceConfig{
      .channels = 3, .gate_channels = 4, .state_channels = 2, .state = 4}>>();
}

TEST_CASE("numbers and kinds of functions are asked for at run time, default ones too") {
  const auto differ = [](const auto& a, const auto& b) {
    return !all_close(output(a), output(b), 1e-9);
  };
  using Mlp = FeedForward<FeedForwardConfig{.channels = 3, .hidden = 5}>;
  CHECK(differ(Mlp(), Mlp({.activation = ActivationKind::relu})));
  CHECK_FALSE(differ(Mlp(), Mlp({.activation = ActivationKind::gelu_tanh})));
  CHECK(differ(LayerNorm<3>(), LayerNorm<3>({.eps = 0.5})));
  CHECK_FALSE(differ(LayerNorm<3>(), LayerNorm<3>({.eps = 1e-5})));
  using Keep = Retention<RetentionConfig{.channels = 4, .value_dim = 6, .heads = 2}>;
  CHECK(differ(Keep(), Keep({.eps = 0.5})));
  CHECK(differ(Keep(), Keep({.gate = ActivationKind::gelu_tanh})));
  CHECK(Keep().heads().config().form == RetentionForm::recurrent);
  CHECK(Keep({.form = RetentionForm::parallel}).heads().config().form == RetentionForm::parallel);
  using Unit = GauRetention<GauRetentionConfig{
      .channels = 4, .query_key_dim = 4, .value_dim = 6, .heads = 2, .k_hidden = 2, .v_hidden = 2}>;
  CHECK(differ(Unit(), Unit({.eps = 0.5})));
  CHECK(Unit().fusion() == DenseFusion::carried);
  CHECK(Unit({.fusion = DenseFusion::readout}).fusion() == DenseFusion::readout);
  using Attention = CausalAttention<CausalAttentionConfig{.channels = 8, .heads = 2}>;
  CHECK(differ(Attention(), Attention({.rotary_dim = 4})));
  CHECK(differ(Attention({.rotary_dim = 4}), Attention({.rotary_dim = 4, .rotary_base = 100})));
  CHECK(refusal([] { Attention({.rotary_base = 100}); }).find("rotary_base") != std::string::npos);
}

TEST_CASE("a size that contradicts the type is refused, and named") {
  struct Contradiction {
    const char* field;
    std::function<void()> make;
  };
  const std::vector<Contradiction> all{
      {"channels", [] { DiagonalSsm<DiagonalSsmConfig{.channels = 3}>({.channels = 4}); }},
      {"state", [] { DiagonalSsm<DiagonalSsmConfig{.state = 32}>({.channels = 3, .state = 64}); }},
      {"state", [] { DiagonalSsm<DiagonalSsmConfig{}>({.channels = 3, .state = 32}); }},
      {"channels", [] { S4D<S4DConfig{.channels = 3}>({.channels = 4}); }},
      {"state", [] { S4D<S4DConfig{.state = 8}>({.channels = 3, .state = 64}); }},
      {"channels", [] { ShiftSsm<ShiftSsmConfig{.channels = 3}>({.channels = 4}); }},
      {"state", [] { ShiftSsm<ShiftSsmConfig{.state = 8}>({.channels = 3, .state = 64}); }},
      {"channels", [] { H3<H3Config{.channels = 4}>({.channels = 2}); }},
      {"state", [] { H3<H3Config{.state = 8}>({.channels = 4, .state = 64}); }},
      {"head_dim", [] { H3<H3Config{.head_dim = 2}>({.channels = 4, .head_dim = 1}); }},
      {"gate_channels",
       [] {
         GatedStateSpace<GatedStateSpaceConfig{.gate_channels = 4}>(
             {.channels = 2, .gate_channels = 3, .state_channels = 1});
       }},
      {"state_channels",
       [] {
         GatedStateSpace<GatedStateSpaceConfig{.state_channels = 2}>(
             {.channels = 2, .gate_channels = 3, .state_channels = 1});
       }},
      {"state",
       [] {
         GatedStateSpace<GatedStateSpaceConfig{.state = 8}>(
             {.channels = 2, .gate_channels = 3, .state_channels = 1, .state = 64});
       }},
      {"channels", [] { Mamba<MambaConfig{.channels = 4}>({.channels = 8}); }},
      {"inner", [] { Mamba<MambaConfig{.channels = 4}>({.inner = 24}); }},
      {"inner", [] { Mamba<MambaConfig{.inner = 8}>({.channels = 4, .inner = 24}); }},
      {"inner",
       [] { Mamba<MambaConfig{.inner = dyn}>({.channels = 4, .inner = 24, .expand = 2}); }},
      {"expand", [] { Mamba<MambaConfig{.channels = 4}>({.expand = 3}); }},
      {"expand", [] { Mamba<MambaConfig{.expand = 2}>({.channels = 4, .expand = 3}); }},
      {"expand", [] { Mamba<MambaConfig{.inner = 8}>({.channels = 4, .expand = 3}); }},
      {"state", [] { Mamba<MambaConfig{.state = 8}>({.channels = 4, .state = 16}); }},
      {"conv_width", [] { Mamba<MambaConfig{.conv_width = 2}>({.channels = 4, .conv_width = 4}); }},
      {"dt_rank", [] { Mamba<MambaConfig{.dt_rank = 2}>({.channels = 4, .dt_rank = 1}); }},
      {"dt_rank", [] { Mamba<MambaConfig{.channels = 4}>({.dt_rank = 2}); }},
      {"conv_bias",
       [] { Mamba<MambaConfig{.conv_bias = false}>({.channels = 4, .conv_bias = true}); }},
      {"bias", [] { Mamba<MambaConfig{}>({.channels = 4, .bias = true}); }},
      {"channels",
       [] { DenseMamba<DenseMambaConfig{.mamba = {.channels = 4}}>({.mamba = {.channels = 8}}); }},
      {"select_hidden",
       [] {
         DenseMamba<DenseMambaConfig{.select_hidden = 2}>(
             {.mamba = {.channels = 4}, .select_hidden = 1});
       }},
      {"select_reduction",
       [] {
         DenseMamba<DenseMambaConfig{.select_reduction = 2}>(
             {.mamba = {.channels = 4}, .select_reduction = 32});
       }},
      {"select_reduction",
       [] {
         DenseMamba<DenseMambaConfig{.select_hidden = 2}>(
             {.mamba = {.channels = 4}, .select_reduction = 4});
       }},
      {"channels",
       [] {
         Retention<RetentionConfig{.channels = 4}>({.channels = 8, .value_dim = 4, .heads = 1});
       }},
      {"value_dim",
       [] {
         Retention<RetentionConfig{.value_dim = 4}>({.channels = 8, .value_dim = 8, .heads = 1});
       }},
      {"heads",
       [] { Retention<RetentionConfig{.heads = 2}>({.channels = 8, .value_dim = 8, .heads = 1}); }},
      {"k_hidden",
       [] {
         GauRetention<GauRetentionConfig{.k_hidden = 2}>({.channels = 4,
                                                          .query_key_dim = 4,
                                                          .value_dim = 4,
                                                          .heads = 1,
                                                          .k_hidden = 1,
                                                          .v_hidden = 1});
       }},
      {"query_key_dim",
       [] {
         GauRetention<GauRetentionConfig{.query_key_dim = 2}>({.channels = 4,
                                                               .query_key_dim = 4,
                                                               .value_dim = 4,
                                                               .heads = 1,
                                                               .k_hidden = 1,
                                                               .v_hidden = 1});
       }},
      {"heads",
       [] { CausalAttention<CausalAttentionConfig{.heads = 2}>({.channels = 4, .heads = 1}); }},
      {"hidden", [] { FeedForward<FeedForwardConfig{.hidden = 2}>({.channels = 4, .hidden = 1}); }},
      {"width",
       [] {
         SelectiveTransition<SelectiveTransitionConfig{.width = 2}>(
             {.channels = 4, .hidden = 1, .width = 4});
       }},
      {"outputs", [] { Linear<LinearConfig{.outputs = 2}>({.inputs = 4, .outputs = 4}); }},
      {"bias",
       [] { Linear<LinearConfig{.bias = false}>({.inputs = 4, .outputs = 4, .bias = true}); }},
      {"channels", [] { LayerNorm<4>({.channels = 5}); }},
  };
  for (const Contradiction& contradiction : all) {
    CAPTURE(std::string(contradiction.field));
    const std::string said = refusal(contradiction.make);
    CAPTURE(said);
    CHECK(said.find(contradiction.field) != std::string::npos);
  }
}

TEST_CASE("what the type leaves open or says too may be said at run time") {
  CHECK(refusal([] {
          DiagonalSsm<DiagonalSsmConfig{.channels = 3, .state = 64}>({.channels = 3, .state = 64});
        }) == "");
  CHECK(Mamba<MambaConfig{.inner = 12}>({.channels = 4, .inner = 12, .expand = 3}).inner() == 12);
  CHECK(Mamba<MambaConfig{.inner = dyn}>({.channels = 4}).inner() == 8);
  CHECK(Mamba<MambaConfig{.expand = 3}>({.channels = 4}).inner() == 12);
  CHECK(Mamba<MambaConfig{.dt_rank = dyn}>({.channels = 40}).dt_rank() == 3);
  CHECK(H3<H3Config{.state = dyn, .head_dim = dyn}>({.channels = 4}).head_dim() == 1);
}

TEST_CASE("a bias is there if the type allows it, unless run time leaves it out") {
  Context<Reference> ctx;
  using Biased = Linear<LinearConfig{.inputs = 2, .outputs = 2}>;
  CHECK(Biased().zero_parameters(ctx).bias.size() == 2);
  CHECK(Biased({.bias = true}).zero_parameters(ctx).bias.size() == 2);
  CHECK(Biased({.bias = false}).zero_parameters(ctx).bias.size() == 0);
  const Mamba<MambaConfig{.channels = 4, .bias = true}> biased;
  CHECK(biased.zero_parameters(ctx).in_proj.bias.size() == 16);
  CHECK(biased.zero_parameters(ctx).out_proj.bias.size() == 4);
  const Mamba<MambaConfig{.channels = 4, .bias = true}> bare({.conv_bias = false, .bias = false});
  CHECK(bare.zero_parameters(ctx).in_proj.bias.size() == 0);
  CHECK(bare.zero_parameters(ctx).conv_bias.size() == 0);
}

TEST_CASE(
    "what shapes code cannot be asked for at run time, and numbers cannot be put in the type") {
  const auto takes_complex = []<class O>(O) {
    return requires { O{.complex = false}; };
  };
  const auto takes_form = []<class O>(O) {
    return requires { O{.form = DiagonalForm::convolution}; };
  };
  const auto takes_gated = []<class O>(O) {
    return requires { O{.gated = true}; };
  };
  const auto takes_steps = []<class O>(O) {
    return requires { O{.dt_min = 0.1}; };
  };
  const auto takes_eps = []<class O>(O) {
    return requires { O{.eps = 0.1}; };
  };
  CHECK_FALSE(takes_complex(DiagonalSsmOptions{}));
  CHECK(takes_complex(DiagonalSsmConfig{}));
  CHECK_FALSE(takes_form(DiagonalSsmOptions{}));
  CHECK(takes_form(DiagonalSsmConfig{}));
  CHECK_FALSE(takes_gated(FeedForwardOptions{}));
  CHECK(takes_gated(FeedForwardConfig{}));
  CHECK(takes_steps(S4DOptions{}));
  CHECK_FALSE(takes_steps(S4DConfig{}));
  CHECK(takes_eps(NormOptions{}));
  CHECK_FALSE(takes_eps(NormConfig{}));
}

}  // namespace
