// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "activation_functions.cuh"
#include "matmul_library.cuh"
#include "parallel.cuh"
#include "ssm/backend/cuda/matmul.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// A matrix whose columns, or rows, are contiguous, as cuBLASLt reads it: column-major, perhaps
/// transposed.
template <class T>
struct Factor {
  const T* data = nullptr;
  bool is_transposed = false;
  std::int64_t step = 0;
};

/// `rows` and `columns` of the column-major matrix, and the strides along them; false where neither
/// is 1.
template <class T>
bool as_factor(const T* data, Index rows, Index columns, Index row_stride, Index column_stride,
               Factor<T>& factor) {
  if (row_stride == 1 || rows == 1) {
    if (columns > 1 && column_stride < rows) return false;
    factor = {data, false, columns > 1 ? column_stride : rows};
    return true;
  }
  if (column_stride == 1 || columns == 1) {
    if (row_stride < columns) return false;
    factor = {data, true, row_stride};
    return true;
  }
  return false;
}

template <class T>
Factor<T> left_factor(const ssm::Matmul<T, CudaSpace>& a, T*& scratch, Stream stream) {
  // Row-major b is the left factor of the column-major product.
  const Index inner = a.a.extent(1), columns = a.c.extent(1);
  Factor<T> factor;
  if (a.b && as_factor(a.b.data(), columns, inner, a.b.stride(1), a.b.stride(0), factor))
    return factor;
  T* const copied = scratch;
  scratch += inner * columns;
  const auto b = operand(a.b);
  const auto bf16 = operand(a.b_bf16);
  const auto at = [=] SSM_DEVICE(Index k, Index n) {
    return b ? b(k, n) : static_cast<T>(static_cast<float>(bf16(k, n)));
  };
  // Neighbors in memory stay neighbors: the transpose of a layer's weight is copied as the weight.
  if (a.b_bf16 && a.b_bf16.stride(0) == 1) {
    for_each_index(inner * columns, stream, "matmul",
                   [=] SSM_DEVICE(Index i) { copied[i] = at(i % inner, i / inner); });
    return {copied, true, inner};
  }
  for_each_index(inner * columns, stream, "matmul",
                 [=] SSM_DEVICE(Index i) { copied[i] = at(i / columns, i % columns); });
  return {copied, false, columns};
}

template <class T>
Factor<T> right_factor(const ssm::Matmul<T, CudaSpace>& a, T*& scratch, Stream stream) {
  const Index rows = a.a.extent(0), inner = a.a.extent(1);
  Factor<T> factor;
  if (as_factor(a.a.data(), inner, rows, a.a.stride(1), a.a.stride(0), factor)) return factor;
  T* const copied = scratch;
  scratch += rows * inner;
  const auto from = operand(a.a);
  for_each_index(rows * inner, stream, "matmul",
                 [=] SSM_DEVICE(Index i) { copied[i] = from(i / inner, i % inner); });
  return {copied, false, inner};
}

template <class T>
std::uint32_t alignment_of(const T* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  return static_cast<std::uint32_t>(std::min<std::uintptr_t>(256, address & (~address + 1)));
}

template <class T>
constexpr cudaDataType_t scalar_type = std::is_same_v<T, double> ? CUDA_R_64F : CUDA_R_32F;

/// target = a·b (+ bias) (+ target where `beta` is 1), rows of `step`.
template <class T>
void product(MatmulLibrary& library, const ssm::Matmul<T, CudaSpace>& a, T*& scratch, T* target,
             Index step, T beta, Stream stream) {
  const Index rows = a.c.extent(0), columns = a.c.extent(1), inner = a.a.extent(1);
  const auto bias = operand(a.bias);
  const bool fuses_bias = bias && sizeof(T) == sizeof(float) && inner > 0 &&
                          a.bias.is_contiguous() && alignment_of(bias.data) >= 16;
  const bool fills = inner == 0 || (bias && !fuses_bias);
  if (fills) {
    const T before = beta;
    for_each_index(rows * columns, stream, "matmul", [=] SSM_DEVICE(Index i) {
      const Index n = i % columns;
      T& entry = target[i / columns * step + n];
      entry = (before != T{0} ? entry : T{0}) + (bias ? bias(n) : T{0});
    });
    beta = 1;
  }
  if (inner == 0) return;
  const Factor<T> left = left_factor(a, scratch, stream);
  const Factor<T> right = right_factor(a, scratch, stream);
  // A few rows are a step, whose operands are slices at every address: one algorithm serves them
  // all.
  constexpr Index few_rows = 16;
  const auto alignment = [&](const T* pointer) {
    return rows <= few_rows ? static_cast<std::uint32_t>(sizeof(T)) : alignment_of(pointer);
  };
  const ProductShape shape{
      .scalar = scalar_type<T>,
      .epilogue = fuses_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT,
      .a_transposed = left.is_transposed,
      .b_transposed = right.is_transposed,
      .rows = static_cast<std::uint64_t>(columns),
      .columns = static_cast<std::uint64_t>(rows),
      .inner = static_cast<std::uint64_t>(inner),
      .a_step = left.step,
      .b_step = right.step,
      .d_step = std::max(step, columns),
      .a_alignment = alignment_of(left.data),
      .b_alignment = alignment(right.data),
      .d_alignment = alignment(target)};
  const Product& chosen = library.product(shape);
  if (!chosen.is_supported)
    throw Failure("matmul: cuBLASLt has no algorithm for [" + std::to_string(rows) + ", " +
                  std::to_string(inner) + "] times [" + std::to_string(inner) + ", " +
                  std::to_string(columns) + "]");
  library.run(chosen, left.data, right.data, beta, target, fuses_bias ? bias.data : nullptr,
              stream);
}

/// Sums over k are cut into slices, so that tall operands keep the device busy; slices are added in
/// order.
constexpr Index slice_length = 256;
inline Index slice_count(Index inner) { return (inner + slice_length - 1) / slice_length; }

template <class T>
void add_row_sums(const ssm::Matmul<T, CudaSpace>& a, T* partial, Stream stream) {
  const Index rows = a.a.extent(0), inner = a.a.extent(1), slices = slice_count(inner);
  const auto from = operand(a.a);
  const auto sum = operand(a.a_sum);
  for_each_index(rows * slices, stream, "matmul", [=] SSM_DEVICE(Index i) {
    const Index m = i % rows, begin = i / rows * slice_length;
    const Index end = begin + slice_length < inner ? begin + slice_length : inner;
    T total = 0;
    for (Index k = begin; k < end; ++k) total += from(m, k);
    partial[i] = total;
  });
  for_each_index(rows, stream, "matmul", [=] SSM_DEVICE(Index m) {
    T total = 0;
    for (Index slice = 0; slice < slices; ++slice) total += partial[slice * rows + m];
    sum(m) += total;
  });
}

template <class T>
bool has_pass(const ssm::Matmul<T, CudaSpace>& a) {
  return a.activation != ActivationKind::none || a.z;
}

}  // namespace
}  // namespace device

template <class T>
Index matmul_scratch_count(const ssm::Matmul<T, CudaSpace>& a) {
  const Index rows = a.c.extent(0), columns = a.c.extent(1), inner = a.a.extent(1);
  return rows * inner + inner * columns + (device::has_pass(a) ? rows * columns : 0) +
         (a.a_sum ? rows * device::slice_count(inner) : 0);
}

template <class T>
void matmul(MatmulLibrary& library, const ssm::Matmul<T, CudaSpace>& a, T* scratch, Stream stream) {
  using namespace device;
  const Index rows = a.c.extent(0), columns = a.c.extent(1);
  if (a.a_sum) {
    add_row_sums(a, scratch, stream);
    scratch += rows * slice_count(a.a.extent(1));
  }
  if (rows == 0 || columns == 0) return;
  if (columns > 1 && a.c.stride(1) != 1)
    throw ShapeError("matmul", "c", "must have contiguous rows");
  if (!has_pass(a)) {
    product(library, a, scratch, a.c.data(), a.c.stride(0), T(a.accumulate ? 1 : 0), stream);
    return;
  }
  T* const target = scratch;
  scratch += rows * columns;
  product(library, a, scratch, target, columns, T{0}, stream);
  const auto z = operand(a.z);
  const auto c = operand(a.c);
  const ActivationKind kind = a.activation;
  const bool accumulates = a.accumulate;
  for_each_index(rows * columns, stream, "matmul", [=] SSM_DEVICE(Index i) {
    const Index m = i / columns, n = i % columns;
    if (z) z(m, n) = target[i];
    c(m, n) = (accumulates ? c(m, n) : T{0}) + activate(kind, target[i]);
  });
}

#define SSM_INSTANTIATE(T)                                                                   \
  template SSM_CUDA_API void matmul<T>(MatmulLibrary&, const ssm::Matmul<T, CudaSpace>&, T*, \
                                       Stream);                                              \
  template SSM_CUDA_API Index matmul_scratch_count<T>(const ssm::Matmul<T, CudaSpace>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
