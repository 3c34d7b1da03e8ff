// SPDX-License-Identifier: Apache-2.0
#include "matmul/row_pair.cuh"

namespace ssm::cuda {

namespace device {
namespace {

/// Straight code: of more, a kernel so short waits for its instructions.
template <class T, class W, int Threads, int Runs, int Outputs>
__global__ void __launch_bounds__(Threads)
    row_pair_kernel(const __grid_constant__ RowPair<T, W, Threads, Runs, Outputs> pair) {
  using Pair = RowPair<T, W, Threads, Runs, Outputs>;
  __shared__ alignas(16) typename Pair::Norm norm;
  let_successor_begin();
  typename Pair::Held held;
  if (!pair.stays) wait_for_predecessors();
  pair.load(held);
  pair.load(norm);
  wait_for_predecessors();
  pair(held, norm);
}

template <class T, class W, int Threads, int Runs, int Outputs>
bool run(const ssm::Normalization<T, CudaSpace>* norm, const ssm::Matmul<T, CudaSpace>& first,
         const ssm::Matmul<T, CudaSpace>& second, bool stay, const RowExchange& exchange,
         Stream stream) {
  using Pair = RowPair<T, W, Threads, Runs, Outputs>;
  constexpr const char* operation = "matmul";
  const auto up = [](Index count, Index size) { return (count + size - 1) / size; };
  Pair pair;
  pair.row = norm != nullptr ? norm->x.data() : first.a.data();
  pair.depth = static_cast<int>(first.a.extent(1));
  pair.hidden = static_cast<int>(second.a.extent(1));
  const auto warps = static_cast<int>(up(pair.hidden, Pair::warp_size * Pair::length));
  const auto blocks = static_cast<int>(up(pair.hidden, warps * Pair::columns));
  const int threads = warps * Pair::warp_size;
  pair.outputs = static_cast<int>(up(second.c.extent(1), blocks));
  if (pair.depth > Pair::depth_held || threads > Threads || pair.outputs > Outputs ||
      blocks > row_exchange_blocks)
    return false;
  const auto kernel = row_pair_kernel<T, W, Threads, Runs, Outputs>;
  // For a full block, so that it is asked once.
  if (!once_per_device<Pair>(operation, [&] {
        return waits_for_predecessors(kernel, operation) &&
               fit_together(kernel, row_exchange_blocks, Threads, operation);
      }))
    return false;
  if (norm != nullptr) {
    pair.normalizes = true;
    pair.norm_weight = norm->weight.data();
    pair.norm_bias = norm->bias.data();
    pair.eps = static_cast<float>(norm->eps);
    pair.centers = norm->kind == NormalizationKind::layer;
  }
  pair.stays = stay;
  pair.first = one_row_product<W>(first, pair.first_stride);
  pair.second = one_row_product<W>(second, pair.second_stride);
  pair.handed = HandedRow(exchange);
  launch_early<Pair>(kernel, dim3(static_cast<unsigned>(blocks)), threads, stream, operation, pair);
  return true;
}

}  // namespace
}  // namespace device

template <class T>
bool matmul_row_pair(RowExchange& exchange, const ssm::Normalization<T, CudaSpace>* norm,
                     const ssm::Matmul<T, CudaSpace>& first,
                     const ssm::Matmul<T, CudaSpace>& second, bool weights_stay, Stream stream) {
  bool is_done = false;
  device::with_weight_scalar(first, [&]<class W>(std::type_identity<W>) {
    is_done = device::run<T, W, 384, 3, 6>(norm, first, second, weights_stay, exchange, stream);
    if constexpr (sizeof(W) <= 2)
      if (!is_done)
        is_done = device::run<T, W, 512, 4, 8>(norm, first, second, weights_stay, exchange, stream);
  });
  return is_done;
}

#define SSM_INSTANTIATE(T)                                                                     \
  template SSM_CUDA_API bool matmul_row_pair<T>(                                               \
      RowExchange&, const ssm::Normalization<T, CudaSpace>*, const ssm::Matmul<T, CudaSpace>&, \
      const ssm::Matmul<T, CudaSpace>&, bool, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
