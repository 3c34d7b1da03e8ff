// SPDX-License-Identifier: Apache-2.0
// The scan of Mamba-2 with its published head widths. The floor counts, for each element of the
// state at every position, the operations that a recurrence cannot do without: forward 2 (the
// state, the readout), backward 1 for the state again and 6 (λ, its fading, and the sums for B, C,
// x and the decay). A step reads and writes the state.
#include "floors.hpp"

namespace {

using ssm::Index;

struct Operands {
  Operands(const benchmark::State& state, Index rows)
      : length(rows),
        heads(state.range(0)),
        channels(state.range(1)),
        states(state.range(2)),
        x(ssm::test::random_tensor<float>("x", 1, length, heads, channels)),
        B(ssm::test::random_tensor<float>("B", 1, length, 1, states)),
        C(ssm::test::random_tensor<float>("C", 1, length, 1, states)),
        dt(ssm::test::random_tensor<float>("dt", 1, length, heads)),
        y(x.extents()),
        dx(x.extents()),
        dB(B.extents()),
        dC(C.extents()),
        memory({1, heads, channels, states}),
        ddt(dt.extents()),
        A({heads}),
        skip(ssm::test::random_tensor<float>("skip", heads)),
        bias({heads}),
        dA({heads}),
        dskip({heads}),
        dbias({heads}) {
    for (Index h = 0; h < heads; ++h) {
      A(h) = -1 - static_cast<float>(h % 16);
      bias(h) = -4;  // steps near 0.02
    }
  }
  ssm::SsdScan<float, ssm::HostSpace> forward() {
    return {.x = x,
            .dt = dt,
            .A = A,
            .B = B,
            .C = C,
            .skip = skip,
            .dt_bias = bias,
            .dt_softplus = true,
            .y = y};
  }
  ssm::SsdScanBackward<float, ssm::HostSpace> backward() {
    return {.forward = forward(),
            .dy = x,
            .dx = dx,
            .ddt = ddt,
            .dA = dA,
            .dB = dB,
            .dC = dC,
            .dskip = dskip,
            .ddt_bias = dbias};
  }
  double registers() const {  // of the states of all positions
    return static_cast<double>(length * heads * channels * states) /
           static_cast<double>(ssm::cpu::lane_count<float, xsimd::default_arch>);
  }
  double elements() const { return static_cast<double>(length * heads * channels); }

  Index length, heads, channels, states;
  ssm::DynamicTensor<float, 4> x, B, C;
  ssm::DynamicTensor<float, 3> dt;
  ssm::DynamicTensor<float, 4> y, dx, dB, dC, memory;
  ssm::DynamicTensor<float, 3> ddt;
  ssm::DynamicTensor<float, 1> A, skip, bias, dA, dskip, dbias;
};

void forward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(4));
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(threads)};
  Operands operands(state, state.range(3));
  ssm::bench::measure<float>(state, threads, operands.elements(),
                             {.fused = 2 * operands.registers()},
                             [&] { ssm::ssd_scan(ctx, operands.forward()); });
}
void forward_and_backward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(4));
  ssm::Context<ssm::Cpu> ctx{ssm::cpu::Resources(threads)};
  Operands operands(state, state.range(3));
  ssm::bench::measure<float>(state, threads, operands.elements(),
                             {.fused = 9 * operands.registers()}, [&] {
                               ssm::ssd_scan(ctx, operands.forward());
                               ssm::ssd_scan_backward(ctx, operands.backward());
                             });
}
void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"H", "P", "N", "L", "threads"})->UseRealTime();
  for (const Index threads : {1, 2}) {
    bench->Args({24, 64, 128, 512, threads});
    bench->Args({24, 64, 128, 2048, threads});
    bench->Args({8, 64, 64, 2048, threads});
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
                             [&] { ssm::ssd_scan(ctx, call); });
}
BENCHMARK(step)
    ->ArgNames({"H", "P", "N", "threads"})
    ->ArgsProduct({{24, 80}, {64}, {128}, {1, 2}})
    ->UseRealTime();

}  // namespace
