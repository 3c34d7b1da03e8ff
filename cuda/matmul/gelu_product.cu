// SPDX-License-Identifier: Apache-2.0
#include "kernel/column_sums.cuh"
#include "matmul/gelu_product.cuh"
#include "matmul/tile_epilogues.cuh"

namespace ssm::cuda {
namespace device {
namespace {

/// Whether a product is for these kernels: of whole packs, and with at least two tiles for each
/// multiprocessor.
template <class T, class... Views>
bool is_for_tiles(Index rows, Index inner, Index columns, const Views&... views) {
  constexpr Index most_rows = Index{1} << 24, most_inner = 1024;
  const Index tiles = (rows + 127) / 128 * (columns / 128);
  return HalfStorage<T> && columns % 128 == 0 && inner > 0 && inner <= most_inner &&
         rows < most_rows && (has_packs(views) && ...) && tiles >= 2 * multiprocessors("matmul");
}

}  // namespace

template <class T>
bool gelu_product(const ssm::Matmul<T, CudaSpace>& a, Stream stream) {
  const bool has_pairs = !a.bias || (a.bias.stride(0) == 1 &&
                                     reinterpret_cast<std::uintptr_t>(a.bias.data()) % 8 == 0);
  if (a.activation != ActivationKind::gelu_tanh || !a.b || !a.z || a.accumulate || a.residual ||
      !has_pairs)
    return false;
  const auto right = a.b.transpose(0, 1);
  const Index rows = a.c.extent(0), columns = a.c.extent(1);
  if (!is_for_tiles<T>(rows, a.a.extent(1), columns, a.a, right, a.c, a.z)) return false;
  using Product = TileProduct<false, 5>;
  GeluOfSums<T, Product> epilogue{.bias = a.bias.data(), .z = {}, .y = {}};
  if (!describe_matrix(epilogue.z, a.z.data(), rows, columns, a.z.stride(0), warp_rows) ||
      !describe_matrix(epilogue.y, a.c.data(), rows, columns, a.c.stride(0), warp_rows))
    return false;
  return multiply_by_tiles<Product, T>(a.a, right, columns, epilogue, stream, "matmul");
}
template bool gelu_product<BFloat16>(const ssm::Matmul<BFloat16, CudaSpace>&, Stream);
template bool gelu_product<Float16>(const ssm::Matmul<Float16, CudaSpace>&, Stream);

}  // namespace device

template <class T>
bool sloped_matmul_again(const ssm::SlopedMatmulAgain<T, CudaSpace>& a, Wide<T>* partial,
                         Stream stream) {
  using namespace device;
  const Index rows = a.c.extent(0), width = a.c.extent(1);
  if (a.activation != ActivationKind::gelu_tanh ||
      !is_for_tiles<T>(rows, a.a.extent(1), width, a.a, a.b, a.x, a.c, a.y))
    return false;
  using Product = TileProduct<true, 5>;
  SlopeOfSums<T, Product> epilogue{.x = {},
                                   .y = {},
                                   .c = a.c.data(),
                                   .partial = partial,
                                   .c_step = a.c.stride(0),
                                   .width = width,
                                   .rows = static_cast<int>(rows)};
  if (!describe_matrix(epilogue.x, a.x.data(), rows, width, a.x.stride(0)) ||
      !describe_matrix(epilogue.y, a.y.data(), rows, width, a.y.stride(0), warp_rows))
    return false;
  if (!multiply_by_tiles<Product, T>(a.a, a.b, width, epilogue, stream, "sloped_matmul_again"))
    return false;
  const auto dbias = operand(a.dbias);
  join_slices(SlicedSums<float>{partial, (rows + sloped_rows - 1) / sloped_rows, width}, 1, stream,
              "sloped_matmul_again",
              [=] SSM_DEVICE(int, Index n, float total) { dbias(n) += total; });
  return true;
}
#define SSM_INSTANTIATE(T)                                                                       \
  template SSM_CUDA_API bool sloped_matmul_again<T>(const ssm::SlopedMatmulAgain<T, CudaSpace>&, \
                                                    Wide<T>*, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
