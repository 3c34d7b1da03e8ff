// SPDX-License-Identifier: Apache-2.0
// What an H3 layer of 768 channels takes on a GPU, and what of it is the mixer between its
// projections: the primitive h3_mixer as the layer calls it, the same with positions contiguous,
// and the fused kernel alone.
//   cuda_h3_layer [results.json]
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
#include "ssm/layer/h3.hpp"

namespace {

using namespace ssm;
using cuda::CudaSpace;
template <class T, int Rank>
using OnDevice = DynamicTensor<T, Rank, CudaSpace>;

/// Median milliseconds of a call that queues work, of seven times five.
double milliseconds(Context<Cuda>& ctx, const std::function<void()>& call) {
  constexpr int calls = 5;
  for (int i = 0; i < 3; ++i) call();
  std::array<double, 7> times{};
  for (double& time : times) {
    ctx.resources().synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    ctx.resources().synchronize();
    time = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
               .count() /
           calls;
  }
  std::ranges::sort(times);
  return times[3];
}

template <class T>
OnDevice<T, 3> sequence(Index batch, Index length, Index channels, std::uint64_t seed) {
  DynamicTensor<float, 1> some({1 << 14});
  fill_normal(some, Seed{seed}, 0.0, 1.0);
  DynamicTensor<T, 3> host({batch, length, channels});
  for (Index i = 0; i < host.size(); ++i)
    host.data()[i] = scalar_cast<T>(some((i * 7 + i / 1000) % some.size()));
  OnDevice<T, 3> device;
  copy_tensor(host, device);
  return device;
}

struct Row {
  std::string shape, numbers, work;
  double forward, backward;  // milliseconds
};

/// The parameters of the mixer between the projections, as the layer has them.
template <class T, class P>
H3Mixer<T, CudaSpace> mixer(const P& p, const OnDevice<float, 1>& dt, const OnDevice<float, 3>& A) {
  const Index channels = dt.extent(0), modes = A.extent(1);
  return {.shift_B = p.shift.B,
          .shift_C = p.shift.C.reshape(channels, p.shift.B.extent(1)),
          .shift_skip = p.shift.D,
          .dt = dt,
          .A = A,
          .B = p.diagonal.B,
          .C = p.diagonal.C.reshape(channels, modes, 2),
          .skip = p.diagonal.D};
}

template <class T>
void time_shape(Context<Cuda>& ctx, Index batch, Index length, std::vector<Row>& rows) {
  constexpr Index channels = 768;
  const H3<H3Config{.channels = channels}> layer;
  auto parameters = layer.initialize<T>(ctx, Seed{1});
  auto gradients = layer.zero_parameters<float>(ctx);
  auto tape = layer.make_tape(parameters);
  const auto x = sequence<T>(batch, length, channels, 2),
             dy = sequence<T>(batch, length, channels, 3);
  OnDevice<T, 3> y(x.extents()), dx(x.extents());
  const std::string shape = std::to_string(batch) + "x768x" + std::to_string(length);
  const std::string numbers(scalar_name<T>());
  const auto record = [&](const char* work, double forward, double backward) {
    rows.push_back({shape, numbers, work, forward, backward});
    std::printf("%-12s %-5s %-34s forward %8.3f ms, backward %8.3f ms\n", shape.c_str(),
                numbers.c_str(), work, forward, backward);
  };
  const auto forward = [&] { layer.forward(ctx, parameters, x, y, tape); };
  const double forward_ms = milliseconds(ctx, forward);  // before what reads its tape
  record("layer", forward_ms,
         milliseconds(ctx, [&] { layer.backward(ctx, parameters, tape, dy, dx, gradients); }));

  OnDevice<float, 1> dt({channels}), ddt({channels});
  OnDevice<float, 3> A({channels, 32, 2}), dA({channels, 32, 2});
  diagonal_parameters(
      ctx, DiagonalParameters<float, CudaSpace>{.log_dt = parameters.diagonal.log_dt,
                                                .inv_A_real = parameters.diagonal.inv_A_real,
                                                .A_imag = parameters.diagonal.A_imag,
                                                .dt = dt,
                                                .A = A});
  auto a = mixer<T>(parameters, dt, A);
  const auto q = sequence<T>(batch, length, channels, 4),
             k = sequence<T>(batch, length, channels, 5),
             v = sequence<T>(batch, length, channels, 6);
  OnDevice<T, 3> dq(x.extents()), dk(x.extents()), dv(x.extents());
  const auto time_mixer = [&](const char* work, auto lie) {
    a.q = lie(q);
    a.k = lie(k);
    a.v = lie(v);
    a.y = lie(y);
    H3MixerBackward<T, CudaSpace> g{.forward = a,
                                    .dy = lie(dy),
                                    .dq = lie(dq),
                                    .dk = lie(dk),
                                    .dv = lie(dv),
                                    .dshift_B = gradients.shift.B,
                                    .dshift_C = gradients.shift.C.reshape(channels, 64),
                                    .dshift_skip = gradients.shift.D,
                                    .ddt = ddt,
                                    .dA = dA,
                                    .dB = gradients.diagonal.B,
                                    .dC = gradients.diagonal.C.reshape(channels, 32, 2),
                                    .dskip = gradients.diagonal.D};
    const double forward_ms = milliseconds(ctx, [&] { h3_mixer(ctx, a); });
    record(work, forward_ms, milliseconds(ctx, [&] { h3_mixer_backward(ctx, g); }));
  };
  time_mixer("h3_mixer with channels contiguous", [&](auto& t) { return t.view(); });
  // The same memory as [B, D, L].
  time_mixer("h3_mixer with positions contiguous", [&](auto& t) {
    using E = std::remove_pointer_t<decltype(t.data())>;
    return View<E, 3, CudaSpace>(t.data(), {batch, length, channels},
                                 {length * channels, 1, length});
  });
}

void write(const char* path, const std::vector<Row>& rows) {
  std::ofstream out(path);
  out << "[\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& r = rows[i];
    out << R"(  {"shape": ")" << r.shape << R"(", "numbers": ")" << r.numbers << R"(", "work": ")"
        << r.work << R"(", "forward_ms": )" << r.forward << R"(, "backward_ms": )" << r.backward
        << "}" << (i + 1 < rows.size() ? "," : "") << "\n";
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
  Context<Cuda> ctx;
  std::vector<Row> rows;
  for (const auto& [batch, length] : {std::pair<Index, Index>{32, 8192}, {8, 1024}, {2, 8192}}) {
    time_shape<BFloat16>(ctx, batch, length, rows);
    time_shape<float>(ctx, batch, length, rows);
  }
  if (count > 1) write(arguments[1], rows);
}
