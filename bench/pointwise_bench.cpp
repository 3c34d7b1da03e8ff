// SPDX-License-Identifier: Apache-2.0
#include "floors.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

constexpr Index rows = 4096;
constexpr Index width = 1536;  // 25 MB an operand: nothing stays in the cache

double elements() { return static_cast<double>(rows * width); }
bench::Floor streams(double count) { return {.bytes = 4 * count * elements()}; }

void activations(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(1));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto x = random_tensor<float>("x", rows, width);
  auto y = zero_tensor<float>(rows, width);
  bench::measure<float>(state, threads, elements(), streams(2), [&] {
    activation(ctx, Activation<float, HostSpace>{
                        .kind = static_cast<ActivationKind>(state.range(0)), .x = x, .y = y});
  });
}

void normalizations(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(1));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto x = random_tensor<float>("x", rows, width);
  auto y = zero_tensor<float>(rows, width);
  auto weight = random_tensor<float>("weight", width);
  auto mean = zero_tensor<float>(rows);
  auto scale = zero_tensor<float>(rows);
  auto dweight = zero_tensor<float>(width);
  const Normalization<float, HostSpace> forward{
      .x = x, .weight = weight, .y = y, .mean = mean, .scale = scale};
  if (state.range(0) == 0) {
    bench::measure<float>(state, threads, elements(), streams(2),
                          [&] { normalization(ctx, forward); });
  } else {
    normalization(ctx, forward);
    auto dy = random_tensor<float>("dy", rows, width);
    bench::measure<float>(state, threads, elements(), streams(3), [&] {
      normalization_backward(ctx, NormalizationBackward<float, HostSpace>{.forward = forward,
                                                                          .mean = mean,
                                                                          .scale = scale,
                                                                          .dy = dy,
                                                                          .dx = y,
                                                                          .dweight = dweight});
    });
  }
}

void adamw(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto parameter = random_tensor<float>("p", rows * width);
  auto gradient = random_tensor<float>("g", rows * width);
  auto first = zero_tensor<float>(rows * width);
  auto second = zero_tensor<float>(rows * width);
  bench::measure<float>(state, threads, elements(), streams(7), [&] {
    adamw_update(ctx, AdamWUpdate<float, HostSpace>{.parameter = parameter,
                                                    .gradient = gradient,
                                                    .first_moment = first,
                                                    .second_moment = second});
  });
}

void dropouts(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto x = random_tensor<float>("x", rows * width);
  auto y = zero_tensor<float>(rows * width);
  bench::measure<float>(state, threads, elements(), streams(2), [&] {
    dropout(ctx, Dropout<float, HostSpace>{.probability = 0.1, .seed = Seed{1}, .x = x, .y = y});
  });
}

void cross_entropies(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(1));
  Context<Cpu> ctx{cpu::Resources(threads)};
  const Index vocabulary = state.range(0);
  const Index count = rows * width / vocabulary;
  auto logits = random_tensor<float>("logits", count, vocabulary);
  auto dlogits = zero_tensor<float>(count, vocabulary);
  auto loss = zero_tensor<float>(1);
  DynamicTensor<Token, 1> targets({count});
  bench::measure<float>(state, threads, static_cast<double>(logits.size()), streams(2), [&] {
    cross_entropy(ctx, CrossEntropy<float, HostSpace>{
                           .logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits});
  });
}

}  // namespace

BENCHMARK(activations)
    ->Name("activation")
    ->ArgNames({"kind", "threads"})
    ->ArgsProduct({{0, 2, 3, 4}, {1, 2}})
    ->UseRealTime();
BENCHMARK(normalizations)
    ->Name("normalization")
    ->ArgNames({"backward", "threads"})
    ->ArgsProduct({{0, 1}, {1, 2}})
    ->UseRealTime();
BENCHMARK(adamw)->Name("adamw_update")->ArgNames({"threads"})->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(dropouts)->Name("dropout")->ArgNames({"threads"})->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(cross_entropies)
    ->Name("cross_entropy")
    ->ArgNames({"V", "threads"})
    ->ArgsProduct({{256, 50304}, {1, 2}})
    ->UseRealTime();
