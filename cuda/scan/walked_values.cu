// SPDX-License-Identifier: Apache-2.0
#include "kernel/warpgroup_products.cuh"
#include "scan/decayed_products.cuh"

namespace ssm::cuda::device {
namespace {

constexpr int kBlockValues = 128;  // 64 of each of two warpgroups
constexpr int kValuePitch = kBlockValues + 8;
constexpr int kOutPitch = 24;  // of 16 values of a position

/// Stages of a step's rows: queries, keys and weights in panels for warpgroups, values padded.
template <int Keys>
struct WalkedShared {
  static constexpr int rows = kSpan * Keys;
  static constexpr int weights = kSpan * kSpan;
  static constexpr int values = kSpan * kValuePitch;
  static constexpr int stage = (2 * rows + weights + values + 511) / 512 * 512;
  static constexpr int stages = Keys > 128 ? 2 : 3;
  static constexpr int out = kTileWarps * kSpan * kOutPitch;
  static constexpr int factors = 2 * kSpan + 4;  // floats: of x, of z, fade
  static constexpr std::size_t bytes =
      (stages * stage + out) * 2 + stages * factors * sizeof(float);
};

/// `Columns` columns of kSpan rows into panels, zeros beyond `rows` and `columns`.
template <int Columns, class T>
__device__ void copy_panels(T* to, const T* from, int stride, int rows, int columns) {
  constexpr int pieces = Columns / 8;
  constexpr int rows_at_once = kTileThreads / pieces;
  const int first = static_cast<int>(threadIdx.x) / pieces;
  const int column = static_cast<int>(threadIdx.x) % pieces * 8;
  const int last = column < columns ? rows : 0;
#pragma unroll
  for (int r = 0; r < kSpan; r += rows_at_once) {
    const int row = first + r;
    copy_async_or_zero(to + place_in_panels<kSpan>(row, column),
                       from + static_cast<Index>(row) * stride + column, row < last);
  }
}

/// A block walks with 128 values of a head along a sequence. A warpgroup holds its 64 columns of
/// the state, turned, in registers, where they are the left operand of
///   yᵀ = factor·Sᵀ·xᵀ + zᵀ·weightsᵀ,   then   Sᵀ = fade·Sᵀ + (added·z)ᵀ·k
template <class T, int Keys, bool Backwards>
__global__ void __launch_bounds__(kTileThreads, 1)
    walk_values_kernel(const __grid_constant__ TiledMemory<T> a,
                       const __grid_constant__ WalkedValues<T> walk) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Shared = WalkedShared<Keys>;
  constexpr int panel = kSpan * 128;  // bytes
  extern __shared__ __align__(1024) unsigned char shared[];
  T* const memory = reinterpret_cast<T*>(shared);
  T* const outs = memory + Shared::stages * Shared::stage;
  float* const factors = reinterpret_cast<float*>(outs + Shared::out);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32, warp = thread / 32;
  const int across = tiles_of(a.values, kBlockValues);
  int i = static_cast<int>(blockIdx.x);
  const int first_value = i % across * kBlockValues;
  i /= across;
  const int h = i % a.heads;
  const Sequence s = a.chunking.packing.sequence(i / a.heads);
  const int g = h / (a.heads / a.groups);
  const Index first = a.chunking.first(s);
  const int length = static_cast<int>(a.chunking.length);
  const int positions = static_cast<int>(s.end - s.begin);
  const int spans = tiles_of(length, kSpan);  // of a chunk
  const int rest = positions % length;
  const int count = positions / length * spans + tiles_of(rest, kSpan);
  const T* const x_rows = walk.x.at(s.batch, s.begin, g);
  const T* const k_rows = walk.k.at(s.batch, s.begin, g);
  const T* const z_rows = walk.z.at(s.batch, s.begin, h) + first_value;
  const auto begin_of = [&](int n) { return n / spans * length + n % spans * kSpan; };
  const auto rows_of = [&](int n) {
    return min(min(kSpan, length - n % spans * kSpan), positions - begin_of(n));
  };
  /// Copies of what the i-th step needs: span i, or as many before the last.
  const auto issue = [&](int i) {
    if (i < count) {
      T* const stage = memory + i % Shared::stages * Shared::stage;
      const int n = Backwards ? count - 1 - i : i;
      const int begin = begin_of(n), rows = rows_of(n), at = n % spans * kSpan;
      copy_panels<Keys>(stage + Shared::rows, x_rows + static_cast<Index>(begin) * walk.x.position,
                        walk.x.position, rows, a.keys);
      copy_panels<kSpan>(stage + 2 * Shared::rows,
                         a.weights + a.weight(first + n / spans, h) + at * (kTile + 1), kTile,
                         kSpan, kSpan);
      copy_panels<Keys>(stage, k_rows + static_cast<Index>(begin) * walk.k.position,
                        walk.k.position, rows, a.keys);
      copy_tile<kSpan, kBlockValues>(stage + 2 * Shared::rows + Shared::weights, kValuePitch,
                                     z_rows + static_cast<Index>(begin) * walk.z.position,
                                     walk.z.position, rows, a.values - first_value);
      if (thread <= 2 * kSpan) {
        // Of x, of z, and the fade.
        const int t = thread < 2 * kSpan ? thread % kSpan : rows - 1;
        const bool is_from_begin = thread == 2 * kSpan || (thread < kSpan) != Backwards;
        const bool exists = t < rows;
        const float* const from = walk.spans + (is_from_begin ? 0 : a.rows);
        copy_or_zero(factors + i % Shared::stages * Shared::factors + thread,
                     exists ? from + a.row(s.batch, s.begin + begin + t, h) : from, exists);
      }
    }
    end_group();
  };
#pragma unroll
  for (int i = 0; i < Shared::stages - 1; ++i) issue(i);

  const int value = warp * 16 + lane / 4;  // and the one 8 behind it
  float state[Keys / 128][16][4];
  /// f(key, value, whether they exist, number of the state).
  const auto each_of_state = [&](auto f) {
#pragma unroll
    for (int half = 0; half < Keys / 128; ++half)
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int c = half * 128 + j * 8 + lane % 4 * 2 + e % 2;
          const int own = first_value + value + e / 2 * 8;
          f(c, own, c < a.keys && own < a.values, state[half][j][e]);
        }
  };
  each_of_state([&](int c, int own, bool exists, float& number) {
    number = walk.start && exists ? walk.start(s.row, h, c, own) : 0.0f;
  });
  T* const own = outs + warp * kSpan * kOutPitch;  // 64 rows of 16 numbers
  /// Writes two times two 8 × 8 tiles, turned: of rows r … r + 15.
  const auto put_turned = [&](int r, const unsigned(&pairs)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0],{%1,%2,%3,%4};" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(
                         own + (r + lane / 16 * 8 + lane % 8) * kOutPitch + lane / 8 % 2 * 8))),
                 "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                 : "memory");
  };
  /// Copies the first `rows` of them to rows of this warp's values.
  const auto copy_out = [&](T* to, Index stride, int rows) {
    __syncwarp();
    const int column = warp * 16 + lane % 2 * 8;
#pragma unroll
    for (int r = lane / 2; r < kSpan; r += 16)
      if (r < rows && first_value + column < a.values)
        *reinterpret_cast<uint4*>(to + r * stride + first_value + column) =
            *reinterpret_cast<const uint4*>(own + r * kOutPitch + lane % 2 * 8);
    __syncwarp();
  };
  for (int i = 0; i < count; ++i) {
    const int n = Backwards ? count - 1 - i : i;
    wait_for_older_groups<Shared::stages - 2>();
    show_copies_to_products();
    __syncthreads();
    issue(i + Shared::stages - 1);
    const T* const stage = memory + i % Shared::stages * Shared::stage;
    const float* const factor = factors + i % Shared::stages * Shared::factors;
    const unsigned long long x = describe_panels(stage + Shared::rows, 16);
    const unsigned long long k = describe_panels(stage, panel);
    const unsigned long long w = describe_panels(stage + 2 * Shared::rows, Backwards ? panel : 16);
    const T* const z = stage + 2 * Shared::rows + Shared::weights + warp * 16;
    float out[8][4];
    {
      unsigned rounded[Keys / 16][4];
#pragma unroll
      for (int step = 0; step < Keys / 16; ++step)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const auto& pair = state[step / 8][step % 8 * 2 + e / 2];
          rounded[step][e] = pack_pair<T>(pair[e % 2 * 2], pair[e % 2 * 2 + 1]);
        }
      if (Backwards && (n == count - 1 || n % spans == spans - 1)) {  // the chunk's first step
        T* const to = walk.states + a.state(first + n / spans, h);
#pragma unroll
        for (int part = 0; part < Keys / 64; ++part) {
#pragma unroll
          for (int step = 0; step < 4; ++step) put_turned(step * 16, rounded[part * 4 + step]);
          copy_out(to + static_cast<Index>(part) * 64 * a.values, a.values, a.keys - part * 64);
        }
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[j][e] = 0;
      hold(out);
      begin_products();
#pragma unroll
      for (int step = 0; step < Keys / 16; ++step)
        multiply_shared_rows<T>(out, rounded[step], x + ((step / 4 * panel + step % 4 * 32) >> 4));
      end_products();
      wait_for_products<0>();
      hold(out);
    }
    unsigned left[4][4], added[4][4];
#pragma unroll
    for (int step = 0; step < 4; ++step)
      load_transposed(left[step],
                      z + (step * 16 + lane % 8 + lane / 16 * 8) * kValuePitch + lane / 8 % 2 * 8);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 own = *reinterpret_cast<const float2*>(factor + j * 8 + lane % 4 * 2);
      out[j][0] *= own.x, out[j][1] *= own.y, out[j][2] *= own.x, out[j][3] *= own.y;
    }
    hold(out);
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step)
      if constexpr (Backwards)
        multiply_shared<T>(out, left[step], w + (step * 16 * 128 >> 4));
      else
        multiply_shared_rows<T>(out, left[step], w + (step * 32 >> 4));
    end_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const float* const own = factor + kSpan + step * 16 + lane % 4 * 2;
      const float2 near = *reinterpret_cast<const float2*>(own);
      const float2 far = *reinterpret_cast<const float2*>(own + 8);
      added[step][0] = scale_pair<T>(left[step][0], near.x, near.y);
      added[step][1] = scale_pair<T>(left[step][1], near.x, near.y);
      added[step][2] = scale_pair<T>(left[step][2], far.x, far.y);
      added[step][3] = scale_pair<T>(left[step][3], far.x, far.y);
    }
    const float fade = factor[2 * kSpan];
#pragma unroll
    for (int half = 0; half < Keys / 128; ++half) {
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) state[half][j][e] *= fade;
      hold(state[half]);
    }
    begin_products();
#pragma unroll
    for (int half = 0; half < Keys / 128; ++half)
#pragma unroll
      for (int step = 0; step < 4; ++step)
        multiply_shared<T>(state[half], added[step],
                           k + ((half * 2 * panel + step * 16 * 128) >> 4));
    end_products();
    wait_for_products<1>();
    hold(out);
#pragma unroll
    for (int j = 0; j < 8; j += 2)
      put_turned(j * 8, {pack_pair<T>(out[j][0], out[j][1]), pack_pair<T>(out[j][2], out[j][3]),
                         pack_pair<T>(out[j + 1][0], out[j + 1][1]),
                         pack_pair<T>(out[j + 1][2], out[j + 1][3])});
    copy_out(walk.y.at(s.batch, s.begin + begin_of(n), h), walk.y.position, rows_of(n));
    wait_for_products<0>();
#pragma unroll
    for (int half = 0; half < Keys / 128; ++half) hold(state[half]);
  }
  if (!walk.end) return;
  each_of_state([&](int c, int own, bool exists, float& number) {
    if (exists) walk.end(s.row, h, c, own) = number;
  });
#endif
}

template <class T>
Index walked_blocks(const TiledMemory<T>& a) {
  return a.chunking.packing.sequences * a.heads * tiles_of(a.values, kBlockValues);
}

}  // namespace

template <class T>
bool walks_values(const TiledMemory<T>& a, const char* operation) {
  if (a.chunking.whole || a.keys > 256 || walked_blocks(a) < 64) return false;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, walk_values_kernel<T, 256, false>), operation);
  return attributes.numRegs > 128;  // without products of warpgroups there is nothing in it
}

template <class T>
void walk_values(const TiledMemory<T>& a, const WalkedValues<T>& walk, Stream stream,
                 const char* operation) {
  const auto walk_by = [&]<int Keys>(std::integral_constant<int, Keys>) {
    launch_blocks(
        walk.backwards ? walk_values_kernel<T, Keys, true> : walk_values_kernel<T, Keys, false>,
        walked_blocks(a), WalkedShared<Keys>::bytes, stream, operation, a, walk);
  };
  if (a.keys <= 128)
    walk_by(std::integral_constant<int, 128>());
  else
    walk_by(std::integral_constant<int, 256>());
}

#define SSM_INSTANTIATE(T)                                           \
  template bool walks_values<T>(const TiledMemory<T>&, const char*); \
                                                                     \
  template void walk_values<T>(const TiledMemory<T>&, const WalkedValues<T>&, Stream, const char*);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda::device
