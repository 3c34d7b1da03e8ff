// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>

#include "kernel/half_numbers.cuh"
#include "kernel/kept_weights.cuh"
#include "kernel/parallel.cuh"
#include "matmul/matmul_library.cuh"
#include "ssm/backend/cuda/matmul.hpp"

namespace ssm::cuda::device {

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

/// One product of matrices in T: a, b and bias as ssm::Matmul has them.
template <class T>
struct Operands {
  View<const T, 2, CudaSpace> a{}, b{};
  View<const BFloat16, 2, CudaSpace> b_bf16{};
  View<const Float16, 2, CudaSpace> b_f16{};
  View<const std::int8_t, 2, CudaSpace> b_int8{};
  View<const float, 1, CudaSpace> b_scale{};
  View<const Wide<T>, 1, CudaSpace> bias{};

  explicit Operands(const ssm::Matmul<T, CudaSpace>& of)
      : a(of.a),
        b(of.b),
        b_bf16(of.b_bf16),
        b_f16(of.b_f16),
        b_int8(of.b_int8),
        b_scale(of.b_scale),
        bias(of.bias) {
    if constexpr (std::is_same_v<T, BFloat16>)
      if (!b) b = b_bf16;
    if constexpr (std::is_same_v<T, Float16>)
      if (!b) b = b_f16;
  }
  explicit Operands(const ssm::WeightGradient<T, CudaSpace>& of)
      : a(of.dy.transpose(0, 1)), b(of.x) {}
  explicit Operands(const ssm::SlopedMatmul<T, CudaSpace>& of) : a(of.a), b(of.b) {}

  Index rows() const { return a.extent(0); }
  Index inner() const { return a.extent(1); }
  Index columns() const {
    return b ? b.extent(1) : b_bf16 ? b_bf16.extent(1) : b_f16 ? b_f16.extent(1) : b_int8.extent(1);
  }
};

/// A matrix in T. Neighbors in memory stay neighbors: the transpose of a layer's weight is copied
/// as the weight.
template <class T, class W>
Factor<T> copied_factor(const View<const W, 2, CudaSpace>& kept,
                        const View<const float, 1, CudaSpace>& scale, T* copied, Stream stream) {
  const Index inner = kept.extent(0), columns = kept.extent(1);
  const KeptNumber<T, W> at{operand(kept), operand(scale)};
  if (kept.stride(0) == 1) {
    for_each_index(inner * columns, stream, "matmul",
                   [=] SSM_DEVICE(Index i) { copied[i] = at(i % inner, i / inner); });
    return {copied, true, inner};
  }
  for_each_index(inner * columns, stream, "matmul",
                 [=] SSM_DEVICE(Index i) { copied[i] = at(i / columns, i % columns); });
  return {copied, false, columns};
}

/// Whether a factor is read where it lies. Row-major b is the left factor of the column-major
/// product.
template <class T>
bool is_left_factor(const Operands<T>& a, Factor<T>& factor) {
  return a.b && as_factor(a.b.data(), a.columns(), a.inner(), a.b.stride(1), a.b.stride(0), factor);
}
template <class T>
bool is_right_factor(const Operands<T>& a, Factor<T>& factor) {
  return as_factor(a.a.data(), a.inner(), a.rows(), a.a.stride(1), a.a.stride(0), factor);
}

template <class T>
Factor<T> left_factor(const Operands<T>& a, WorkspaceLayout& scratch, Stream stream) {
  const Index inner = a.inner(), columns = a.columns();
  Factor<T> factor;
  if (is_left_factor(a, factor)) return factor;
  T* const copied = scratch.take<T>(static_cast<std::size_t>(inner * columns));
  if (a.b) return copied_factor<T>(a.b, a.b_scale, copied, stream);
  if (a.b_bf16) return copied_factor<T>(a.b_bf16, a.b_scale, copied, stream);
  if (a.b_f16) return copied_factor<T>(a.b_f16, a.b_scale, copied, stream);
  return copied_factor<T>(a.b_int8, a.b_scale, copied, stream);
}

template <class T>
Factor<T> right_factor(const Operands<T>& a, WorkspaceLayout& scratch, Stream stream) {
  const Index rows = a.rows(), inner = a.inner();
  Factor<T> factor;
  if (is_right_factor(a, factor)) return factor;
  T* const copied = scratch.take<T>(static_cast<std::size_t>(rows * inner));
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
constexpr cudaDataType_t scalar_type = CUDA_R_32F;
template <>
constexpr cudaDataType_t scalar_type<double> = CUDA_R_64F;
template <>
constexpr cudaDataType_t scalar_type<BFloat16> = CUDA_R_16BF;
template <>
constexpr cudaDataType_t scalar_type<Float16> = CUDA_R_16F;

/// The bias as cuBLASLt adds it, in T; null where it does not. In a half type it is rounded: in
/// every product, or once where the library keeps it. What is recorded does not make it then.
template <class T>
const T* fused_bias(MatmulLibrary& library, const Operands<T>& a, WorkspaceLayout& scratch,
                    Stream stream) {
  if (!a.bias || a.inner() == 0) return nullptr;
  if constexpr (std::is_same_v<T, float>)
    return a.bias.is_contiguous() && alignment_of(a.bias.data()) >= 16 ? a.bias.data() : nullptr;
  if constexpr (HalfStorage<T>) {
    const auto count = static_cast<std::size_t>(a.columns());
    T* rounded = nullptr;
    if (library.keeps_biases() && a.bias.is_contiguous()) {
      const RoundedBias kept{a.bias.data(), a.columns(), scalar_type<T>};
      if (const void* const before = library.kept(kept)) return static_cast<const T*>(before);
      if (!is_recording(stream)) rounded = static_cast<T*>(library.keep(kept, count * sizeof(T)));
    }
    if (rounded == nullptr) rounded = scratch.take<T>(count);
    const auto bias = operand(a.bias);
    for_each_index(a.columns(), stream, "matmul",
                   [=] SSM_DEVICE(Index n) { rounded[n] = narrowed<T>(bias(n)); });
    return rounded;
  }
  return nullptr;
}

/// Rows of contiguous numbers.
template <class T>
struct Rows {
  T* data = nullptr;
  Index step = 0;
};
template <class T>
bool has_rows(const View<T, 2, CudaSpace>& x) {
  return x.extent(1) <= 1 || x.stride(1) == 1;
}

/// gelu_tanh in the epilogue of a product of half types, or its slope; `aux` is its argument, which
/// is written, or is null, and of the slope read.
template <class U>
struct FusedGelu {
  enum Kind { none, value, slope } kind = none;
  Rows<U> aux{};

  int epilogue(bool has_bias) const {
    if (kind == slope) return CUBLASLT_EPILOGUE_DGELU;
    const int bias = has_bias ? CUBLASLT_EPILOGUE_BIAS : 0;
    if (kind == value)
      return bias | (aux.data != nullptr ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU);
    return has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  }
};

/// target = a·b (+ bias) (+ added, which may be the target), through `gelu`. A bias that is rounded
/// to T goes with a target in T. Returns false if cuBLASLt has no algorithm.
template <class T, class U>
bool product(MatmulLibrary& library, const Operands<T>& a, WorkspaceLayout& scratch, Rows<U> target,
             Rows<const U> added, Stream stream, const FusedGelu<U>& gelu) {
  using S = Wide<T>;
  const Index rows = a.rows(), columns = a.columns(), inner = a.inner();
  const T* const fused = fused_bias(library, a, scratch, stream);
  if (inner == 0 || (a.bias && fused == nullptr)) {
    const auto bias = operand(a.bias);
    for_each_index(rows * columns, stream, "matmul", [=] SSM_DEVICE(Index i) {
      const Index m = i / columns, n = i % columns;
      const S before = added.data != nullptr ? widened(added.data[m * added.step + n]) : S{0};
      target.data[m * target.step + n] = narrowed<U>(before + (bias ? bias(n) : S{0}));
    });
    added = {target.data, target.step};
  }
  const bool adds = added.data != nullptr;
  if (!adds) added = {target.data, target.step};
  if (inner == 0) return true;
  const Factor<T> left = left_factor(a, scratch, stream);
  const Factor<T> right = right_factor(a, scratch, stream);
  // A few rows are a step, whose operands are slices at every address: one algorithm serves them
  // all.
  constexpr Index few_rows = 16;
  const auto alignment = [&](const auto* pointer) {
    return rows <= few_rows ? static_cast<std::uint32_t>(sizeof(*pointer)) : alignment_of(pointer);
  };
  const ProductShape shape{
      .factors = scalar_type<T>,
      .result = scalar_type<U>,
      .epilogue = static_cast<cublasLtEpilogue_t>(gelu.epilogue(fused != nullptr)),
      .a_transposed = left.is_transposed,
      .b_transposed = right.is_transposed,
      .rows = static_cast<std::uint64_t>(columns),
      .columns = static_cast<std::uint64_t>(rows),
      .inner = static_cast<std::uint64_t>(inner),
      .a_step = left.step,
      .b_step = right.step,
      .c_step = std::max(added.step, columns),
      .d_step = std::max(target.step, columns),
      .aux_step = gelu.aux.data != nullptr ? gelu.aux.step : 0,
      .a_alignment = alignment_of(left.data),
      .b_alignment = alignment(right.data),
      .c_alignment = alignment(added.data),
      .d_alignment = alignment(target.data)};
  const Product& chosen = library.product(shape);
  if (!chosen.is_supported) return false;
  library.run(chosen, left.data, right.data, S(adds ? 1 : 0), added.data, target.data, fused,
              gelu.aux.data, stream);
  return true;
}
/// The same without an activation. Throws Failure.
template <class T, class U>
void product(MatmulLibrary& library, const Operands<T>& a, WorkspaceLayout& scratch, Rows<U> target,
             Rows<const U> added, Stream stream) {
  if (!product(library, a, scratch, target, added, stream, FusedGelu<U>{}))
    throw Failure("matmul: cuBLASLt has no algorithm for [" + std::to_string(a.rows()) + ", " +
                  std::to_string(a.inner()) + "] times [" + std::to_string(a.inner()) + ", " +
                  std::to_string(a.columns()) + "]");
}

}  // namespace ssm::cuda::device
