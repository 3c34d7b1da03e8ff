// SPDX-License-Identifier: Apache-2.0
#include "floors.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

constexpr Index states = 16;

struct Operands {
  Operands(Index batch, Index length, Index channels)
      : A(random_tensor<float>("A", channels, states)),
        skip(random_tensor<float>("skip", channels)),
        bias(random_tensor<float>("bias", channels)),
        u(random_tensor<float>("u", batch, length, channels)),
        dt(random_tensor<float>("delta", batch, length, channels)),
        gate(random_tensor<float>("gate", batch, length, channels)),
        dy(random_tensor<float>("dy", batch, length, channels)),
        B(random_tensor<float>("B", batch, length, states)),
        C(random_tensor<float>("C", batch, length, states)),
        state(random_tensor<float>("state", batch, channels, states)),
        y(zero_tensor<float>(batch, length, channels)),
        du(zero_tensor<float>(batch, length, channels)),
        ddt(zero_tensor<float>(batch, length, channels)),
        dgate(zero_tensor<float>(batch, length, channels)),
        dB(zero_tensor<float>(batch, length, states)),
        dC(zero_tensor<float>(batch, length, states)),
        dA(zero_tensor<float>(channels, states)),
        dskip(zero_tensor<float>(channels)),
        dbias(zero_tensor<float>(channels)) {
    for_each_index(A, [&](Index d, Index n) { A(d, n) = -static_cast<float>(n + 1); });
    for_each_index(bias, [&](Index d) { bias(d) -= 4; });
  }
  SelectiveScan<float, HostSpace> forward() {
    return {.u = u,
            .dt = dt,
            .A = A,
            .B = B,
            .C = C,
            .skip = skip,
            .dt_bias = bias,
            .gate = gate,
            .dt_softplus = true,
            .y = y};
  }
  SelectiveScanBackward<float, HostSpace> backward() {
    return {.forward = forward(),
            .dy = dy,
            .du = du,
            .ddt = ddt,
            .dA = dA,
            .dB = dB,
            .dC = dC,
            .dskip = dskip,
            .ddt_bias = dbias,
            .dgate = dgate};
  }
  DynamicTensor<float, 2> A;
  DynamicTensor<float, 1> skip, bias;
  DynamicTensor<float, 3> u, dt, gate, dy, B, C, state, y, du, ddt, dgate, dB, dC;
  DynamicTensor<float, 2> dA;
  DynamicTensor<float, 1> dskip, dbias;
};

double registers(const Operands& o) {
  return static_cast<double>(o.u.size()) / cpu::lane_count<float, xsimd::default_arch>;
}

/// 8 operations for the exponential of a state, 3 for the state and what it says.
void forward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(state, threads, static_cast<double>(o.u.size()),
                        {.fused = 11 * states * registers(o)},
                        [&] { selective_scan(ctx, o.forward()); });
}

/// Exponentials and states twice, once for the boundaries and once inside a chunk; 9 for the
/// adjoint and its sums.
void backward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(state, threads, static_cast<double>(o.u.size()),
                        {.fused = (2 * 10 + 9) * states * registers(o)},
                        [&] { selective_scan_backward(ctx, o.backward()); });
}

void forward_and_backward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(state, threads, static_cast<double>(o.u.size()),
                        {.fused = (3 * 10 + 10) * states * registers(o)}, [&] {
                          selective_scan(ctx, o.forward());
                          selective_scan_backward(ctx, o.backward());
                        });
}

void step(benchmark::State& state) {
  Operands o(state.range(0), 1, state.range(1));
  const int threads = static_cast<int>(state.range(2));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto scan = o.forward();
  scan.initial_state = o.state;
  scan.final_state = o.state;
  bench::measure<float>(state, threads, static_cast<double>(o.u.size()),
                        {.bytes = operand_bytes(scan)}, [&] { selective_scan(ctx, scan); });
}

}  // namespace

BENCHMARK(forward)
    ->Name("selective_scan/forward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 512, 768, 1})
    ->Args({1, 512, 768, 2})
    ->Args({4, 2048, 1536, 2});
BENCHMARK(backward)
    ->Name("selective_scan/backward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 512, 768, 1})
    ->Args({1, 512, 768, 2})
    ->Args({4, 2048, 1536, 2});
BENCHMARK(forward_and_backward)
    ->Name("selective_scan/forward_and_backward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 512, 768, 2})
    ->Args({4, 2048, 1536, 2});
BENCHMARK(step)
    ->Name("selective_scan/step")
    ->ArgNames({"B", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 1536, 1})
    ->Args({1, 1536, 2})
    ->Args({8, 1536, 2});
