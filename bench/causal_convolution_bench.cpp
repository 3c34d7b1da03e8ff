// SPDX-License-Identifier: Apache-2.0
// The causal convolution by each of its methods. Items are elements of [B, L, D]; the kernel is as
// long as the sequence.
#include <benchmark/benchmark.h>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/cpu/fft_eigen.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/tensor.hpp"
#if defined(SSM_WITH_FFTW)
#include "ssm/backend/cpu/fft_fftw.hpp"
#endif

namespace {

using ssm::Index;
using Arch = xsimd::default_arch;

template <template <class> class Method>
struct CpuWith : ssm::Cpu {
  template <class Ctx, class T>
  static void causal_convolution(Ctx& ctx, const ssm::CausalConvolution<T, ssm::HostSpace>& a) {
    Method<T>::run(ctx, a);
  }
  template <class Ctx, class T>
  static void causal_convolution_backward(
      Ctx& ctx, const ssm::CausalConvolutionBackward<T, ssm::HostSpace>& g) {
    Method<T>::run_backward(ctx, g);
  }
};
template <class T>
using Direct = ssm::cpu::CausalConvolutionDirect<T, Arch>;
template <class T>
using Lanes = ssm::cpu::CausalConvolutionFft<T, Arch, ssm::cpu::LaneFft>;
template <class T>
using Eigen_ = ssm::cpu::CausalConvolutionFft<T, Arch, ssm::cpu::EigenFft>;

template <class T>
struct Operands {
  Operands(Index batch, Index channels, Index length, bool gated)
      : kernel({channels, length}),
        dkernel({channels, length}),
        skip({channels}),
        dskip({channels}),
        x({batch, length, channels}),
        y({batch, length, channels}),
        dy({batch, length, channels}),
        dx({batch, length, channels}) {
    ssm::fill_normal(kernel, ssm::Seed{1});
    ssm::fill_normal(x, ssm::Seed{2});
    ssm::fill_normal(dy, ssm::Seed{3});
    if (!gated) return;
    for (auto* gate : {&gate_in, &gate_out, &dgate_in, &dgate_out}) {
      *gate = ssm::DynamicTensor<T, 3>({batch, length, channels});
      ssm::fill_normal(*gate, ssm::Seed{4});
    }
  }
  ssm::CausalConvolution<T, ssm::HostSpace> forward() {
    return {
        .kernel = kernel, .skip = skip, .x = x, .gate_in = gate_in, .gate_out = gate_out, .y = y};
  }
  ssm::CausalConvolutionBackward<T, ssm::HostSpace> backward() {
    return {.forward = forward(),
            .dy = dy,
            .dx = dx,
            .dgate_in = dgate_in,
            .dgate_out = dgate_out,
            .dkernel = dkernel,
            .dskip = dskip};
  }
  ssm::DynamicTensor<T, 2> kernel, dkernel;
  ssm::DynamicTensor<T, 1> skip, dskip;
  ssm::DynamicTensor<T, 3> x, y, dy, dx, gate_in, gate_out, dgate_in, dgate_out;
};

/// Arguments: batch, channels, length, threads, gates.
template <class Backend, class T>
void forward(benchmark::State& state) {
  ssm::Context<Backend> ctx{ssm::cpu::Resources(static_cast<int>(state.range(3)))};
  Operands<T> operands(state.range(0), state.range(1), state.range(2), state.range(4) != 0);
  ssm::causal_convolution(ctx, operands.forward());  // makes the plan
  for (auto _ : state) ssm::causal_convolution(ctx, operands.forward());
  state.SetItemsProcessed(state.iterations() * operands.x.size());
}
template <class Backend, class T>
void forward_and_backward(benchmark::State& state) {
  ssm::Context<Backend> ctx{ssm::cpu::Resources(static_cast<int>(state.range(3)))};
  Operands<T> operands(state.range(0), state.range(1), state.range(2), state.range(4) != 0);
  for (auto _ : state) {
    ssm::causal_convolution(ctx, operands.forward());
    ssm::causal_convolution_backward(ctx, operands.backward());
  }
  state.SetItemsProcessed(state.iterations() * operands.x.size());
}

void short_shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "D", "L", "threads", "gates"})->UseRealTime();
  for (const Index length : {64, 256, 1024}) bench->Args({8, 256, length, 1, 0});
}
void shapes(benchmark::internal::Benchmark* bench) {
  short_shapes(bench);
  bench->Args({8, 256, 1024, 2, 0});
  bench->Args({4, 256, 8192, 2, 0});
  bench->Args({1, 256, 65536, 2, 0});
  bench->Args({1, 16, 1 << 20, 2, 0});
}
void gated_shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "D", "L", "threads", "gates"})->UseRealTime();
  for (const Index gates : {0, 1}) {
    bench->Args({8, 256, 1024, 2, gates});
    bench->Args({4, 256, 8192, 2, gates});
    bench->Args({1, 256, 65536, 2, gates});
  }
}

BENCHMARK(forward<CpuWith<Direct>, float>)->Apply(short_shapes);
BENCHMARK(forward<CpuWith<Lanes>, float>)->Apply(shapes);
BENCHMARK(forward<CpuWith<Eigen_>, float>)->Apply(shapes);
BENCHMARK(forward<CpuWith<Lanes>, double>)->Apply(short_shapes);
BENCHMARK(forward_and_backward<CpuWith<Lanes>, float>)->Apply(gated_shapes);
#if defined(SSM_WITH_FFTW)
template <class T>
using Fftw = ssm::cpu::CausalConvolutionFft<T, Arch, ssm::cpu::FftwFft>;
template <class T>
using MeasuredFftw = ssm::cpu::CausalConvolutionFft<T, Arch, ssm::cpu::PlannedFftw<FFTW_MEASURE>>;
BENCHMARK(forward<CpuWith<Fftw>, float>)->Apply(shapes);
BENCHMARK(forward<CpuWith<MeasuredFftw>, float>)->Apply(shapes);
BENCHMARK(forward<CpuWith<Fftw>, double>)->Apply(short_shapes);
BENCHMARK(forward_and_backward<CpuWith<Fftw>, float>)->Apply(gated_shapes);
#endif

}  // namespace
