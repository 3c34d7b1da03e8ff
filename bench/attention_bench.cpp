// SPDX-License-Identifier: Apache-2.0
// Causal attention of 12 heads of 64 channels, q, k and v side by side in one buffer as a
// projection writes them. FLOPs are those of the visible half of the scores: 2 products forward, 5
// backward.
#include <benchmark/benchmark.h>

#include "ssm/backend/cpu.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/tensor.hpp"

namespace {

using ssm::Index;
constexpr Index heads = 12;
constexpr Index width = 64;

struct Operands {
  Operands(Index b, Index l)
      : batch(b),
        length(l),
        qkv({b, l, 3 * heads * width}),
        dqkv({b, l, 3 * heads * width}),
        y({b, l, heads, width}),
        dy({b, l, heads, width}),
        log_sum({b, l, heads}) {
    ssm::fill_normal(qkv, ssm::Seed{1});
    ssm::fill_normal(dy, ssm::Seed{2});
  }
  template <class T>
  static ssm::View<T, 4> part(ssm::View<T, 3> x, Index which) {
    x = x.slice(2, which * heads * width, (which + 1) * heads * width);
    return {
        x.data(), {x.extent(0), x.extent(1), heads, width}, {x.stride(0), x.stride(1), width, 1}};
  }
  ssm::Attention<float, ssm::HostSpace> forward() {
    return {.scale = 0.125,
            .q = part<const float>(qkv, 0),
            .k = part<const float>(qkv, 1),
            .v = part<const float>(qkv, 2),
            .y = y,
            .log_sum = log_sum};
  }
  ssm::AttentionBackward<float, ssm::HostSpace> backward() {
    return {.forward = forward(),
            .y = y,
            .log_sum = log_sum,
            .dy = dy,
            .dq = part<float>(dqkv, 0),
            .dk = part<float>(dqkv, 1),
            .dv = part<float>(dqkv, 2)};
  }
  double product() const {  // FLOPs of one product over the visible scores
    return 2.0 * static_cast<double>(batch * heads * width) * 0.5 *
           static_cast<double>(length * (length + 1));
  }
  Index batch, length;
  ssm::DynamicTensor<float, 3> qkv, dqkv;
  ssm::DynamicTensor<float, 4> y, dy;
  ssm::DynamicTensor<float, 3> log_sum;
};

void count_operations(benchmark::State& state, double operations) {
  state.counters["FLOPS"] = benchmark::Counter(operations * static_cast<double>(state.iterations()),
                                               benchmark::Counter::kIsRate);
}

void forward(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(static_cast<int>(state.range(2)))};
  Operands operands(state.range(0), state.range(1));
  for (auto _ : state) ssm::attention(ctx, operands.forward());
  count_operations(state, 2 * operands.product());
}
void backward(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(static_cast<int>(state.range(2)))};
  Operands operands(state.range(0), state.range(1));
  ssm::attention(ctx, operands.forward());
  for (auto _ : state) ssm::attention_backward(ctx, operands.backward());
  count_operations(state, 5 * operands.product());
}
void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "L", "threads"})->UseRealTime();
  for (const Index threads : {1, 2}) {
    bench->Args({4, 1024, threads});
    bench->Args({1, 4096, threads});
  }
}
BENCHMARK(forward)->Apply(shapes);
BENCHMARK(backward)->Apply(shapes);

/// One new position over a cache [T, 1, heads, width].
void step(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(static_cast<int>(state.range(1)))};
  const Index cached = state.range(0);
  ssm::DynamicTensor<float, 4> q({1, 1, heads, width}), y({1, 1, heads, width});
  ssm::DynamicTensor<float, 4> k({cached, 1, heads, width}), v({cached, 1, heads, width});
  for (auto* x : {&q, &k, &v}) ssm::fill_normal(*x, ssm::Seed{1});
  for (auto _ : state)
    ssm::attention(
        ctx, ssm::Attention<float, ssm::HostSpace>{
                 .scale = 0.125, .q = q, .k = k.transpose(0, 1), .v = v.transpose(0, 1), .y = y});
  state.SetBytesProcessed(state.iterations() * 2 * k.size() * Index{sizeof(float)});
}
BENCHMARK(step)
    ->ArgNames({"cached", "threads"})
    ->ArgsProduct({{128, 1024, 8192}, {1, 2}})
    ->UseRealTime();

/// Rotary embedding of q and k.
void rotate(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(1)};
  Operands operands(1, state.range(0));
  for (auto _ : state)
    for (const Index which : {0, 1}) {
      const auto x = Operands::part<float>(operands.qkv, which);
      ssm::rotary(ctx, ssm::Rotary<float, ssm::HostSpace>{.dimension = width, .x = x, .y = x});
    }
  state.SetItemsProcessed(state.iterations() * 2 * state.range(0) * heads * width);
}
BENCHMARK(rotate)->ArgName("L")->Arg(1)->Arg(512);

}  // namespace
