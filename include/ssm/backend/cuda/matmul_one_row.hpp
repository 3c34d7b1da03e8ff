// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/backend/cuda/matmul_few_rows.hpp"
#include "ssm/op/normalization.hpp"

namespace ssm::cuda {

/// So many products at most.
inline constexpr int one_row_products = 3;
inline constexpr Index one_row_columns = Index{1} << 30;
/// The longest row that a block holds.
inline constexpr Index matmul_one_row_depth = 8192;

/// The compiled half: products of one row, which all of them read, by weights as matmul_few_rows
/// reads them, in one kernel.
/// norm           how the row is normalized before, or null; its y is not written, its sums are in
///                Wide<T>
/// weights_stay   nothing that is queued writes weights and biases: they are read while what was
///                queued before still runs
/// T: float, half types.
template <class T>
SSM_CUDA_API void matmul_one_row(const ssm::Normalization<T, CudaSpace>* norm,
                                 std::span<const ssm::Matmul<T, CudaSpace>> products,
                                 bool weights_stay, Stream stream);
template <class T, class Ctx>
bool weights_stay(const Ctx& ctx, std::span<const ssm::Matmul<T, CudaSpace>> products) {
  return ctx.resources().parameters_stay() &&
         std::all_of(products.begin(), products.end(),
                     [](const auto& product) { return product.by_parameters; });
}

namespace detail {
/// Whether columns k of a row, or those of all rows, are runs of 16 bytes, or of 8 numbers.
template <class V>
bool has_runs(const V& x, int along) {
  constexpr Index size = std::min<Index>(8, 16 / Index{sizeof(*x.data())});
  if (reinterpret_cast<std::uintptr_t>(x.data()) % (size * sizeof(*x.data())) != 0) return false;
  for (int axis = 0; axis < V::rank(); ++axis)
    if (x.extent(axis) != 1 && (axis == along ? x.stride(axis) != 1 : x.stride(axis) % size != 0))
      return false;
  return true;
}
/// Whether a vector, or a matrix's one row, is contiguous or null.
template <class V>
bool has_row(const V& x) {
  constexpr int last = V::rank() - 1;
  return !x || x.extent(last) <= 1 || x.stride(last) == 1;
}
/// Whether the columns of two matrices are equally far from each other, as an int counts.
template <class V, class W>
bool are_as_far(const V& x, const W& y) {
  return x.stride(1) == y.stride(1) && x.stride(1) <= one_row_columns && x.extent(1) > 1 &&
         y.extent(1) > 1;
}
}  // namespace detail

/// Whether matmul_one_row computes products that have_few_rows: of one row of whole runs of 8.
template <class T>
bool has_one_row(std::span<const ssm::Matmul<T, CudaSpace>> products) {
  if constexpr (std::is_same_v<T, double>) {
    return false;
  } else {
    if (products.empty() || products.size() > one_row_products) return false;
    const auto& first = products.front();
    const Index depth = first.a.extent(1);
    return first.a.extent(0) == 1 && depth > 0 && depth % 8 == 0 && depth <= matmul_one_row_depth &&
           detail::has_runs(first.a, 1) &&
           std::all_of(products.begin(), products.end(), [&](const auto& a) {
             return a.a.data() == first.a.data() && !a.z && !a.accumulate && detail::has_row(a.c) &&
                    detail::has_row(a.residual) && detail::has_row(a.bias) &&
                    a.c.extent(1) <= one_row_columns && detail::has_row(a.b_scale) &&
                    detail::with_weights(a, [&](const auto& b) {
                      return detail::has_runs(b, 0) &&
                             detail::with_weights(first, [&](const auto& other) {
                               return detail::are_as_far(b, other);
                             });
                    });
           });
  }
}
/// Whether it makes this norm as well.
template <class T>
bool normalizes_one_row(const ssm::Normalization<T, CudaSpace>& norm) {
  const auto has_runs = [](const auto& x) { return !x || detail::has_runs(x, 0); };
  return detail::has_runs(norm.x, 1) && has_runs(norm.weight) && has_runs(norm.bias) &&
         !norm.eps_scale && !norm.mean && !norm.scale;
}

}  // namespace ssm::cuda
