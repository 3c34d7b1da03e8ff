// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernel/one_row.cuh"
#include "ssm/backend/cuda/hopper.hpp"
#include "ssm/backend/cuda/matmul_one_row.hpp"

namespace ssm::cuda {
namespace {

using device::OneRow;

template <class T>
using Calls = std::span<const ssm::Matmul<T, CudaSpace>>;
template <class T>
using Norm = ssm::Normalization<T, CudaSpace>;

template <class T, class W, int Threads, int Capacity, int Columns, int Together>
void run_one_row(const Norm<T>* norm, Calls<T> calls, bool stay, Stream stream) {
  constexpr Index busy =
      hopper_multiprocessors * 512 / Threads;  // so many blocks keep a device busy
  const auto run = [&](auto streams) {
    OneRow<T, W, Threads, Capacity, Columns, Together, streams> products(norm, calls, stay);
    const Index blocks = std::min(products.blocks(), busy);
    if (streams != (products.blocks() > busy)) return false;
    products.set_step(blocks);
    device::for_each_block<Threads>(blocks, stream, "matmul", products);
    return true;
  };
  if (!run(std::false_type())) run(std::true_type());
}

template <class W, class T>
void choose_one_row(const Norm<T>* norm, Calls<T> calls, bool stay, Stream stream) {
  const Index depth = calls.front().a.extent(1);
  Index columns = 0;
  for (const auto& call : calls) columns += call.c.extent(1);
  // A warp converts twice as many whole numbers while as many bytes come: more warps, or columns.
  if (depth > 2048)
    return run_one_row < T, W, device::has_scale<W> ? 256 : 128, 8192, 1,
           sizeof(W) <= 2 ? 12 : 6 > (norm, calls, stay, stream);
  if constexpr (device::has_scale<W>)
    if (depth > 768 && columns > 16384)
      return run_one_row<T, W, 128, 2048, 2, 8>(norm, calls, stay, stream);
  if (depth > 768) return run_one_row<T, W, 128, 2048, 1, 8>(norm, calls, stay, stream);
  // One column a warp, or two, as long as all are asked for at once; of a head each makes several.
  if (columns <= 2112) return run_one_row<T, W, 256, 768, 1, 3>(norm, calls, stay, stream);
  run_one_row<T, W, 256, 768, 2, 3>(norm, calls, stay, stream);
}

}  // namespace

template <class T>
void matmul_one_row(const Norm<T>* norm, Calls<T> products, bool weights_stay, Stream stream) {
  device::with_weight_scalar(products.front(), [&]<class W>(std::type_identity<W>) {
    choose_one_row<W, T>(norm, products, weights_stay, stream);
  });
}

#define SSM_INSTANTIATE(T) \
  template SSM_CUDA_API void matmul_one_row<T>(const Norm<T>*, Calls<T>, bool, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
