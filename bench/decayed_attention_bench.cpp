// SPDX-License-Identifier: Apache-2.0
// Decayed attention with the head widths of RetNet and DenseRetNet. The floor counts the operations
// that a chunked form cannot do without: 4·K·V per row forward, 10·K·V backward; within the chunk
// nothing. A step reads and writes the state.
#include "floors.hpp"

namespace {

using ssm::Index;

struct Operands {
  explicit Operands(const benchmark::State& state, Index rows)
      : length(rows),
        heads(state.range(0)),
        keys(state.range(1)),
        values(state.range(2)),
        q(ssm::test::random_tensor<float>("q", 1, length, heads, keys)),
        k(ssm::test::random_tensor<float>("k", 1, length, heads, keys)),
        v(ssm::test::random_tensor<float>("v", 1, length, heads, values)),
        y({1, length, heads, values}),
        dq(q.extents()),
        dk(q.extents()),
        dv(y.extents()),
        memory({1, heads, keys, values}),
        log_decay({heads}) {
    for (Index h = 0; h < heads; ++h)
      log_decay(h) = static_cast<float>(std::log1p(-std::exp2(-5.0 - static_cast<double>(h))));
  }
  ssm::DecayedAttention<float, ssm::HostSpace> forward() {
    return {.q = q, .k = k, .v = v, .log_decay = log_decay, .y = y};
  }
  ssm::DecayedAttentionBackward<float, ssm::HostSpace> backward() {
    return {.forward = forward(), .dy = v, .dq = dq, .dk = dk, .dv = dv};
  }
  double products() const {  // of registers, one for each element of the state at every row
    return static_cast<double>(length * heads * keys * values) /
           static_cast<double>(ssm::cpu::lane_count<float, xsimd::default_arch>);
  }
  double elements() const { return static_cast<double>(length * heads * values); }

  Index length, heads, keys, values;
  ssm::DynamicTensor<float, 4> q, k, v, y, dq, dk, dv, memory;
  ssm::DynamicTensor<float, 1> log_decay;
};

void forward(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(static_cast<int>(state.range(4)))};
  Operands operands(state, state.range(3));
  ssm::bench::measure<float>(state, static_cast<int>(state.range(4)), operands.elements(),
                             {.fused = 2 * operands.products()},
                             [&] { ssm::decayed_attention(ctx, operands.forward()); });
}
void forward_and_backward(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(static_cast<int>(state.range(4)))};
  Operands operands(state, state.range(3));
  ssm::bench::measure<float>(state, static_cast<int>(state.range(4)), operands.elements(),
                             {.fused = 7 * operands.products()}, [&] {
                               ssm::decayed_attention(ctx, operands.forward());
                               ssm::decayed_attention_backward(ctx, operands.backward());
                             });
}
void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"H", "K", "V", "L", "threads"})->UseRealTime();
  for (const Index threads : {1, 2}) {
    bench->Args({4, 256, 512, 2048, threads});
    bench->Args({4, 256, 512, 8192, threads});
    bench->Args({2, 384, 1536, 2048, threads});
    bench->Args({1, 64, 64, 2048, threads});
  }
}
BENCHMARK(forward)->Apply(shapes);
BENCHMARK(forward_and_backward)->Apply(shapes);

void step(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(3));
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(threads)};
  Operands operands(state, 1);
  auto call = operands.forward();
  call.initial_state = operands.memory;
  call.final_state = operands.memory;
  ssm::bench::measure<float>(state, threads, operands.elements(),
                             {.bytes = ssm::operand_bytes(call)},
                             [&] { ssm::decayed_attention(ctx, call); });
}
BENCHMARK(step)
    ->ArgNames({"H", "K", "V", "threads"})
    ->ArgsProduct({{4, 64}, {256}, {512}, {1, 2}})
    ->UseRealTime();

/// What the parallel form's normalizer costs on top.
void score_norm(benchmark::State& state) {
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(static_cast<int>(state.range(4)))};
  Operands operands(state, state.range(3));
  ssm::DynamicTensor<float, 3> y({1, operands.length, operands.heads});
  const double products = operands.products() * static_cast<double>(operands.length + 1) / 2 /
                          static_cast<double>(operands.values);
  ssm::bench::measure<float>(
      state, static_cast<int>(state.range(4)), operands.elements(), {.fused = products}, [&] {
        ssm::decayed_score_norm(
            ctx, ssm::DecayedScoreNorm<float, ssm::HostSpace>{
                     .q = operands.q, .k = operands.k, .log_decay = operands.log_decay, .y = y});
      });
}
BENCHMARK(score_norm)
    ->ArgNames({"H", "K", "V", "L", "threads"})
    ->Args({4, 256, 512, 2048, 2})
    ->UseRealTime();

}  // namespace
