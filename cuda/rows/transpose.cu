// SPDX-License-Identifier: Apache-2.0
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/transpose.hpp"

namespace ssm::cuda {
namespace device {
namespace {

template <class T>
struct Transposition {
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

template <class T>
void run(const Transposition<T>& a, Stream stream) {
  if (a.batch * a.rows * a.columns == 0) return;
  constexpr int kTile = kTileOf<T>;
  const Index tiles = a.batch * ((a.rows + kTile - 1) / kTile) * ((a.columns + kTile - 1) / kTile);
  launch(transpose_tiles<T>, grid_for(tiles, 1), kTileThreads, 0, stream, "transpose", a);
}

#else

template <class T>
void run(const Transposition<T>& a, Stream) {
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
  device::run(device::Transposition<T>{device::operand(a.x), device::operand(a.y), a.x.extent(0),
                                       a.x.extent(1), a.x.extent(2)},
              stream);
}

#define SSM_INSTANTIATE(T) \
  template SSM_CUDA_API void transpose<T>(const ssm::Rearrange<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
