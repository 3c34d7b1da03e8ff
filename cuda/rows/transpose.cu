// SPDX-License-Identifier: Apache-2.0
#include "kernel/packs.cuh"
#include "ssm/backend/cuda/transpose.hpp"

namespace ssm::cuda {
namespace device {
namespace {

template <class T>
struct Transposition {
  Transposition(const View<const T, 3, CudaSpace>& from, const View<T, 3, CudaSpace>& to)
      : x(operand(from)),
        y(operand(to)),
        batch(from.extent(0)),
        rows(from.extent(1)),
        columns(from.extent(2)) {}

  Operand<const T, 3> x;
  Operand<T, 3> y;
  Index batch;
  Index rows;
  Index columns;
};

#ifdef __CUDACC__

template <class T>
inline constexpr int kTileOf = sizeof(T) == 2 ? 64 : 32;
constexpr int kTileThreads = 256;

template <class T>
__global__ void transpose_tiles(Transposition<T> a) {
  constexpr int kTile = kTileOf<T>;
  // [row, column], neighboring rows in different banks
  __shared__ T tile[kTile][kTile + (sizeof(T) == 2 ? 2 : 1)];
  const Index across = (a.columns + kTile - 1) / kTile;
  const Index down = (a.rows + kTile - 1) / kTile;
  const bool columns_first_in_x = a.x.strides[2] <= a.x.strides[1];
  const bool columns_first_in_y = a.y.strides[2] <= a.y.strides[1];
  const int fast = static_cast<int>(threadIdx.x) % kTile;
  for (Index at = blockIdx.x; at < a.batch * down * across; at += gridDim.x) {
    const Index b = at / across / down;
    const Index row = at / across % down * kTile;
    const Index column = at % across * kTile;
#pragma unroll  // so that all loads are under way
    for (int i = 0; i < kTile * kTile / kTileThreads; ++i) {
      const int slow = static_cast<int>(threadIdx.x) / kTile + i * (kTileThreads / kTile);
      const int r = columns_first_in_x ? slow : fast;
      const int c = columns_first_in_x ? fast : slow;
      if (row + r < a.rows && column + c < a.columns) tile[r][c] = a.x(b, row + r, column + c);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile * kTile / kTileThreads; ++i) {
      const int slow = static_cast<int>(threadIdx.x) / kTile + i * (kTileThreads / kTile);
      const int r = columns_first_in_y ? slow : fast;
      const int c = columns_first_in_y ? fast : slow;
      if (row + r < a.rows && column + c < a.columns) a.y(b, row + r, column + c) = tile[r][c];
    }
    __syncthreads();
  }
}

/// The same of 16-bit numbers in packs of 8: x has contiguous columns, y contiguous rows.
template <class T>
__global__ void transpose_packs(Transposition<T> a) {
  constexpr int kTile = kTileOf<T>, size = pack_size<T>, packs = kTile / size;
  static_assert(kTile / 2 * packs == kTileThreads);
  __shared__ unsigned tile[kTile][kTile / 2 + 1];  // [column, pair of rows]
  const Index across = (a.columns + kTile - 1) / kTile;
  const Index down = (a.rows + kTile - 1) / kTile;
  const int pack = static_cast<int>(threadIdx.x) % packs;
  const int line = static_cast<int>(threadIdx.x) / packs;
  for (Index at = blockIdx.x; at < a.batch * down * across; at += gridDim.x) {
    const Index b = at / across / down;
    const Index row = at / across % down * kTile;
    const Index column = at % across * kTile;
    uint4 read[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Index r = row + 2 * line + half, c = column + pack * size;
      const bool exists = r < a.rows && c < a.columns;
      read[half] = exists ? *reinterpret_cast<const uint4*>(&a.x(b, r, c)) : uint4{};
    }
    const unsigned upper[4] = {read[0].x, read[0].y, read[0].z, read[0].w};
    const unsigned lower[4] = {read[1].x, read[1].y, read[1].z, read[1].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      tile[pack * size + 2 * i][line] = __byte_perm(upper[i], lower[i], 0x5410);
      tile[pack * size + 2 * i + 1][line] = __byte_perm(upper[i], lower[i], 0x7632);
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int across_tile = line + half * kTile / 2;
      const unsigned* const pairs = &tile[across_tile][pack * size / 2];
      const Index r = row + pack * size, c = column + across_tile;
      if (r < a.rows && c < a.columns)
        *reinterpret_cast<uint4*>(&a.y(b, r, c)) = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
    }
    __syncthreads();
  }
}

/// Whether transpose_packs may read rows and write columns.
template <class T>
bool has_pack_transposition(const View<const T, 3, CudaSpace>& x, const View<T, 3, CudaSpace>& y) {
  constexpr Index size = pack_size<T>;
  return sizeof(T) == 2 && x.extent(1) % size == 0 && x.extent(2) % size == 0 && has_packs(x) &&
         has_packs(y.transpose(1, 2));
}

template <class T>
void run(const View<const T, 3, CudaSpace>& x, const View<T, 3, CudaSpace>& y, Stream stream) {
  if (x.size() == 0) return;
  constexpr int kTile = kTileOf<T>;
  const Transposition<T> a(x, y);
  const auto grid = [](const Transposition<T>& of) {
    return grid_for(of.batch * ((of.rows + kTile - 1) / kTile) * ((of.columns + kTile - 1) / kTile),
                    1);
  };
  if constexpr (sizeof(T) == 2) {
    const auto x_flipped = x.transpose(1, 2);
    const auto y_flipped = y.transpose(1, 2);
    const Transposition<T> flipped(x_flipped, y_flipped);
    if (has_pack_transposition(x, y))
      return launch(transpose_packs<T>, grid(a), kTileThreads, 0, stream, "transpose", a);
    if (has_pack_transposition<T>(x_flipped, y_flipped))
      return launch(transpose_packs<T>, grid(flipped), kTileThreads, 0, stream, "transpose",
                    flipped);
  }
  launch(transpose_tiles<T>, grid(a), kTileThreads, 0, stream, "transpose", a);
}

#else

template <class T>
void run(const View<const T, 3, CudaSpace>& x, const View<T, 3, CudaSpace>& y, Stream) {
  const Transposition<T> a(x, y);
  for (Index b = 0; b < a.batch; ++b)
    for (Index row = 0; row < a.rows; ++row)
      for (Index column = 0; column < a.columns; ++column)
        a.y(b, row, column) = a.x(b, row, column);
}

#endif

}  // namespace
}  // namespace device

template <class T>
void transpose(const ssm::Rearrange<T, CudaSpace>& a, Stream stream) {
  device::run(a.x, a.y, stream);
}

#define SSM_INSTANTIATE(T) \
  template SSM_CUDA_API void transpose<T>(const ssm::Rearrange<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
