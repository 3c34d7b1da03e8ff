// SPDX-License-Identifier: Apache-2.0
#include "support/runs_on.hpp"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <string_view>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/cuda.hpp"
#include "ssm/core/fill_random.hpp"
#include "support/every_model.hpp"
#include "support/every_whole_sequence_layer.hpp"
#include "support/partial_backends.hpp"

namespace {

using namespace ssm;
using laws::every_combinator;
using laws::every_language_model;
using laws::every_primitive;
using laws::for_each_case;
using laws::MadeOf;
using laws::Recorder;

template <class Case>
using LayerOf = typename std::remove_cvref_t<Case>::Layer;

template <class B, class T>
void check_exact_on(const char* backend) {
  CAPTURE(std::string(backend));
  for_each_case(every_combinator, [](const auto& layer_case) {
    using L = LayerOf<decltype(layer_case)>;
    CAPTURE(layer_case.title());
    CHECK(laws::runs_on_is_exact<L, B, T>);
  });
  for_each_case(laws::every_whole_sequence_layer, [](const auto& layer_case) {
    using L = LayerOf<decltype(layer_case)>;
    CHECK(laws::runs_on_is_exact<L, B, T>);
  });
  for_each_case(every_language_model, [](const auto& layer_case) {
    using L = LayerOf<decltype(layer_case)>;
    CAPTURE(layer_case.title());
    CHECK(laws::runs_on_is_exact<L, B, T>);
  });
  for_each_case(laws::every_token_model, [](const auto& layer_case) {
    using L = LayerOf<decltype(layer_case)>;
    CAPTURE(layer_case.title());
    CHECK(laws::runs_on_is_exact<L, B, T>);
  });
}

TEST_CASE(
    "the verbs of combinators and language models can be called where RunsOn holds, and nowhere "
    "else") {
  check_exact_on<Reference, double>("Reference");
  check_exact_on<Cpu, float>("Cpu");
  check_exact_on<Cuda, float>("Cuda");
  check_exact_on<Cuda, double>("Cuda");
  check_exact_on<MadeOf<>, float>("nothing");
  check_exact_on<MadeOf<reference::ShiftConvolution, reference::Normalization>, float>(
      "shift_convolution and normalization");
}

TEST_CASE("a combinator runs where its parts do") {
  using Shift = ShiftSsm<ShiftSsmConfig{}>;
  using Scan = Mamba<MambaConfig{}>;
  using OnlyShift =
      MadeOf<reference::ShiftConvolution, reference::Normalization, reference::Rearrange>;
  CHECK(RunsOn<Chain<Shift, Shift>, OnlyShift>);
  CHECK_FALSE(RunsOn<Chain<Shift, Scan>, OnlyShift>);
  CHECK_FALSE(RunsOn<Chain<Scan, Shift>, OnlyShift>);
  CHECK(RunsOn<Stack<Shift>, OnlyShift>);
  CHECK_FALSE(RunsOn<Stack<Scan>, OnlyShift>);
  CHECK(RunsOn<Sequential<Shift, RmsNorm<>, Shift>, OnlyShift>);
  CHECK_FALSE(RunsOn<Sequential<Shift, RmsNorm<>, Scan>, OnlyShift>);
  CHECK(RunsOn<OneOf<Shift, RmsNorm<>, Shift>, OnlyShift>);
  CHECK_FALSE(RunsOn<OneOf<Shift, RmsNorm<>, Scan>, OnlyShift>);
  CHECK(RunsOn<Residual<RmsNorm<>, Shift>, OnlyShift>);
  CHECK_FALSE(RunsOn<Residual<RmsNorm<>, Scan>, OnlyShift>);
  CHECK_FALSE(RunsOn<DenseStack<RmsNorm<>, DenseMambaMixer>, OnlyShift>);
}

TEST_CASE("every combinator and language model runs on Cuda, in both scalars") {
  for_each_case(every_combinator, [](const auto& layer_case) {
    using L = LayerOf<decltype(layer_case)>;
    CAPTURE(layer_case.title());
    CHECK(RunsOn<L, Cuda, float>);
    CHECK(RunsOn<L, Cuda, double>);
  });
  for_each_case(every_language_model, [](const auto& layer_case) {
    using L = LayerOf<decltype(layer_case)>;
    CAPTURE(layer_case.title());
    CHECK(RunsOn<L, Cuda, float>);
    CHECK(RunsOn<L, Cuda, double>);
  });
}

/// The primitives that all cases of L have called so far.
template <class L>
std::set<std::string_view> called_by;

/// Every verb, on x of inputs and with backward(tape, dy, gradients) as the layer has it.
template <class L, class X, class Step, class Backward>
void call_every_verb(Context<Recorder>& ctx, const L& layer, const X& x, const Step& x_t,
                     Index outputs, typename L::template Tape<float>& tape, Backward backward) {
  Recorder::called.clear();
  DynamicTensor<float, 3> y({1, 5, outputs}), dy({1, 5, outputs}), y_t({1, 1, outputs});
  fill_normal(dy, Seed{2});
  const auto parameters = layer.initialize(ctx, Seed{3});
  auto gradients = layer.zero_parameters(ctx);
  auto state = layer.template initial_state<float>(ctx, 1);
  layer.prefill(ctx, parameters, x, y, state);
  layer.prefill(ctx, parameters, x_t, y_t, state);
  layer.forward(ctx, parameters, x, y, tape);
  backward(parameters, dy, gradients, {});
  auto dstate = layer.template initial_state<float>(ctx, 1);
  auto after = layer.template initial_state<float>(ctx, 1);
  layer.forward(ctx, parameters, x, y, tape, {.initial_state = &state, .final_state = &after});
  backward(parameters, dy, gradients, {.initial_state = &dstate});
  called_by<L>.insert(Recorder::called.begin(), Recorder::called.end());
}

template <class L>
void check_needs() {
  for_each_case(every_primitive, [](const auto& primitive) {
    CAPTURE(std::string(primitive.name));
    using Part = typename std::remove_cvref_t<decltype(primitive)>::Part;
    constexpr bool runs_without = RunsOn<L, laws::ReferenceWithout<Part>>;
    const bool calls = called_by<L>.contains(primitive.name);
    CHECK(runs_without == !calls);
  });
}

TEST_CASE("a combinator runs without a primitive if and only if none of its verbs calls it") {
  Context<Recorder> ctx;
  for_each_case(every_combinator, [&](const auto& layer_case) {
    const auto layer = layer_case.make();
    using L = LayerOf<decltype(layer_case)>;
    using Options = SequenceGradients<typename L::template State<float>>;
    DynamicTensor<float, 3> x({1, 5, layer.channels()}), dx({1, 5, layer.channels()});
    fill_normal(x, Seed{1});
    typename L::template Tape<float> tape;
    call_every_verb(ctx, layer, x, x.slice(1, 0, 1), layer.channels(), tape,
                    [&](const auto& p, const auto& dy, auto& gradients, const Options& ends) {
                      layer.backward(ctx, p, tape, dy, dx, gradients, ends);
                    });
  });
  for_each_case(every_combinator, [](const auto& layer_case) {
    // One of two kinds calls what it is; that both kinds' primitives are needed is what the cases
    // of either kind show.
    CAPTURE(layer_case.title());
    check_needs<LayerOf<decltype(layer_case)>>();
  });
}

TEST_CASE("a language model runs without a primitive if and only if none of its verbs calls it") {
  Context<Recorder> ctx;
  for_each_case(every_language_model, [&](const auto& layer_case) {
    const auto layer = layer_case.make();
    using L = typename decltype(layer.zero_parameters(ctx))::Layer;  // the base that has the verbs
    using Options = SequenceGradients<typename L::template State<float>>;
    DynamicTensor<Token, 2> tokens({1, 5});
    for (Index t = 0; t < 5; ++t) tokens(0, t) = static_cast<Token>(t);
    typename L::template Tape<float> tape;
    call_every_verb(ctx, static_cast<const L&>(layer), tokens, tokens.slice(1, 0, 1),
                    layer.padded_vocabulary(), tape,
                    [&](const auto& p, const auto& dy, auto& gradients, const Options& ends) {
                      layer.backward(ctx, p, tape, dy, gradients, ends);
                    });
  });
  for_each_case(every_language_model, [](const auto& layer_case) {
    CAPTURE(layer_case.title());
    using Parameters = typename LayerOf<decltype(layer_case)>::template Parameters<float>;
    check_needs<typename Parameters::Layer>();
  });
}

}  // namespace
