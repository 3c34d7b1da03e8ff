// SPDX-License-Identifier: Apache-2.0
#include "device/launch.cuh"
#include "kernel/packs.cuh"
#include "kernel/parallel.cuh"
#include "kernel/tensor_core.cuh"
#include "ssm/backend/cuda/h3_pairs.hpp"

namespace ssm::cuda {
namespace device {
namespace {

constexpr int kTile = static_cast<int>(kPairedTile);
constexpr int kPairThreads = 2 * kTile;  // a warp takes 16 rows

/// c += a · b for a 16 × 8 by 8 × 8 tile.
__device__ inline void multiply_narrow(float (&c)[4], unsigned a0, unsigned a1, unsigned b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}
/// A transposed 8 × 8 tile; lanes 0 … 7 give the addresses of its rows.
__device__ inline unsigned load_transposed_tile(const void* row) {
  unsigned r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0},[%1];"
               : "=r"(r)
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row))));
  return r;
}

/// The channels of a head at positions of a sequence, in packs of eight with zeros behind them.
struct HeadReader {
  HeadReader(const View<const BFloat16, 3, CudaSpace>& of, Index heads)
      : x(operand(of)),
        length(of.extent(1)),
        width(static_cast<int>(of.extent(2) / heads)),
        whole(width % 8 == 0 && x.strides[2] == 1 && x.strides[1] % 8 == 0 &&
              x.strides[0] % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0) {}

  __device__ uint4 operator()(Index b, Index t, Index h, int pack) const {
    uint4 raw[1] = {{0, 0, 0, 0}};
    if (t >= length) return raw[0];
    const BFloat16* const from = &x(b, t, h * width + 8 * pack);
    if (whole) return *reinterpret_cast<const uint4*>(from);
    unsigned word[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (8 * pack + i < width)
        word[i / 2] |= static_cast<unsigned>(from[i * x.strides[2]].bits()) << (16 * (i % 2));
    return {word[0], word[1], word[2], word[3]};
  }

  Operand<const BFloat16, 3> x;
  Index length;
  int width;
  bool whole;
};

/// A tile of positions in shared memory: packs of eight channels, a row of 16 bytes for a position.
template <int Packs>
struct PairRows {
  __device__ void load(const HeadReader& from, Index b, Index t0, Index h, int thread,
                       int threads) {
    for (int i = thread; i < Packs * kTile; i += threads)
      rows[i / kTile][i % kTile] = from(b, t0 + i % kTile, h, i / kTile);
  }
  /// The words of a lane: rows first + lane / 4, channels 2·(lane % 4) and the next.
  __device__ unsigned word(int pack, int first, int lane) const {
    return reinterpret_cast<const unsigned*>(&rows[pack][first + lane / 4])[lane % 4];
  }
  __device__ unsigned transposed(int pack, int first, int lane) const {
    return load_transposed_tile(&rows[pack][first + lane % 8]);
  }

  uint4 rows[Packs][kTile];
};
/// The rows of a warp as the left factor of a product.
template <int Packs>
struct PairFactor {
  __device__ void load(const PairRows<Packs>& from, int first, int lane) {
#pragma unroll
    for (int p = 0; p < Packs; ++p)
      words[p][0] = from.word(p, first, lane), words[p][1] = from.word(p, first + 8, lane);
  }
  /// The products with eight rows from `first` on.
  __device__ void multiply(const PairRows<Packs>& with, int first, int lane, float (&c)[4]) const {
    c[0] = c[1] = c[2] = c[3] = 0;
#pragma unroll
    for (int p = 0; p < Packs; ++p)
      multiply_narrow(c, words[p][0], words[p][1], with.word(p, first, lane));
  }

  unsigned words[Packs][2];
};

struct PairOperands {
  HeadReader a, b, c;
  Operand<const float, 2> kernel;
  Operand<const float, 1> skip;
  Operand<BFloat16, 3> y;
  Index length;
  Index tiles;
  int width;
};

/// A tile of 64 positions of a head of a sequence.
template <int Packs, bool Backwards>
__global__ __launch_bounds__(kPairThreads) void pair_outputs(
    const __grid_constant__ PairOperands call) {
  __shared__ PairRows<Packs> left, bs[2], cs[2];
  __shared__ float windows[2][2 * kTile];  // kernel[Δ − 63 …]
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, first = thread / 32 * 16;
  const Index h = blockIdx.y, b = blockIdx.z;
  // Those with the longest way first.
  const Index own = Backwards ? static_cast<Index>(blockIdx.x) : call.tiles - 1 - blockIdx.x;
  const Index t0 = own * kTile;
  const Index count = Backwards ? call.tiles - own : own + 1;
  const auto bring = [&](Index i) {  // the i-th tile from the own one on
    const Index s0 = Backwards ? t0 + i * kTile : t0 - i * kTile;
    bs[i % 2].load(call.b, b, s0, h, thread, kPairThreads);
    cs[i % 2].load(call.c, b, s0, h, thread ^ kTile, kPairThreads);
    const Index lag = i * kTile - (kTile - 1) + thread;
    float k = lag >= 0 && lag < call.length ? call.kernel(h, lag) : 0.0f;
    if (lag == 0 && call.skip) k += call.skip(h);
    windows[i % 2][thread] = k;
  };
  left.load(call.a, b, t0, h, thread, kPairThreads);
  bring(0);
  __syncthreads();
  PairFactor<Packs> a;
  a.load(left, first, lane);
  float y[Packs][4] = {};
  for (Index i = 0; i < count; ++i) {
    if (i + 1 < count) bring(i + 1);
    const auto& own_b = bs[i % 2];
    const auto& own_c = cs[i % 2];
    // Of row lane / 4 and column 2·(lane % 4): lag is Δ + row − column, or column − row.
    const int from = first + lane / 4, to = lane % 4 * 2;
    const float* const window = &windows[i % 2][kTile - 1 + (Backwards ? to - from : from - to)];
    constexpr int sign = Backwards ? -1 : 1;
#pragma unroll
    for (int n = 0; n < kTile; n += 8) {
      float c[4];
      a.multiply(own_b, n, lane, c);
      const unsigned upper = pack_bf16(c[0] * window[sign * -n], c[1] * window[sign * (-n - 1)]);
      const unsigned lower =
          pack_bf16(c[2] * window[sign * (8 - n)], c[3] * window[sign * (7 - n)]);
#pragma unroll
      for (int p = 0; p < Packs; ++p)
        multiply_narrow(y[p], upper, lower, own_c.transposed(p, n, lane));
    }
    __syncthreads();
  }
#pragma unroll
  for (int p = 0; p < Packs; ++p)
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const Index t = t0 + first + lane / 4 + v / 2 * 8;
      const int channel = 8 * p + lane % 4 * 2 + v % 2;
      if (t < call.length && channel < call.width)
        from_float(y[p][v], call.y(b, t, h * call.width + channel));
    }
}

struct PairGradientOperands {
  HeadReader q, k, v, dy;
  float* parts;  // [groups, heads, tiles, 128]   the last number of a tile is unused
  Index batch;
  Index tiles;
  Index groups;
};

/// Of a head: the pairs of tiles that are so many tiles apart, of every groups-th sequence.
template <int Packs>
__global__ __launch_bounds__(kPairThreads) void pair_kernel_gradient(
    const __grid_constant__ PairGradientOperands call) {
  __shared__ PairRows<Packs> qs, ks, vs, dys;
  __shared__ float sums[kTile][kTile + 1];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, first = thread / 32 * 16;
  const Index apart = blockIdx.x, h = blockIdx.y, group = blockIdx.z;
  float own[kTile / 8][4] = {};
  for (Index b = group; b < call.batch; b += call.groups)
    for (Index s = 0; s + apart < call.tiles; ++s) {
      __syncthreads();
      qs.load(call.q, b, (s + apart) * kTile, h, thread, kPairThreads);
      dys.load(call.dy, b, (s + apart) * kTile, h, thread ^ kTile, kPairThreads);
      ks.load(call.k, b, s * kTile, h, thread, kPairThreads);
      vs.load(call.v, b, s * kTile, h, thread ^ kTile, kPairThreads);
      __syncthreads();
      PairFactor<Packs> q, dy;
      q.load(qs, first, lane);
      dy.load(dys, first, lane);
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
        float scores[4], gradients[4];
        q.multiply(ks, 8 * n, lane, scores);
        dy.multiply(vs, 8 * n, lane, gradients);
#pragma unroll
        for (int v = 0; v < 4; ++v) own[n][v] = fmaf(scores[v], gradients[v], own[n][v]);
      }
    }
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
    for (int v = 0; v < 4; ++v)
      sums[first + lane / 4 + v / 2 * 8][8 * n + lane % 4 * 2 + v % 2] = own[n][v];
  __syncthreads();
  // The diagonal row − column = thread − 63.
  float sum = 0;
  const int lag = thread - (kTile - 1);
  for (int row = max(lag, 0); row < min(kTile, kTile + lag); ++row) sum += sums[row][row - lag];
  call.parts[((group * gridDim.y + h) * call.tiles + apart) * kPairThreads + thread] = sum;
}

/// Calls run.template operator()<Packs>() for heads of so many channels.
template <class Run>
void with_packs(Index width, Run&& run) {
  if (width <= 8) return run.template operator()<1>();
  run.template operator()<2>();
}

}  // namespace
}  // namespace device

void h3_pairs(const H3Pairs& call, Stream stream) {
  const Index heads = call.kernel.extent(0), batch = call.y.extent(0), length = call.y.extent(1);
  if (call.y.size() == 0) return;
  const Index width = call.y.extent(2) / heads, tiles = paired_tiles(length);
  const device::PairOperands operands{device::HeadReader(call.a, heads),
                                      device::HeadReader(call.b, heads),
                                      device::HeadReader(call.c, heads),
                                      device::operand(call.kernel),
                                      device::operand(call.skip),
                                      device::operand(call.y),
                                      length,
                                      tiles,
                                      static_cast<int>(width)};
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(heads),
                  static_cast<unsigned>(batch));
  device::with_packs(width, [&]<int Packs>() {
    device::launch(
        call.backwards ? device::pair_outputs<Packs, true> : device::pair_outputs<Packs, false>,
        grid, device::kPairThreads, 0, stream, "h3_mixer", operands);
  });
}

void h3_pair_kernel_gradient(const H3PairKernelGradient& call, float* parts, Stream stream) {
  const char* const operation = "h3_mixer_backward";
  const Index heads = call.dkernel.extent(0), batch = call.q.extent(0), length = call.q.extent(1);
  if (call.dkernel.size() == 0) return;
  const Index tiles = paired_tiles(length), groups = h3_pair_groups(batch, length, heads);
  const device::PairGradientOperands operands{device::HeadReader(call.q, heads),
                                              device::HeadReader(call.k, heads),
                                              device::HeadReader(call.v, heads),
                                              device::HeadReader(call.dy, heads),
                                              parts,
                                              batch,
                                              tiles,
                                              groups};
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(heads),
                  static_cast<unsigned>(groups));
  device::with_packs(call.q.extent(2) / heads, [&]<int Packs>() {
    device::launch(device::pair_kernel_gradient<Packs>, grid, device::kPairThreads, 0, stream,
                   operation, operands);
  });
  const auto dkernel = device::operand(call.dkernel);
  const auto dskip = device::operand(call.dskip);
  device::for_each_index(heads * length, stream, operation, [=] SSM_DEVICE(Index i) {
    constexpr Index tile = kPairedTile;
    const Index h = i / length, lag = i % length;
    double sum = 0;
    for (Index g = 0; g < groups; ++g) {
      const float* const own = parts + (g * heads + h) * tiles * 2 * tile;
      const Index apart = lag / tile, rest = lag % tile;
      sum += own[apart * 2 * tile + tile - 1 + rest];
      if (rest > 0 && apart + 1 < tiles) sum += own[(apart + 1) * 2 * tile + rest - 1];
    }
    dkernel(h, lag) = static_cast<float>(sum);
    if (lag == 0 && dskip) dskip(h) += static_cast<float>(sum);
  });
}

}  // namespace ssm::cuda
