// SPDX-License-Identifier: Apache-2.0
#include "floors.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

constexpr Index taps = 64;

struct Operands {
  Operands(Index batch, Index length, Index channels)
      : B(random_tensor<float>("B", channels, taps)),
        C(random_tensor<float>("C", channels, taps)),
        x(random_tensor<float>("x", batch, length, channels)),
        dy(random_tensor<float>("dy", batch, length, channels)),
        y(zero_tensor<float>(batch, length, channels)),
        dB(zero_tensor<float>(channels, taps)),
        dC(zero_tensor<float>(channels, taps)),
        state(random_tensor<float>("state", batch, channels, taps)) {}
  ShiftConvolution<float, HostSpace> forward() { return {.B = B, .C = C, .x = x, .y = y}; }
  DynamicTensor<float, 2> B, C;
  DynamicTensor<float, 3> x, dy, y;
  DynamicTensor<float, 2> dB, dC;
  DynamicTensor<float, 3> state;
};

double registers(const Operands& o) {
  return static_cast<double>(o.x.size()) / cpu::lane_count<float, xsimd::default_arch>;
}

void forward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(state, threads, static_cast<double>(o.x.size()),
                        {.fused = taps * registers(o)},
                        [&] { shift_convolution(ctx, o.forward()); });
}

/// One filter for dx, one correlation for the taps.
void backward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(
      state, threads, static_cast<double>(o.x.size()), {.fused = 2 * taps * registers(o)}, [&] {
        shift_convolution_backward(
            ctx, ShiftConvolutionBackward<float, HostSpace>{
                     .forward = o.forward(), .dy = o.dy, .dx = o.y, .dB = o.dB, .dC = o.dC});
      });
}

void step(benchmark::State& state) {
  Operands o(state.range(0), 1, state.range(1));
  const int threads = static_cast<int>(state.range(2));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto shift = o.forward();
  shift.initial_state = o.state;
  shift.final_state = o.state;
  bench::measure<float>(state, threads, static_cast<double>(o.x.size()),
                        {.bytes = operand_bytes(shift)}, [&] { shift_convolution(ctx, shift); });
}

}  // namespace

BENCHMARK(forward)
    ->Name("shift_convolution/forward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({8, 1024, 256, 1})
    ->Args({8, 1024, 256, 2})
    ->Args({4, 8192, 256, 2});
BENCHMARK(backward)
    ->Name("shift_convolution/backward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({8, 1024, 256, 1})
    ->Args({8, 1024, 256, 2})
    ->Args({4, 8192, 256, 2});
BENCHMARK(step)
    ->Name("shift_convolution/step")
    ->ArgNames({"B", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 768, 1})
    ->Args({1, 768, 2})
    ->Args({8, 768, 2});
