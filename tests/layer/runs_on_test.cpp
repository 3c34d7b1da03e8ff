// SPDX-License-Identifier: Apache-2.0
#include "support/runs_on.hpp"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <string_view>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/cuda.hpp"
#include "ssm/core/fill_random.hpp"
#include "support/every_layer.hpp"
#include "support/partial_backends.hpp"

namespace {

using namespace ssm;
using laws::every_layer;
using laws::every_primitive;
using laws::for_each_case;
using laws::MadeOf;
using laws::Recorder;

template <class B>
void check_exact_on(const char* backend) {
  for_each_case(every_layer, [&](const auto& layer_case) {
    using L = typename std::remove_cvref_t<decltype(layer_case)>::Layer;
    CAPTURE(layer_case.title());
    CAPTURE(std::string(backend));
    CHECK(laws::runs_on_is_exact<L, B, float>);
    CHECK(laws::runs_on_is_exact<L, B, double>);
  });
}

TEST_CASE("what a layer's verbs are made of can be called where RunsOn holds, and nowhere else") {
  check_exact_on<Reference>("Reference");
  check_exact_on<Cpu>("Cpu");
  check_exact_on<Cuda>("Cuda");
  check_exact_on<BasicCuda<HostSpace>>("Cuda on host memory");
  check_exact_on<MadeOf<>>("nothing");
  check_exact_on<MadeOf<reference::Matmul, reference::Activation>>("matmul and activation");
}

TEST_CASE("every layer runs on every backend, in both scalars") {
  for_each_case(every_layer, [](const auto& layer_case) {
    using L = typename std::remove_cvref_t<decltype(layer_case)>::Layer;
    CAPTURE(layer_case.title());
    CHECK(RunsOn<L, Reference, float>);
    CHECK(RunsOn<L, Reference, double>);
    CHECK(RunsOn<L, Cpu, float>);
    CHECK(RunsOn<L, Cpu, double>);
    CHECK(RunsOn<L, Cuda, float>);
    CHECK(RunsOn<L, Cuda, double>);
    CHECK_FALSE(RunsOn<L, MadeOf<>>);
  });
}

/// The primitives that all cases of layer L have called so far.
template <class L>
std::set<std::string_view> called_by;

/// Every verb, with states and gradients of states.
template <class L>
void call_every_verb(const L& layer) {
  Context<Recorder> ctx;
  Recorder::called.clear();
  const auto size = [&](auto of_inputs) {
    if constexpr (requires { layer.inputs(); })
      return of_inputs ? layer.inputs() : layer.outputs();
    else
      return layer.channels();
  };
  DynamicTensor<float, 3> x({1, 5, size(true)}), y({1, 5, size(false)});
  DynamicTensor<float, 3> dx({1, 5, size(true)}), dy({1, 5, size(false)});
  fill_normal(x, Seed{1});
  fill_normal(dy, Seed{2});
  const auto parameters = layer.initialize(ctx, Seed{3});
  auto gradients = layer.zero_parameters(ctx);
  auto state = layer.template initial_state<float>(ctx, 1);
  auto dstate = layer.template initial_state<float>(ctx, 1);
  layer.forward(ctx, parameters, x, y);
  layer.prefill(ctx, parameters, x, y, state);
  layer.step(ctx, parameters, x.select(1, 0), y.select(1, 0), state);
  auto tape = layer.make_tape();
  layer.forward(ctx, parameters, x, y, tape);
  layer.backward(ctx, parameters, tape, dy, dx, gradients);
  auto after = layer.template initial_state<float>(ctx, 1);
  layer.forward(ctx, parameters, x, y, tape, {.initial_state = &state, .final_state = &after});
  layer.backward(ctx, parameters, tape, dy, dx, gradients, {.initial_state = &dstate});
  const Index segments[] = {0, 2, 5};
  layer.forward(ctx, parameters, x, y, {.segments = segments});
  called_by<L>.insert(Recorder::called.begin(), Recorder::called.end());
}

TEST_CASE("a layer runs without a primitive if and only if none of its verbs calls it") {
  for_each_case(every_layer, [](const auto& layer_case) { call_every_verb(layer_case.make()); });
  for_each_case(every_layer, [](const auto& layer_case) {
    using L = typename std::remove_cvref_t<decltype(layer_case)>::Layer;
    CAPTURE(layer_case.title());
    for_each_case(every_primitive, [](const auto& primitive) {
      using Part = typename std::remove_cvref_t<decltype(primitive)>::Part;
      CAPTURE(std::string(primitive.name));
      constexpr bool runs_without = RunsOn<L, laws::ReferenceWithout<Part>>;
      const bool calls = called_by<L>.contains(primitive.name);
      CHECK(runs_without == !calls);
    });
  });
}

/// A user's backend: the Cpu's but for one primitive, of floats alone.
struct OwnShift : Cpu {
  static void shift_convolution(Context<OwnShift>&,
                                const ssm::ShiftConvolution<float, HostSpace>&) {}
};
/// A backend that was never told of double.
struct OwnMatmul {
  using Space = HostSpace;
  struct Resources {};
  static void matmul(Context<OwnMatmul>&, const Matmul<float, HostSpace>&) {}
};

TEST_CASE("a user's backend runs what it has the primitives for, in the scalars it has them in") {
  check_exact_on<OwnShift>("own shift_convolution");
  check_exact_on<OwnMatmul>("own matmul");
  using Shift = ShiftSsm<ShiftSsmConfig{}>;
  CHECK(RunsOn<Shift, OwnShift, float>);
  CHECK_FALSE(RunsOn<Shift, OwnShift, double>);
  CHECK(RunsOn<H3<H3Config{}>, OwnShift, float>);
  CHECK_FALSE(RunsOn<H3<H3Config{}>, OwnShift, double>);
  CHECK(RunsOn<Mamba<MambaConfig{}>, OwnShift, double>);
  CHECK(RunsOn<Linear<LinearConfig{}>, OwnMatmul, float>);
  CHECK_FALSE(RunsOn<Linear<LinearConfig{}>, OwnMatmul, double>);
  CHECK_FALSE(RunsOn<FeedForward<FeedForwardConfig{}>, OwnMatmul, float>);
}

TEST_CASE("GauRetention does not run on a backend without decayed_attention") {
  using Unit = GauRetention<GauRetentionConfig{}>;
  using Others = laws::ReferenceWithout<reference::DecayedAttention>;
  static_assert(!HasDecayedAttention<Others>);
  CHECK_FALSE(RunsOn<Unit, Others>);
  CHECK_FALSE(laws::may_evaluate<Unit, Others, float>);
  CHECK_FALSE(laws::may_differentiate<Unit, Others, float>);
}

}  // namespace
