// SPDX-License-Identifier: Apache-2.0
#include "floors.hpp"
#include "ssm/backend/cpu/matmul_eigen.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct CpuWithEigen : Cpu {
  template <class Ctx, class T>
  static void matmul(Ctx& ctx, const ssm::Matmul<T, HostSpace>& a) {
    cpu::MatmulEigen<>::matmul(ctx, a);
  }
};

/// `product` 0: y = x·Wᵀ, 1: dx = dy·W, 2: dW += dyᵀ·x, for a layer from `in` to `out` on `tokens`
/// rows.
template <class Backend>
void layer(benchmark::State& state) {
  const Index tokens = state.range(0), in = state.range(1), out = state.range(2);
  const int threads = static_cast<int>(state.range(4));
  Context<Backend> ctx{cpu::Resources(threads)};
  auto x = random_tensor<float>("x", tokens, in);
  auto y = random_tensor<float>("y", tokens, out);
  auto weight = random_tensor<float>("weight", out, in);
  ssm::Matmul<float, HostSpace> product{.a = x, .b = weight.transpose(0, 1), .c = y};
  if (state.range(3) == 1) product = {.a = y, .b = weight, .c = x};
  if (state.range(3) == 2)
    product = {.a = y.transpose(0, 1), .b = x, .accumulate = true, .c = weight};
  const double operations =
      static_cast<double>(tokens) * static_cast<double>(in) * static_cast<double>(out);
  bench::measure<float>(state, threads, operations,
                        {.fused = operations / cpu::lane_count<float, xsimd::default_arch>,
                         .bytes = tokens <= 16 ? 4.0 * static_cast<double>(weight.size()) : 0.0},
                        [&] { matmul(ctx, product); });
}

/// y = x·Wᵀ for a few rows, with the weights kept in bf16.
void layer_in_bf16(benchmark::State& state) {
  const Index tokens = state.range(0), in = state.range(1), out = state.range(2);
  const int threads = static_cast<int>(state.range(3));
  Context<Cpu> ctx{cpu::Resources(threads)};
  auto x = random_tensor<float>("x", tokens, in);
  auto y = random_tensor<float>("y", tokens, out);
  const auto numbers = random_tensor<float>("weight", out, in);
  DynamicTensor<BFloat16, 2> weight({out, in});
  for (Index i = 0; i < weight.size(); ++i) weight.data()[i] = BFloat16(numbers.data()[i]);
  const ssm::Matmul<float, HostSpace> product{.a = x, .b_bf16 = weight.transpose(0, 1), .c = y};
  const double operations =
      static_cast<double>(tokens) * static_cast<double>(in) * static_cast<double>(out);
  bench::measure<float>(state, threads, operations,
                        {.fused = operations / cpu::lane_count<float, xsimd::default_arch>,
                         .bytes = 2.0 * static_cast<double>(weight.size())},
                        [&] { matmul(ctx, product); });
}

void few_rows(benchmark::internal::Benchmark* b) {
  b->ArgNames({"tokens", "in", "out", "threads"})->UseRealTime();
  for (const int tokens : {1, 4, 8, 16})
    for (const int threads : {1, 2}) b->Args({tokens, 4096, 16384, threads});
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"tokens", "in", "out", "product", "threads"})->UseRealTime();
  for (const int product : {0, 1, 2})
    for (const int threads : {1, 2}) {
      b->Args({512, 768, 768, product, threads});
      b->Args({512, 768, 3072, product, threads});
      b->Args({2048, 192, 768, product, threads});
    }
  for (const int tokens : {1, 4, 8, 16})
    for (const int threads : {1, 2}) b->Args({tokens, 4096, 4096, 0, threads});
}

}  // namespace

BENCHMARK(layer<Cpu>)->Name("matmul/panels")->Apply(shapes);
BENCHMARK(layer_in_bf16)->Name("matmul/bf16")->Apply(few_rows);
BENCHMARK(layer<CpuWithEigen>)->Name("matmul/eigen")->Apply(shapes);
