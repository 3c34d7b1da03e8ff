// SPDX-License-Identifier: Apache-2.0
#include "floors.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

constexpr Index taps = 4;

struct Operands {
  Operands(Index batch, Index length, Index channels)
      : weight(random_tensor<float>("weight", channels, taps)),
        bias(random_tensor<float>("bias", channels)),
        x(random_tensor<float>("x", batch, length, channels)),
        dy(random_tensor<float>("dy", batch, length, channels)),
        state(random_tensor<float>("state", batch, channels, taps)),
        y(zero_tensor<float>(batch, length, channels)),
        dx(zero_tensor<float>(batch, length, channels)),
        dweight(zero_tensor<float>(channels, taps)),
        dbias(zero_tensor<float>(channels)) {}
  ShortConvolution<float, HostSpace> forward() {
    return {.weight = weight, .bias = bias, .activation = ActivationKind::silu, .x = x, .y = y};
  }
  ShortConvolutionBackward<float, HostSpace> backward() {
    return {.forward = forward(), .dy = dy, .dx = dx, .dweight = dweight, .dbias = dbias};
  }
  DynamicTensor<float, 2> weight;
  DynamicTensor<float, 1> bias;
  DynamicTensor<float, 3> x, dy, state, y, dx;
  DynamicTensor<float, 2> dweight;
  DynamicTensor<float, 1> dbias;
};

double bytes_of(const Operands& o) { return 4.0 * static_cast<double>(o.x.size()); }

/// x is read; a line of y is read before it is written.
void forward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(state, threads, static_cast<double>(o.x.size()), {.bytes = 3 * bytes_of(o)},
                        [&] { short_convolution(ctx, o.forward()); });
}

/// x and dy are read; a line of dx is read before it is written.
void forward_and_backward(benchmark::State& state) {
  Operands o(state.range(0), state.range(1), state.range(2));
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  bench::measure<float>(state, threads, static_cast<double>(o.x.size()), {.bytes = 7 * bytes_of(o)},
                        [&] {
                          short_convolution(ctx, o.forward());
                          short_convolution_backward(ctx, o.backward());
                        });
}

void step(benchmark::State& state) {
  Operands o(state.range(0), 1, state.range(1));
  const int threads = static_cast<int>(state.range(2));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto short_filter = o.forward();
  short_filter.initial_state = o.state;
  short_filter.final_state = o.state;
  bench::measure<float>(state, threads, static_cast<double>(o.x.size()),
                        {.bytes = operand_bytes(short_filter)},
                        [&] { short_convolution(ctx, short_filter); });
}

}  // namespace

BENCHMARK(forward)
    ->Name("short_convolution/forward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 512, 1536, 2})
    ->Args({4, 2048, 1536, 1})
    ->Args({4, 2048, 1536, 2});
BENCHMARK(forward_and_backward)
    ->Name("short_convolution/forward_and_backward")
    ->ArgNames({"B", "L", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 512, 1536, 2})
    ->Args({4, 2048, 1536, 1})
    ->Args({4, 2048, 1536, 2});
BENCHMARK(step)
    ->Name("short_convolution/step")
    ->ArgNames({"B", "D", "threads"})
    ->UseRealTime()
    ->Args({1, 1536, 1})
    ->Args({8, 1536, 1});
