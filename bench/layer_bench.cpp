// SPDX-License-Identifier: Apache-2.0
// Layers as a user calls them: forward, forward and backward, and one recurrent step early and late
// in a sequence.
#include <benchmark/benchmark.h>

#include <string>

#include "ssm/backend/cpu.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/layer/attention.hpp"
#include "ssm/layer/dense_mamba.hpp"
#include "ssm/layer/diagonal_ssm.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/gated_state_space.hpp"
#include "ssm/layer/gau_retention.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/retention.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/layer/shift_ssm.hpp"

namespace {

constexpr ssm::Index channels = 256;
constexpr ssm::Index batch = 4;
constexpr ssm::Index length = 1024;

using Scan = ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = channels}>;
using Convolution = ssm::DiagonalSsm<ssm::DiagonalSsmConfig{
    .channels = channels, .form = ssm::DiagonalForm::convolution}>;
using Automatic = ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = channels,
                                                          .form = ssm::DiagonalForm::automatic}>;
using Shift = ssm::ShiftSsm<ssm::ShiftSsmConfig{.channels = channels}>;
using H3 = ssm::H3<ssm::H3Config{.channels = channels}>;
using Attention =
    ssm::CausalAttention<ssm::CausalAttentionConfig{.channels = channels, .heads = 4}>;
using S4D = ssm::S4D<ssm::S4DConfig{.channels = channels}>;
using Gss = ssm::GatedStateSpace<ssm::GatedStateSpaceConfig{
    .channels = channels, .gate_channels = 4 * channels, .state_channels = channels / 4}>;
using Mamba = ssm::Mamba<ssm::MambaConfig{.channels = channels}>;
using DenseMamba = ssm::DenseMamba<ssm::DenseMambaConfig{.mamba = {.channels = channels}}>;
using Retention = ssm::Retention<ssm::RetentionConfig{
    .channels = channels, .value_dim = 2 * channels, .heads = 2}>;
using Gau = ssm::GauRetention<ssm::GauRetentionConfig{.channels = channels,
                                                      .query_key_dim = channels / 2,
                                                      .value_dim = 2 * channels,
                                                      .heads = 2,
                                                      .k_hidden = channels / 32,
                                                      .v_hidden = channels / 32}>;
using Linear = ssm::Linear<ssm::LinearConfig{.inputs = channels, .outputs = channels}>;
using Mlp = ssm::FeedForward<ssm::FeedForwardConfig{.channels = channels, .hidden = 4 * channels}>;

/// Elements of [B, L, D] a second, beside the time of a call.
void count_elements(benchmark::State& state, ssm::Index elements) {
  state.SetItemsProcessed(state.iterations() * elements);
}

template <class L>
void forward(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx;
  const L layer;
  const auto parameters = layer.initialize(ctx, ssm::Seed{1});
  ssm::DynamicTensor<float, 3> x({batch, length, channels});
  ssm::DynamicTensor<float, 3> y({batch, length, channels});
  ssm::fill_normal(x, ssm::Seed{2});
  for (auto _ : state) layer.forward(ctx, parameters, x, y);
  count_elements(state, x.size());
}

template <class L>
void forward_backward(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx;
  const L layer;
  const auto parameters = layer.initialize(ctx, ssm::Seed{1});
  auto gradients = layer.zero_parameters(ctx);
  auto tape = layer.make_tape();
  ssm::DynamicTensor<float, 3> x({batch, length, channels});
  ssm::DynamicTensor<float, 3> y({batch, length, channels});
  ssm::DynamicTensor<float, 3> dx({batch, length, channels});
  ssm::fill_normal(x, ssm::Seed{2});
  for (auto _ : state) {
    layer.forward(ctx, parameters, x, y, tape);
    layer.backward(ctx, parameters, tape, y, dx, gradients);
  }
  count_elements(state, x.size());
}

/// One step when `position` positions have gone before.
template <class L>
void step(benchmark::State& state) {
  const ssm::Index position = state.range(0);
  ssm::Context<ssm::Cpu> ctx;
  const L layer;
  const auto parameters = layer.initialize(ctx, ssm::Seed{1});
  auto memory = layer.initial_state(ctx, 1);
  ssm::DynamicTensor<float, 3> prompt({1, position, channels});
  ssm::DynamicTensor<float, 3> unused({1, position, channels});
  ssm::DynamicTensor<float, 2> x({1, channels});
  ssm::DynamicTensor<float, 2> y({1, channels});
  ssm::fill_normal(prompt, ssm::Seed{2});
  ssm::fill_normal(x, ssm::Seed{3});
  layer.prefill(ctx, parameters, prompt, unused, memory);
  for (auto _ : state) layer.step(ctx, parameters, x, y, memory);
}

template <class L>
struct Entry {
  const char* name;
  bool steps = false;  // whether single steps are measured too

  void add() const {
    const auto called = [&](const char* what) { return what + ("<" + std::string(name) + ">"); };
    benchmark::RegisterBenchmark(called("forward").c_str(), forward<L>)->UseRealTime();
    benchmark::RegisterBenchmark(called("forward_backward").c_str(), forward_backward<L>)
        ->UseRealTime();
    if (steps)
      benchmark::RegisterBenchmark(called("step").c_str(), step<L>)
          ->Arg(10)
          ->Arg(10000)
          ->UseRealTime();
  }
};

[[maybe_unused]] const bool added = [] {
  const auto add = [](const auto&... entries) { (entries.add(), ...); };
  add(Entry<Scan>{"Scan", true}, Entry<Convolution>{"Convolution"}, Entry<Automatic>{"Automatic"},
      Entry<Shift>{"Shift", true}, Entry<H3>{"H3", true}, Entry<Attention>{"Attention"},
      Entry<S4D>{"S4D", true}, Entry<Gss>{"Gss"}, Entry<Mamba>{"Mamba", true},
      Entry<DenseMamba>{"DenseMamba", true}, Entry<Retention>{"Retention", true},
      Entry<Gau>{"Gau", true}, Entry<Linear>{"Linear"}, Entry<Mlp>{"Mlp"},
      Entry<ssm::LayerNorm<channels>>{"ssm::LayerNorm<channels>"},
      Entry<ssm::RmsNorm<channels>>{"ssm::RmsNorm<channels>"});
  return true;
}();

}  // namespace
