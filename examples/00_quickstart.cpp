// SPDX-License-Identifier: Apache-2.0
// The library from the outside: one layer, training, streaming, sizes at run time, a model, one's
// own primitive.

// [includes]
#include <ssm/backend/cpu.hpp>
#include <ssm/ssm.hpp>
// [/includes]

#include <cmath>
#include <cstdio>
#include <iostream>

namespace {

// [layer type]
using Diagonal = ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 256, .state = 64}>;
// [/layer type]

// [model type]
using Tiny = ssm::LanguageModel<ssm::Vocabulary{256}, ssm::Width{192}, ssm::H3Block,
                                ssm::AttentionBlock, ssm::H3Block>;
// [/model type]

// [own primitive]
struct Mine : ssm::Cpu {
  template <class T>
  static void shift_convolution(ssm::Context<Mine>& ctx,
                                const ssm::ShiftConvolution<T, ssm::HostSpace>& a) {
    ++calls;
    ssm::Cpu::shift_convolution(ctx, a);  // or a kernel of your own
  }
  static inline int calls = 0;
};
// [/own primitive]
// [own primitive is used]
static_assert(ssm::overrides<Mine, ssm::ShiftConvolution<float, ssm::HostSpace>>(
    &Mine::shift_convolution, &ssm::Cpu::shift_convolution));
// [/own primitive is used]

double largest(const auto& a, const auto& b) { return ssm::largest_difference(a, b).value; }

void one_layer_and_its_stream() {
  const ssm::Index batch = 2;
  const ssm::Index length = 100;
  ssm::DynamicTensor<float, 3> x({batch, length, 256});
  ssm::DynamicTensor<float, 3> y({batch, length, 256});
  ssm::fill_normal(x, ssm::Seed{1});

  // [one layer]
  ssm::Context<ssm::Cpu> ctx;
  Diagonal layer;
  auto parameters = layer.initialize<float>(ctx, ssm::Seed{42});  // the paper's initialization
  layer.forward(ctx, parameters, x, y);                           // views or tensors, [B, L, 256]
  // [/one layer]

  // [streaming]
  auto state = layer.initial_state(ctx, batch);
  layer.prefill(ctx, parameters, x.slice(1, 0, 60), y.slice(1, 0, 60), state);  // a prompt
  for (ssm::Index t = 60; t < length; ++t)  // one position at a time
    layer.step(ctx, parameters, x.select(1, t), y.select(1, t), state);
  // [/streaming]

  ssm::DynamicTensor<float, 3> whole({batch, length, 256});
  layer.forward(ctx, parameters, x, whole);
  std::printf("streaming differs from the parallel form by %.1e\n", largest(y, whole));
  if (!ssm::all_close(y, whole, ssm::tolerance<float>.value))
    throw ssm::Error("stream and whole differ");
}

void training() {
  ssm::Context<ssm::Cpu> ctx;
  const Diagonal layer;
  auto parameters = layer.initialize<float>(ctx, ssm::Seed{42});
  ssm::DynamicTensor<float, 3> x({4, 64, 256});
  ssm::DynamicTensor<float, 3> target({4, 64, 256});
  ssm::DynamicTensor<float, 3> y({4, 64, 256});
  ssm::DynamicTensor<float, 3> dy({4, 64, 256});
  ssm::DynamicTensor<float, 3> dx({4, 64, 256});
  ssm::fill_normal(x, ssm::Seed{1});
  ssm::fill_normal(target, ssm::Seed{2});
  double first = 0;
  double last = 0;

  // [training]
  auto tape = layer.make_tape();
  auto gradients = layer.zero_parameters(ctx);
  ssm::AdamW optimizer(ctx, layer, parameters, {.rate = 1e-2, .weight_decay = 0});
  for (int step = 0; step < 20; ++step) {
    layer.forward(ctx, parameters, x, y, tape);
    ssm::map([](float have, float want) { return have - want; }, dy, y,
             target);  // of ½·|y − target|²
    ssm::set_zero(ctx, gradients);
    layer.backward(ctx, parameters, tape, dy, dx, gradients);
    optimizer.update(ctx, parameters, gradients);
    last = 0.5 * ssm::dot(dy, dy);
    if (step == 0) first = last;
  }
  // [/training]
  std::printf("loss %.0f -> %.0f\n", first, last);
  if (!(last < first)) throw ssm::Error("training did not help");
}

void sizes_at_run_time() {
  ssm::Context<ssm::Cpu> ctx;
  const ssm::Index d_model = 96;  // from a checkpoint, say

  // [run time]
  ssm::H3<ssm::H3Config{.channels = ssm::dyn, .head_dim = ssm::dyn}> h3(
      {.channels = d_model, .head_dim = 8});
  // [/run time]
  // [options]
  const ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 32}> slow(
      {.measure = ssm::DiagonalMeasure::inv, .dt_min = 0.0001, .dt_max = 0.01});
  // [/options]
  // [runs on]
  static_assert(ssm::RunsOn<ssm::H3<ssm::H3Config{.channels = 32}>, ssm::Cpu>);
  // [/runs on]
  std::printf("S4D with slow steps: %td parameters\n",
              ssm::parameter_count(slow.initialize(ctx, ssm::Seed{1})));
  std::printf("H3 with head_dim 8: %td parameters\n",
              ssm::parameter_count(h3.initialize(ctx, ssm::Seed{1})));
}

void a_model() {
  ssm::Context<ssm::Cpu> ctx;

  // [model]
  const Tiny model;
  auto parameters = model.initialize(ctx, ssm::Seed{7});
  ssm::for_each_parameter(
      [](const ssm::ParameterSpec& spec, const auto& tensor) {
        if (spec.name.ends_with("log_dt")) std::cout << spec.name << ": " << tensor.size() << "\n";
      },
      parameters);
  // [/model]
  std::printf("%td parameters\n", ssm::parameter_count(parameters));
}

void a_primitive_of_ones_own() {
  ssm::DynamicTensor<float, 3> x({1, 10, 32});
  ssm::DynamicTensor<float, 3> y({1, 10, 32});
  const ssm::H3<ssm::H3Config{.channels = 32}> h3;

  // [own context]
  ssm::Context<Mine> mine;  // everything else stays the CPU's
  // [/own context]
  h3.forward(mine, h3.initialize(mine, ssm::Seed{1}), x, y);
  std::printf("own shift_convolution ran %d time\n", Mine::calls);
  if (Mine::calls == 0) throw ssm::Error("the override was not used");
}

}  // namespace

int main() {
  one_layer_and_its_stream();
  training();
  sizes_at_run_time();
  a_model();
  a_primitive_of_ones_own();
}
