// SPDX-License-Identifier: Apache-2.0
// Times of the tensor-core and the general kernels behind one call, operands [B, L, D] of floats
// with contiguous channels as layers have them: what cuda::Automatic chooses by. And an SSM by
// either of its forms, scan or convolution.
//   cuda_choice [results.json]
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "ssm/backend/cuda.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/transfer.hpp"
#include "ssm/op/causal_convolution.hpp"
#include "ssm/op/diagonal_kernel.hpp"
#include "ssm/op/diagonal_scan.hpp"
#include "ssm/op/shift_convolution.hpp"

namespace {

using namespace ssm;
using cuda::CudaSpace;

template <class Choice>
struct Backend : cuda::primitive::BasicDiagonalScan<Choice>,
                 cuda::primitive::BasicShiftConvolution<Choice>,
                 cuda::primitive::BasicCausalConvolution<Choice>,
                 cuda::primitive::DiagonalKernel {
  using Space = CudaSpace;
  using Resources = cuda::Resources;
};

template <int Rank>
using DeviceTensor = DynamicTensor<float, Rank, CudaSpace>;

/// Normal numbers, the same few over and over.
template <class... N>
DeviceTensor<int{sizeof...(N)}> normal(Seed seed, double scale, N... extents) {
  DynamicTensor<float, 1> some({4096});
  fill_normal(some, seed, 0.0, scale);
  DynamicTensor<float, int{sizeof...(N)}> host({Index{extents}...});
  for (Index at = 0; at < host.size(); at += some.size())
    std::copy_n(some.data(), std::min(some.size(), host.size() - at), host.data() + at);
  DeviceTensor<int{sizeof...(N)}> device;
  copy_tensor(host, device);
  return device;
}

/// Median microseconds of a call that queues work, of five times twenty.
template <class B>
double microseconds(Context<B>& ctx, const std::function<void()>& call) {
  constexpr int calls = 20;
  for (int i = 0; i < 3; ++i) call();
  std::array<double, 5> times{};
  for (double& time : times) {
    ctx.resources().synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    ctx.resources().synchronize();
    time = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
               .count() /
           calls;
  }
  std::ranges::sort(times);
  return times[2];
}

constexpr Index channels = 768;

/// Operands of all three primitives over sequences of `length`.
struct Operands {
  Operands(Index batch, Index length, Index terms, Index modes)
      : x(normal(Seed{1}, 1, batch, length, channels)),
        dy(normal(Seed{2}, 1, batch, length, channels)),
        y(x.extents()),
        dx(x.extents()),
        left(normal(Seed{3}, 0.1, channels, terms)),
        right(normal(Seed{4}, 0.1, channels, terms)),
        dleft(left.extents()),
        dright(left.extents()),
        dt(normal(Seed{5}, 0, channels)),
        ddt(dt.extents()),
        coefficients{normal(Seed{6}, 0.1, channels, modes, Index{2}),
                     normal(Seed{7}, 1, channels, modes, Index{2}),
                     normal(Seed{8}, 1, channels, modes, Index{2})},
        gradients{DeviceTensor<3>(coefficients[0].extents()),
                  DeviceTensor<3>(coefficients[0].extents()),
                  DeviceTensor<3>(coefficients[0].extents())} {
    DynamicTensor<float, 1> step({channels});
    std::fill_n(step.data(), step.size(), 0.01f);
    copy_tensor(step, dt);
    DynamicTensor<float, 3> A({channels, modes, 2});
    for (Index i = 0; i < A.size(); ++i)
      A.data()[i] = i % 2 == 0 ? -0.5f : 3.1f * static_cast<float>(i / 2 % modes);
    copy_tensor(A, coefficients[0]);
  }
  DiagonalScan<float, CudaSpace> scan() {
    return {
        .dt = dt, .A = coefficients[0], .B = coefficients[1], .C = coefficients[2], .x = x, .y = y};
  }
  DiagonalScanBackward<float, CudaSpace> scan_backward() {
    return {.forward = scan(),
            .dy = dy,
            .dx = dx,
            .ddt = ddt,
            .dA = gradients[0],
            .dB = gradients[1],
            .dC = gradients[2]};
  }
  ShiftConvolution<float, CudaSpace> shift() { return {.B = left, .C = right, .x = x, .y = y}; }
  ShiftConvolutionBackward<float, CudaSpace> shift_backward() {
    return {.forward = shift(), .dy = dy, .dx = dx, .dB = dleft, .dC = dright};
  }
  CausalConvolution<float, CudaSpace> convolution() { return {.kernel = left, .x = x, .y = y}; }
  CausalConvolutionBackward<float, CudaSpace> convolution_backward() {
    return {.forward = convolution(), .dy = dy, .dx = dx, .dkernel = dleft};
  }
  DiagonalKernel<float, CudaSpace> kernel() {
    return {
        .dt = dt, .A = coefficients[0], .B = coefficients[1], .C = coefficients[2], .kernel = left};
  }
  DiagonalKernelBackward<float, CudaSpace> kernel_backward() {
    return {.forward = kernel(),
            .dkernel = dleft,
            .ddt = ddt,
            .dA = gradients[0],
            .dB = gradients[1],
            .dC = gradients[2]};
  }

  DeviceTensor<3> x, dy, y, dx;
  DeviceTensor<2> left, right, dleft, dright;
  DeviceTensor<1> dt, ddt;
  std::array<DeviceTensor<3>, 3> coefficients, gradients;
};

struct Row {
  std::string call;
  Index batch, length, terms;
  const char* kernels;
  double forward, backward;  // microseconds
};
std::vector<Row> rows;

template <class Choice>
void time_kernels(const char* name) {
  constexpr Index batch = 8;
  Context<Backend<Choice>> ctx;
  const auto row = [&](const char* call, Index length, Index terms, const auto& forward,
                       const auto& backward) {
    rows.push_back({call, batch, length, terms, name, microseconds(ctx, forward),
                    microseconds(ctx, backward)});
    const Row& r = rows.back();
    std::printf("%-18s L %5d  terms %5d  %-13s forward %8.1f us  backward %8.1f us\n", call,
                static_cast<int>(length), static_cast<int>(terms), name, r.forward, r.backward);
  };
  for (const Index length : {8, 16, 32, 64, 128, 512, 2048}) {
    for (const Index modes : {8, 32}) {
      Operands o(batch, length, 1, modes);
      row(
          "diagonal_scan", length, modes, [&] { diagonal_scan(ctx, o.scan()); },
          [&] { diagonal_scan_backward(ctx, o.scan_backward()); });
    }
    for (const Index terms : {4, 8, 16, 32, 64}) {
      Operands o(batch, length, terms, 1);
      row(
          "shift_convolution", length, terms, [&] { shift_convolution(ctx, o.shift()); },
          [&] { shift_convolution_backward(ctx, o.shift_backward()); });
      if (terms <= length)
        row(
            "causal_convolution", length, terms, [&] { causal_convolution(ctx, o.convolution()); },
            [&] { causal_convolution_backward(ctx, o.convolution_backward()); });
    }
  }
}

/// Both forms of an SSM, 32 modes, making the kernel and its adjoint included.
void time_forms(Index batch) {
  Context<Backend<cuda::Automatic>> ctx;
  for (const Index length : {64, 256, 1024, 2048, 4096}) {
    Operands o(batch, length, length, 32);
    const double scan = microseconds(ctx, [&] { diagonal_scan(ctx, o.scan()); });
    const double convolution = microseconds(ctx, [&] {
      diagonal_kernel(ctx, o.kernel());
      causal_convolution(ctx, o.convolution());
    });
    const double scan_back =
        microseconds(ctx, [&] { diagonal_scan_backward(ctx, o.scan_backward()); });
    const double convolution_back = microseconds(ctx, [&] {
      causal_convolution_backward(ctx, o.convolution_backward());
      diagonal_kernel_backward(ctx, o.kernel_backward());
    });
    rows.push_back({"ssm", batch, length, 32, "scan", scan, scan_back});
    rows.push_back({"ssm", batch, length, 32, "convolution", convolution, convolution_back});
    std::printf("ssm B %2d L %5d: scan %.1f and %.1f us, convolution %.1f and %.1f us\n",
                static_cast<int>(batch), static_cast<int>(length), scan, scan_back, convolution,
                convolution_back);
  }
}

void write(const char* path) {
  std::ofstream out(path);
  out << "[\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& r = rows[i];
    out << R"(  {"call": ")" << r.call << R"(", "shape": ")" << r.batch << "x" << r.length << "x"
        << channels << R"(", "terms": )" << r.terms << R"(, "kernels": ")" << r.kernels
        << R"(", "forward_us": )" << r.forward << R"(, "backward_us": )" << r.backward << "}"
        << (i + 1 < rows.size() ? "," : "") << "\n";
  }
  out << "]\n";
}

}  // namespace

int main(int count, char** arguments) {
  if (cuda::device_count() == 0) {
    std::puts("skipped: no CUDA device");
    return 0;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  for (const Index batch : {2, 8, 64}) time_forms(batch);
  time_kernels<cuda::TensorCoreKernels>("tensor cores");
  time_kernels<cuda::GeneralKernels>("general");
  if (count > 1) write(arguments[1]);
}
