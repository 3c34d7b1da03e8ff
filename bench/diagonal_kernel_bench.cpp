// SPDX-License-Identifier: Apache-2.0
// The kernel of a diagonal SSM with 64 states a channel (32 complex modes), and its gradient. Items
// are elements of [R, L].
#include <benchmark/benchmark.h>

#include <type_traits>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/tensor.hpp"

namespace {

using ssm::Index;

template <class T>
struct Operands {
  Operands(Index rows, Index modes, Index length)
      : dt({rows}),
        ddt({rows}),
        A({rows, modes, 2}),
        B({rows, modes, 2}),
        C({rows, modes, 2}),
        dA({rows, modes, 2}),
        dB({rows, modes, 2}),
        dC({rows, modes, 2}),
        kernel({rows, length}) {
    ssm::fill(dt, T(0.01));
    ssm::fill_normal(B, ssm::Seed{1});
    ssm::fill_normal(C, ssm::Seed{2});
    for (Index r = 0; r < rows; ++r)
      for (Index p = 0; p < modes; ++p) {
        A(r, p, 0) = T(-0.5);
        A(r, p, 1) = T(3.14159265) * static_cast<T>(p);
      }
  }
  ssm::DiagonalKernel<T, ssm::HostSpace> forward() {
    return {.dt = dt, .A = A, .B = B, .C = C, .kernel = kernel};
  }
  ssm::DiagonalKernelBackward<T, ssm::HostSpace> backward() {
    return {.forward = forward(), .dkernel = kernel, .ddt = ddt, .dA = dA, .dB = dB, .dC = dC};
  }
  ssm::DynamicTensor<T, 1> dt, ddt;
  ssm::DynamicTensor<T, 3> A, B, C, dA, dB, dC;
  ssm::DynamicTensor<T, 2> kernel;
};

template <class Backend>
ssm::Context<Backend> one_thread() {
  using Resources = typename Backend::Resources;
  if constexpr (std::is_constructible_v<Resources, int>)
    return ssm::Context<Backend>(Resources(1));
  else
    return ssm::Context<Backend>();
}

template <class Backend, class T>
void kernel(benchmark::State& state) {
  auto ctx = one_thread<Backend>();
  Operands<T> operands(state.range(0), 32, state.range(1));
  for (auto _ : state) ssm::diagonal_kernel(ctx, operands.forward());
  state.SetItemsProcessed(state.iterations() * operands.kernel.size());
}
template <class Backend, class T>
void kernel_backward(benchmark::State& state) {
  auto ctx = one_thread<Backend>();
  Operands<T> operands(state.range(0), 32, state.range(1));
  ssm::fill_normal(operands.kernel, ssm::Seed{3});
  for (auto _ : state) ssm::diagonal_kernel_backward(ctx, operands.backward());
  state.SetItemsProcessed(state.iterations() * operands.kernel.size());
}
void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"R", "L"})->Args({256, 1024})->Args({64, 8192})->Args({16, 65536});
}
BENCHMARK(kernel<ssm::Cpu, float>)->Apply(shapes);
BENCHMARK(kernel<ssm::Cpu, double>)->Apply(shapes);
BENCHMARK(kernel<ssm::Reference, float>)->Apply(shapes);
BENCHMARK(kernel_backward<ssm::Cpu, float>)->Apply(shapes);
BENCHMARK(kernel_backward<ssm::Cpu, double>)->Apply(shapes);
BENCHMARK(kernel_backward<ssm::Reference, float>)->Apply(shapes);

}  // namespace
