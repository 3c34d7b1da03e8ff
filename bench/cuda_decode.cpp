// SPDX-License-Identifier: Apache-2.0
// The matrix products of one generated token, by fp32 and by bf16 weights, as one CUDA graph.
// Blocks have four projections of the width and a feed-forward layer of four times the width; a
// head of 50257 tokens follows. Beside each time: the time that reading the weights once takes at
// the device's own copy bandwidth.
//   cuda_decode [results.json]
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "ssm/backend/cuda/device.hpp"
#include "ssm/backend/cuda/matmul.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/core/transfer.hpp"

namespace {

using namespace ssm;
using cuda::CudaSpace;

struct Products : cuda::primitive::Matmul {
  using Space = CudaSpace;
  using Resources = cuda::Resources;
};
using DeviceMatrix = DynamicTensor<float, 2, CudaSpace>;
using DeviceBf16 = DynamicTensor<BFloat16, 2, CudaSpace>;

/// Median microseconds of a call that queues work, of five times twenty.
double microseconds(Context<Products>& ctx, const std::function<void()>& call) {
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

/// Bytes read plus written in a microsecond by copies of 1 GiB.
double copy_bandwidth(Context<Products>& ctx) {
  constexpr std::size_t bytes = std::size_t{1} << 30;
  DynamicTensor<float, 1, CudaSpace> from({bytes / sizeof(float)}), to(from.extents());
  return 2.0 * static_cast<double>(bytes) /
         microseconds(ctx, [&] { ctx.copy(to.data(), from.data(), bytes); });
}

/// A layer's weight [out, in], in both forms: normal numbers, the same few over and over.
struct Weight {
  Weight(Index outputs, Index inputs) {
    DynamicTensor<float, 1> some({4096});
    fill_normal(some, Seed{1}, 0.0, 0.02);
    DynamicTensor<float, 2> host({outputs, inputs});
    for (Index i = 0; i < host.size(); ++i) host.data()[i] = some(i % some.size());
    copy_tensor(host, fp32);
    DynamicTensor<BFloat16, 2> rounded({outputs, inputs});
    std::transform(host.data(), host.data() + host.size(), rounded.data(),
                   [](float x) { return BFloat16(x); });
    copy_tensor(rounded, bf16);
  }
  DeviceMatrix fp32;
  DeviceBf16 bf16;
};

struct Row {
  Index width, blocks, rows;
  const char* weights;
  double microseconds, floor;
};

void time_model(Context<Products>& ctx, Index width, Index blocks, double bandwidth,
                std::vector<Row>& results) {
  std::vector<Weight> weights;
  for (Index block = 0; block < blocks; ++block) {
    for (int i = 0; i < 4; ++i) weights.emplace_back(width, width);
    weights.emplace_back(4 * width, width);
    weights.emplace_back(width, 4 * width);
  }
  weights.emplace_back(50257, width);
  Index count = 0;
  for (const Weight& weight : weights) count += weight.fp32.size();
  for (const Index rows : {1, 2, 4, 8, 16})
    for (const bool in_bf16 : {false, true}) {
      DeviceMatrix x({rows, 4 * width}), y({rows, 50257});
      const auto step = [&] {
        for (const Weight& weight : weights) {
          const Index outputs = weight.fp32.extent(0), inputs = weight.fp32.extent(1);
          Matmul<float, CudaSpace> call{.a = x.slice(1, 0, inputs), .c = y.slice(1, 0, outputs)};
          if (in_bf16)
            call.b_bf16 = weight.bf16.transpose(0, 1);
          else
            call.b = weight.fp32.transpose(0, 1);
          matmul(ctx, call);
        }
      };
      step();
      cuda::Resources::Recording recorded;
      const double time = microseconds(ctx, [&] { recorded(ctx, step); });
      const double floor = static_cast<double>(count) * (in_bf16 ? 2 : 4) / bandwidth;
      results.push_back({width, blocks, rows, in_bf16 ? "bf16" : "fp32", time, floor});
      std::printf("width %4d, %2d blocks, %2d rows, %s: %8.1f us, weights alone %8.1f us\n",
                  static_cast<int>(width), static_cast<int>(blocks), static_cast<int>(rows),
                  in_bf16 ? "bf16" : "fp32", time, floor);
    }
}

void write(const char* path, const std::vector<Row>& results) {
  std::ofstream out(path);
  out << "[\n";
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Row& r = results[i];
    out << R"(  {"width": )" << r.width << R"(, "blocks": )" << r.blocks << R"(, "rows": )"
        << r.rows << R"(, "weights": ")" << r.weights << R"(", "us": )" << r.microseconds
        << R"(, "floor_us": )" << r.floor << "}" << (i + 1 < results.size() ? "," : "") << "\n";
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
  Context<Products> ctx;
  const double bandwidth = copy_bandwidth(ctx);
  std::printf("copies move %.0f GB/s\n", bandwidth * 1e-3);
  std::vector<Row> results;
  time_model(ctx, 768, 12, bandwidth, results);
  time_model(ctx, 2048, 24, bandwidth, results);
  if (count > 1) write(arguments[1], results);
}
