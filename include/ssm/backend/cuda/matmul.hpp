// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "ssm/backend/cuda/column_slices.hpp"
#include "ssm/backend/cuda/matmul_few_rows.hpp"
#include "ssm/backend/cuda/matmul_one_row.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/row_pair.hpp"
#include "ssm/core/adjacent.hpp"
#include "ssm/op/matmul.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::Matmul. T: float, double, half types. Products by
/// cuBLASLt in T, of floats as the context's MatmulPrecision says, of half types with sums in
/// float. Activations are a pass of their own over c, except gelu_tanh in half types, which goes
/// with the product. In half types a bias is rounded to T. A matrix kept in bf16 is read as it is
/// by floats, each the sum of three bf16: exact products on tensor cores, sums in float. So are the
/// whole numbers of int8, which are expanded to bf16, and sums are multiplied by the scales. By
/// others, and in f16, a matrix is expanded to T in each product.
/// Products are made one after another; where they read one a, its parts are made once.
/// scratch   matmul_scratch_bytes(a) bytes, of the largest, aligned to 16: operands without a unit
///           stride, a matrix in T or bf16, parts of a, and what waits for its activation
/// Throws  Failure  if cuBLASLt cannot be loaded or refuses
template <class T>
SSM_CUDA_API void matmul(MatmulLibrary& library,
                         std::span<const ssm::Matmul<T, CudaSpace>> products, void* scratch,
                         Stream stream);
template <class T>
SSM_CUDA_API std::size_t matmul_scratch_bytes(const ssm::Matmul<T, CudaSpace>& a);

/// The compiled half; formula and shapes as ssm::WeightGradient. T: half types; products and sums
/// are in float.
/// scratch   weight_gradient_scratch_bytes(a) bytes, aligned to 16
/// Throws  as matmul
template <class T>
SSM_CUDA_API void weight_gradient(MatmulLibrary& library,
                                  const ssm::WeightGradient<T, CudaSpace>& a, void* scratch,
                                  Stream stream);
template <class T>
SSM_CUDA_API std::size_t weight_gradient_scratch_bytes(const ssm::WeightGradient<T, CudaSpace>& a);

/// Columns of a weight, of whose gradient weight_gradients leaves a sum for each range.
inline constexpr Index weight_tile_columns = 96;
/// The gradients of two weights in one kernel, where their tiles together fill the device in one
/// round. Returns false where that cannot be, and does nothing.
/// partial   Σ ⌈columns / weight_tile_columns⌉·rows of both dweight   scratch
template <class T>
SSM_CUDA_API bool weight_gradients(const ssm::WeightGradient<T, CudaSpace>& first,
                                   const ssm::WeightGradient<T, CudaSpace>& second, float* partial,
                                   Stream stream);

/// The compiled half; formula and shapes as ssm::SlopedMatmul, of gelu_tanh in half types, fused.
/// Returns false where that cannot be, and does nothing.
/// scratch   sloped_matmul_scratch_bytes(a) bytes, aligned to 16
/// Throws  as matmul
template <class T>
SSM_CUDA_API bool sloped_matmul(MatmulLibrary& library, const ssm::SlopedMatmul<T, CudaSpace>& a,
                                void* scratch, Stream stream);
template <class T>
SSM_CUDA_API std::size_t sloped_matmul_scratch_bytes(const ssm::SlopedMatmul<T, CudaSpace>& a);

/// Rows of c whose sum sloped_matmul_again leaves as one.
inline constexpr Index sloped_rows = 128;
/// The compiled half; formula and shapes as ssm::SlopedMatmulAgain, of gelu_tanh in half types, all
/// of it in the product's kernel. Returns false where that cannot be, and does nothing.
/// partial   [⌈M / sloped_rows⌉, N]   scratch
template <class T>
SSM_CUDA_API bool sloped_matmul_again(const ssm::SlopedMatmulAgain<T, CudaSpace>& a,
                                      Wide<T>* partial, Stream stream);

/// What sloped_matmul_again does behind another product: c is c·act'(x) afterwards. Of gelu_tanh,
/// and rows of whole packs of 16 bytes.
/// partial   [column_slices(M).count, N]   scratch
template <class T>
SSM_CUDA_API void slope_and_activate(const ssm::SlopedMatmulAgain<T, CudaSpace>& a,
                                     Wide<T>* partial, Stream stream);

namespace primitive {
struct Matmul {
  template <class Ctx, DeviceNumber T>
  static void matmul(Ctx& ctx, const ssm::Matmul<T, typename Ctx::Space>& a) {
    const auto call = on_device(a);
    multiply<T>(ctx, std::span(&call, 1));
  }
  template <class Ctx, DeviceNumber T>
  static void matmul_each(Ctx& ctx, std::span<const ssm::Matmul<T, typename Ctx::Space>> products) {
    for_each_on_device<products_a_kernel>(products, [&](auto calls) { multiply<T>(ctx, calls); });
  }
  /// Where the rows are one.
  template <class Ctx, DeviceNumber T>
  static bool normalized_matmul(Ctx& ctx, const ssm::Normalization<T, typename Ctx::Space>& norm,
                                std::span<const ssm::Matmul<T, typename Ctx::Space>> products) {
    const auto first = on_device(norm);
    bool together = false;
    if (products.size() <= products_a_kernel && normalizes_one_row(first))
      for_each_on_device<products_a_kernel>(products, [&](auto some) {
        together = have_few_rows<T>(some) && has_one_row<T>(some);
        if (together) few_rows<T>(ctx, &first, some);
      });
    return together;
  }
  /// Of one row.
  template <class Ctx, DeviceNumber T>
    requires(!std::is_same_v<T, double>)
  static bool matmul_pair(Ctx& ctx, const ssm::Normalization<T, typename Ctx::Space>* norm,
                          const ssm::Matmul<T, typename Ctx::Space>& a,
                          const ssm::Matmul<T, typename Ctx::Space>& b) {
    const ssm::Matmul<T, CudaSpace> products[] = {on_device(a), on_device(b)};
    const auto before = norm != nullptr ? on_device(*norm) : ssm::Normalization<T, CudaSpace>{};
    if (!is_row_pair(products[0], products[1]) || (norm != nullptr && !normalizes_one_row(before)))
      return false;
    RowExchange* const exchange = ctx.resources().row_exchange();
    if (exchange == nullptr) return false;
    bool is_done = false;
    queue(ctx, [&](Stream stream) {
      is_done = matmul_row_pair<T>(*exchange, norm != nullptr ? &before : nullptr, products[0],
                                   products[1], weights_stay<T>(ctx, products), stream);
    });
    return is_done;
  }
  template <class Ctx, HalfStorage T>
  static bool sloped_matmul(Ctx& ctx, const ssm::SlopedMatmul<T, typename Ctx::Space>& a) {
    const auto call = on_device(a);
    auto frame = ctx.workspace().frame();
    void* const scratch = bytes(frame, sloped_matmul_scratch_bytes(call));
    bool is_done = false;
    queue(ctx, [&](Stream stream) {
      is_done = cuda::sloped_matmul(ctx.resources().matmul_library(), call, scratch, stream);
    });
    return is_done;
  }
  /// Of products by cuBLASLt the one that waits for no activation is the faster one.
  template <class Ctx, HalfStorage T>
  static bool sloped_matmul_again(Ctx& ctx,
                                  const ssm::SlopedMatmulAgain<T, typename Ctx::Space>& a) {
    constexpr Index pack = 16 / sizeof(T);
    const auto has_packs = [&](const auto& rows) {
      return rows.stride(1) == 1 && rows.stride(0) % pack == 0 && rows.extent(1) % pack == 0 &&
             reinterpret_cast<std::uintptr_t>(rows.data()) % 16 == 0;
    };
    if (a.activation != ActivationKind::gelu_tanh || !has_packs(a.x) || !has_packs(a.c) ||
        !has_packs(a.y))
      return false;
    const auto call = on_device(a);
    const Index rows = a.c.extent(0);
    auto frame = ctx.workspace().frame();
    const auto partial = frame.template tensor<Wide<T>>(
        std::max(column_slices(rows).count, (rows + sloped_rows - 1) / sloped_rows), a.c.extent(1));
    bool is_done = false;
    queue(ctx, [&](Stream stream) {
      is_done = cuda::sloped_matmul_again(call, partial.data(), stream);
    });
    if (is_done) return true;
    matmul(ctx, ssm::Matmul<T, typename Ctx::Space>{.a = a.a, .b = a.b, .c = a.c});
    queue(ctx, [&](Stream stream) { slope_and_activate(call, partial.data(), stream); });
    return true;
  }
  template <class Ctx, HalfStorage T>
  static void weight_gradient(Ctx& ctx, const ssm::WeightGradient<T, typename Ctx::Space>& a) {
    const auto call = on_device(a);
    auto frame = ctx.workspace().frame();
    void* const scratch = bytes(frame, weight_gradient_scratch_bytes(call));
    queue(ctx, [&](Stream stream) {
      cuda::weight_gradient(ctx.resources().matmul_library(), call, scratch, stream);
    });
  }
  template <class Ctx, HalfStorage T>
  static bool weight_gradients(Ctx& ctx, const ssm::WeightGradient<T, typename Ctx::Space>& first,
                               const ssm::WeightGradient<T, typename Ctx::Space>& second) {
    const auto a = on_device(first), b = on_device(second);
    const auto parts = [](const auto& call) {
      return (call.x.extent(1) + weight_tile_columns - 1) / weight_tile_columns * call.dy.extent(1);
    };
    auto frame = ctx.workspace().frame();
    const auto partial = frame.template tensor<float>(parts(a) + parts(b));
    bool is_done = false;
    queue(ctx,
          [&](Stream stream) { is_done = cuda::weight_gradients(a, b, partial.data(), stream); });
    return is_done;
  }

 private:
  template <class T, class Ctx>
  static void multiply(Ctx& ctx, std::span<const ssm::Matmul<T, CudaSpace>> products) {
    if (have_few_rows(products)) return few_rows<T>(ctx, nullptr, products);
    if (std::any_of(products.begin(), products.end(), has_few_rows<T>)) {
      for (const auto& a : products) multiply<T>(ctx, std::span(&a, 1));  // not all of them alike
      return;
    }
    if (products.size() > 1)
      if (const auto whole = join(products); whole.c) return multiply<T>(ctx, std::span(&whole, 1));
    std::size_t size = 0;
    for (const auto& a : products) size = std::max(size, matmul_scratch_bytes(a));
    auto frame = ctx.workspace().frame();
    void* const scratch = bytes(frame, size);
    queue(ctx, [&](Stream stream) {
      cuda::matmul(ctx.resources().matmul_library(), products, scratch, stream);
    });
  }
  /// Plain products of one a whose weights, biases and results lie one behind the other, as one; c
  /// of others is null.
  template <class T>
  static ssm::Matmul<T, CudaSpace> join(std::span<const ssm::Matmul<T, CudaSpace>> products) {
    using One = ssm::Matmul<T, CudaSpace>;
    const One& first = products.front();
    for (const One& a : products)
      if (a.a.data() != first.a.data() || a.a.strides() != first.a.strides() || !a.b ||
          a.residual || a.accumulate || a.a_sum || a.z || a.activation != ActivationKind::none ||
          bool{a.bias} != bool{first.bias})
        return {};
    One whole{.a = first.a,
              .b = joined(1, products, [](const One& a) { return a.b; }),
              .bias = joined(0, products, [](const One& a) { return a.bias; })};
    if (whole.b && bool{whole.bias} == bool{first.bias})
      whole.c = joined(1, products, [](const One& a) { return a.c; });
    return whole;
  }
  template <class T, class Ctx>
  static void few_rows(Ctx& ctx, const ssm::Normalization<T, CudaSpace>* norm,
                       std::span<const ssm::Matmul<T, CudaSpace>> products) {
    queue(ctx, [&](Stream stream) {
      if constexpr (!std::is_same_v<T, double>)
        if (has_one_row<T>(products))
          return matmul_one_row<T>(norm, products, weights_stay<T>(ctx, products), stream);
      matmul_few_rows<T>(products, stream);
    });
  }
  /// As floats, which start as NaN where scratch memory does.
  template <class Frame>
  static void* bytes(Frame& frame, std::size_t count) {
    return frame.template tensor<float>(static_cast<Index>((count + 3) / 4)).data();
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
