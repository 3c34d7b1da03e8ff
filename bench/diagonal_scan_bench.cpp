// SPDX-License-Identifier: Apache-2.0
#include "floors.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

constexpr Index modes = 32;  // 64 states

struct Operands {
  Operands(Index batch, Index length, Index channels)
      : dt(random_tensor<float>("dt", channels)),
        A(random_tensor<float>("A", channels, modes, 2)),
        B(random_tensor<float>("B", channels, modes, 2)),
        C(random_tensor<float>("C", channels, modes, 2)),
        x(random_tensor<float>("x", batch, length, channels)),
        dy(random_tensor<float>("dy", batch, length, channels)),
        y(zero_tensor<float>(batch, length, channels)),
        state(random_tensor<float>("state", batch, channels, modes, 2)),
        ddt(zero_tensor<float>(channels)),
        dA(zero_tensor<float>(channels, modes, 2)),
        dB(zero_tensor<float>(channels, modes, 2)),
        dC(zero_tensor<float>(channels, modes, 2)) {
    for_each_index(dt, [&](Index r) { dt(r) = 0.01F + 0.005F * dt(r); });
    for_each_index(A, [&](Index r, Index p, Index part) {
      A(r, p, part) = part == 0 ? -0.5F : 3.14F * static_cast<float>(p);
    });
  }
  DiagonalScan<float, HostSpace> forward() {
    return {.dt = dt, .A = A, .B = B, .C = C, .x = x, .y = y};
  }
  DynamicTensor<float, 1> dt;
  DynamicTensor<float, 3> A, B, C, x, dy, y;
  DynamicTensor<float, 4> state;
  DynamicTensor<float, 1> ddt;
  DynamicTensor<float, 3> dA, dB, dC;
};

double registers(const Operands& o) {
  return static_cast<double>(o.x.size()) / cpu::lane_count<float, xsimd::default_arch>;
}

/// 4 operations for the state of a mode and 2 for what it says.
void forward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(state, threads, static_cast<double>(o.x.size()),
                        {.fused = 6 * modes * registers(o)},
                        [&] { diagonal_scan(ctx, o.forward()); });
}

/// 4 for the boundary states, 4 to compute the states again, 12 for the adjoint and its sums.
void backward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(
      state, threads, static_cast<double>(o.x.size()), {.fused = 20 * modes * registers(o)}, [&] {
        diagonal_scan_backward(ctx, DiagonalScanBackward<float, HostSpace>{.forward = o.forward(),
                                                                           .dy = o.dy,
                                                                           .dx = o.y,
                                                                           .ddt = o.ddt,
                                                                           .dA = o.dA,
                                                                           .dB = o.dB,
                                                                           .dC = o.dC});
      });
}

void step(benchmark::State& state) {
  Operands o(state.range(0), 1, state.range(1));
  const int threads = static_cast<int>(state.range(2));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto scan = o.forward();
  scan.initial_state = o.state;
  scan.final_state = o.state;
  bench::measure<float>(state, threads, static_cast<double>(o.x.size()),
                        {.bytes = operand_bytes(scan)}, [&] { diagonal_scan(ctx, scan); });
}

}  // namespace

BENCHMARK(forward)
    ->Name("diagonal_scan/forward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({8, 1024, 256, 1})
    ->Args({8, 1024, 256, 2})
    ->Args({4, 8192, 256, 2})
    ->Args({1, 65536, 256, 2});
BENCHMARK(backward)
    ->Name("diagonal_scan/backward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({8, 1024, 256, 1})
    ->Args({8, 1024, 256, 2})
    ->Args({4, 8192, 256, 2});
BENCHMARK(step)
    ->Name("diagonal_scan/step")
    ->ArgNames({"B", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 768, 1})
    ->Args({1, 768, 2})
    ->Args({8, 768, 2});
