// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernel/column_sums.cuh"
#include "kernel/quick_functions.cuh"
#include "matmul/matmul_library.cuh"
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

/// One product of matrices in T: a, b and bias as ssm::Matmul has them.
template <class T>
struct Operands {
  View<const T, 2, CudaSpace> a{}, b{};
  View<const BFloat16, 2, CudaSpace> b_bf16{};
  View<const Wide<T>, 1, CudaSpace> bias{};

  explicit Operands(const ssm::Matmul<T, CudaSpace>& of)
      : a(of.a), b(of.b), b_bf16(of.b_bf16), bias(of.bias) {
    if constexpr (std::is_same_v<T, BFloat16>)
      if (!b) b = b_bf16;
  }
  explicit Operands(const ssm::WeightGradient<T, CudaSpace>& of)
      : a(of.dy.transpose(0, 1)), b(of.x) {}
  explicit Operands(const ssm::SlopedMatmul<T, CudaSpace>& of) : a(of.a), b(of.b) {}

  Index rows() const { return a.extent(0); }
  Index inner() const { return a.extent(1); }
  Index columns() const { return b ? b.extent(1) : b_bf16.extent(1); }
};

template <class T>
Factor<T> left_factor(const Operands<T>& a, WorkspaceLayout& scratch, Stream stream) {
  // Row-major b is the left factor of the column-major product.
  const Index inner = a.inner(), columns = a.columns();
  Factor<T> factor;
  if (a.b && as_factor(a.b.data(), columns, inner, a.b.stride(1), a.b.stride(0), factor))
    return factor;
  T* const copied = scratch.take<T>(static_cast<std::size_t>(inner * columns));
  const auto b = operand(a.b);
  const auto bf16 = operand(a.b_bf16);
  const auto at = [=] SSM_DEVICE(Index k, Index n) {
    return b ? b(k, n) : converted<T>(bf16(k, n));
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
Factor<T> right_factor(const Operands<T>& a, WorkspaceLayout& scratch, Stream stream) {
  const Index rows = a.rows(), inner = a.inner();
  Factor<T> factor;
  if (as_factor(a.a.data(), inner, rows, a.a.stride(1), a.a.stride(0), factor)) return factor;
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

/// The bias as cuBLASLt adds it, in T; null where it does not. In a half type it is rounded.
template <class T>
const T* fused_bias(const Operands<T>& a, WorkspaceLayout& scratch, Stream stream) {
  if (!a.bias || a.inner() == 0) return nullptr;
  if constexpr (std::is_same_v<T, float>)
    return a.bias.is_contiguous() && alignment_of(a.bias.data()) >= 16 ? a.bias.data() : nullptr;
  if constexpr (HalfStorage<T>) {
    T* const rounded = scratch.take<T>(static_cast<std::size_t>(a.columns()));
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
  const T* const fused = fused_bias(a, scratch, stream);
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

/// a_sum += Σ_k a[·, k]
template <class T>
void add_row_sums(const View<const T, 2, CudaSpace>& a, const View<Wide<T>, 1, CudaSpace>& a_sum,
                  WorkspaceLayout& scratch, Stream stream) {
  using S = Wide<T>;
  constexpr int size = pack_size<T>;
  const Index rows = a.extent(0), inner = a.extent(1);
  S* const partial = scratch.take<S>(static_cast<std::size_t>(rows * column_slices(inner).count));
  const auto from = operand(a);
  const auto sum = operand(a_sum);
  // Neighbors are rows of a: columns of the gradient whose sum a bias takes.
  column_sums<1, S>(
      inner, row_runs<size>(rows, a.transpose(0, 1)), partial, stream, "matmul",
      [=] SSM_DEVICE(Index k, Index m, Index count, S(&values)[1][size]) {
        read_neighbors(&from(m, k), from.strides[0], count, values[0]);
      },
      [=] SSM_DEVICE(int, Index m, S total) { sum(m) += total; });
}

template <class T>
void reserve_row_sums(const View<const T, 2, CudaSpace>& a, WorkspaceLayout& layout) {
  layout.take<Wide<T>>(static_cast<std::size_t>(a.extent(0) * column_slices(a.extent(1)).count));
}

template <class T>
bool has_pass(const ssm::Matmul<T, CudaSpace>& a) {
  return a.activation != ActivationKind::none || a.z ||
         (a.residual && (a.accumulate || !has_rows(a.residual)));
}

/// Where the product waits for its activation: of half types in z or c where those can hold it,
/// else in scratch memory.
template <class T>
Rows<T> before_activation(const ssm::Matmul<T, CudaSpace>& a, WorkspaceLayout& scratch) {
  if constexpr (HalfStorage<T>) {
    if (a.z && has_rows(a.z)) return {a.z.data(), a.z.stride(0)};
    if (!a.z && !a.accumulate) return {a.c.data(), a.c.stride(0)};
  }
  const Index columns = a.c.extent(1);
  return {scratch.take<T>(static_cast<std::size_t>(a.c.extent(0) * columns)), columns};
}

/// Whether cuBLASLt may fuse gelu_tanh of a product into c, whose argument is x.
template <class T, class X>
bool can_fuse_gelu(ActivationKind kind, const Operands<T>& a, const View<T, 2, CudaSpace>& c,
                   const View<X, 2, CudaSpace>& x) {
  const auto is_aligned = [](const auto& matrix) { return !matrix || has_packs(matrix); };
  return HalfStorage<T> && kind == ActivationKind::gelu_tanh && a.inner() > 0 &&
         a.columns() % pack_size<T> == 0 && is_aligned(c) && is_aligned(x);
}

/// z and c of a product's sums: of each element the sum of `parts` numbers, the last ones first.
/// sums   [parts·M, N]   rows 0 … M−1 of the first numbers, then those of the next
template <class T>
void finish(const ssm::Matmul<T, CudaSpace>& a, const View<T, 2, CudaSpace>& sums, int parts,
            Stream stream) {
  using S = Wide<T>;
  constexpr int size = pack_size<T>;
  const auto from = operand(sums);
  const Index rows = a.c.extent(0);
  View<const S, 2, CudaSpace> biases;  // the same for every row
  if (a.bias) biases = {a.bias.data(), {rows, a.bias.extent(0)}, {0, a.bias.stride(0)}};
  const auto bias = operand(biases);
  const auto z = operand(a.z);
  const auto c = operand(a.c);
  const auto residual = operand(a.residual);
  const ActivationKind kind = a.activation;
  const bool accumulates = a.accumulate;
  const auto runs = matrix_runs<size>(rows, a.c.extent(1), sums, biases, a.z, a.residual, a.c);
  for_each_index(runs.count(), stream, "matmul", [=] SSM_DEVICE(Index i) {
    const auto run = runs.at(i);
    const Index m = run.row, n = run.column;
    with_full_run<size>(run.count, [&](auto count) {
      S values[size], before[size] = {}, others[size] = {};
      read_neighbors(&from(m + (parts - 1) * rows, n), Index{1}, count, values);
      for (int part = parts - 2; part >= 0; --part) {
        S larger[size];
        read_neighbors(&from(m + part * rows, n), Index{1}, count, larger);
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[k] += larger[k];
      }
      if (bias) {
        S added[size];
        read_neighbors(&bias(m, n), bias.strides[1], count, added);
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[k] += added[k];
      }
      if (accumulates) read_neighbors(&c(m, n), c.strides[1], count, before);
      if (residual) read_neighbors(&residual(m, n), residual.strides[1], count, others);
      if (z) write_neighbors(&z(m, n), z.strides[1], count, values);
      with_known_kind(kind, [&](auto known) {
        SSM_UNROLL
        for (int k = 0; k < size; ++k)
          values[k] = before[k] + others[k] + activate_number<T>(known, values[k]);
      });
      write_neighbors(&c(m, n), c.strides[1], count, values);
    });
  });
}

/// Room for what a product copies, and for row sums.
template <class T>
WorkspaceLayout product_scratch(const Operands<T>& a, bool has_row_sums) {
  const auto count = [](Index n) { return static_cast<std::size_t>(n); };
  WorkspaceLayout layout(nullptr);
  layout.take<T>(count(a.rows() * a.inner()));
  layout.take<T>(count(a.inner() * a.columns()));
  if (HalfStorage<T> && a.bias) layout.take<T>(count(a.columns()));
  if (has_row_sums) reserve_row_sums<T>(a.a, layout);
  return layout;
}

/// to[part, m, k] ← numbers of bf16 whose sum over the parts is a[m, k].
template <int parts>
void split_numbers(const View<const float, 2, CudaSpace>& a, BFloat16* to, Stream stream) {
  const auto from = operand(a);
  const Index rows = a.extent(0), inner = a.extent(1);
  for_each_index(rows * inner, stream, "matmul", [=] SSM_DEVICE(Index i) {
    float rest = from(i / inner, i % inner);
    SSM_UNROLL
    for (int part = 0; part < parts; ++part) {
      const BFloat16 rounded = narrowed<BFloat16>(rest);
      to[part * rows * inner + i] = rounded;
      const float value = widened(rounded);
      rest = std::isfinite(value) ? rest - value : 0.0F;
    }
  });
}

/// Rows of floats by a matrix kept in bf16, on tensor cores: a number of a row is the sum of three
/// of bf16, whose products with the matrix are exact; sums are in float. The matrix is read as it
/// is.
struct ByParts {
  using Call = ssm::Matmul<float, CudaSpace>;
  static constexpr int parts = 3;
  static constexpr Index rows_at_once = 512;

  template <class T>
  static bool can(const ssm::Matmul<T, CudaSpace>& a) {
    if constexpr (std::is_same_v<T, float>) {
      const auto& b = a.b_bf16;
      Factor<BFloat16> factor;
      return b && a.c.size() > 0 && b.extent(0) > 0 &&
             as_factor(b.data(), b.extent(1), b.extent(0), b.stride(1), b.stride(0), factor);
    }
    return false;
  }
  static void reserve(const Call& a, WorkspaceLayout& layout) {
    const Index rows = std::min(rows_at_once, a.c.extent(0));
    layout.take<BFloat16>(static_cast<std::size_t>(parts * rows * a.a.extent(1)));
    layout.take<float>(static_cast<std::size_t>(parts * rows * a.c.extent(1)));
  }
  static void run(MatmulLibrary& library, Call a, WorkspaceLayout& scratch, Stream stream) {
    const Index all = a.c.extent(0), at_once = std::min(rows_at_once, all);
    const Index inner = a.a.extent(1), columns = a.c.extent(1);
    BFloat16* const factors =
        scratch.take<BFloat16>(static_cast<std::size_t>(parts * at_once * inner));
    float* const sums = scratch.take<float>(static_cast<std::size_t>(parts * at_once * columns));
    for (Index first = 0; first < all; first += at_once) {
      const Index rows = std::min(at_once, all - first);
      const auto some = [&](const auto& x) { return x ? x.slice(0, first, first + rows) : x; };
      Call call = a;
      call.a = some(a.a);
      call.residual = some(a.residual);
      call.c = some(a.c);
      call.z = some(a.z);
      split_numbers<parts>(call.a, factors, stream);
      const ssm::Matmul<BFloat16, CudaSpace> product_of_parts{
          .a = View<const BFloat16, 2, CudaSpace>(factors, {parts * rows, inner}), .b = a.b_bf16};
      product(library, Operands<BFloat16>(product_of_parts), scratch, Rows<float>{sums, columns},
              Rows<const float>{}, stream);
      finish(call, View<float, 2, CudaSpace>(sums, {parts * rows, columns}), parts, stream);
    }
  }
};

}  // namespace
}  // namespace device

template <class T>
std::size_t matmul_scratch_bytes(const ssm::Matmul<T, CudaSpace>& a) {
  if constexpr (std::is_same_v<T, float>)
    if (device::ByParts::can(a)) {
      device::WorkspaceLayout layout(nullptr);
      device::ByParts::reserve(a, layout);
      if (a.a_sum) device::reserve_row_sums<float>(a.a, layout);
      return layout.used();
    }
  device::WorkspaceLayout layout =
      device::product_scratch(device::Operands<T>(a), static_cast<bool>(a.a_sum));
  if (device::has_pass(a)) layout.take<T>(static_cast<std::size_t>(a.c.size()));
  return layout.used();
}

template <class T>
void matmul(MatmulLibrary& library, const ssm::Matmul<T, CudaSpace>& a, void* memory,
            Stream stream) {
  using namespace device;
  using S = Wide<T>;
  const Operands<T> operands(a);
  WorkspaceLayout scratch(memory);
  const Index rows = a.c.extent(0), columns = a.c.extent(1);
  if (a.a_sum) add_row_sums(operands.a, a.a_sum, scratch, stream);
  if (rows == 0 || columns == 0) return;
  if (!has_rows(a.c)) throw ShapeError("matmul", "c", "must have contiguous rows");
  if constexpr (std::is_same_v<T, float>)
    if (ByParts::can(a)) return ByParts::run(library, a, scratch, stream);
  if (!has_pass(a)) {
    Rows<const T> added;
    if (a.accumulate) added = {a.c.data(), a.c.stride(0)};
    if (a.residual) added = {a.residual.data(), a.residual.stride(0)};
    product(library, operands, scratch, Rows<T>{a.c.data(), a.c.stride(0)}, added, stream);
    return;
  }
  if (!a.accumulate && !a.residual && can_fuse_gelu(a.activation, operands, a.c, a.z)) {
    FusedGelu<T> gelu{FusedGelu<T>::value};
    if (a.z) gelu.aux = {a.z.data(), a.z.stride(0)};
    WorkspaceLayout own(memory);
    if (product(library, operands, own, Rows<T>{a.c.data(), a.c.stride(0)}, Rows<const T>{}, stream,
                gelu))
      return;
  }
  const Rows<T> target = before_activation(a, scratch);
  product(library, operands, scratch, target, Rows<const T>{}, stream);
  const View<T, 2, CudaSpace> sums(target.data, DynamicExtents<2>(rows, columns), {target.step, 1});
  auto rest = a;
  rest.bias = {};
  if (a.z && target.data == a.z.data()) rest.z = {};
  finish(rest, sums, 1, stream);
}

template <class T>
std::size_t sloped_matmul_scratch_bytes(const ssm::SlopedMatmul<T, CudaSpace>& a) {
  return device::product_scratch(device::Operands<T>(a), false).used();
}

template <class T>
bool sloped_matmul(MatmulLibrary& library, const ssm::SlopedMatmul<T, CudaSpace>& a, void* memory,
                   Stream stream) {
  using namespace device;
  const Operands<T> operands(a);
  WorkspaceLayout scratch(memory);
  if (a.c.size() == 0 || !can_fuse_gelu(a.activation, operands, a.c, a.x)) return false;
  const FusedGelu<T> gelu{FusedGelu<T>::slope, {const_cast<T*>(a.x.data()), a.x.stride(0)}};
  return product(library, operands, scratch, Rows<T>{a.c.data(), a.c.stride(0)}, Rows<const T>{},
                 stream, gelu);
}

template <class T>
std::size_t weight_gradient_scratch_bytes(const ssm::WeightGradient<T, CudaSpace>& a) {
  return device::product_scratch(device::Operands<T>(a), static_cast<bool>(a.dbias)).used();
}

template <class T>
void weight_gradient(MatmulLibrary& library, const ssm::WeightGradient<T, CudaSpace>& a,
                     void* memory, Stream stream) {
  using namespace device;
  const Operands<T> operands(a);
  WorkspaceLayout scratch(memory);
  if (a.dbias) add_row_sums(operands.a, a.dbias, scratch, stream);
  if (a.dweight.size() == 0) return;
  if (!has_rows(a.dweight))
    throw ShapeError("weight_gradient", "dweight", "must have contiguous rows");
  using W = Wide<T>;
  const Rows<W> target{a.dweight.data(), a.dweight.stride(0)};
  product(library, operands, scratch, target, Rows<const W>{target.data, target.step}, stream);
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void matmul<T>(MatmulLibrary&, const ssm::Matmul<T, CudaSpace>&, void*, \
                                       Stream);                                                 \
  template SSM_CUDA_API std::size_t matmul_scratch_bytes<T>(const ssm::Matmul<T, CudaSpace>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE
#define SSM_INSTANTIATE(T)                                                      \
  template SSM_CUDA_API bool sloped_matmul<T>(                                  \
      MatmulLibrary&, const ssm::SlopedMatmul<T, CudaSpace>&, void*, Stream);   \
  template SSM_CUDA_API std::size_t sloped_matmul_scratch_bytes<T>(             \
      const ssm::SlopedMatmul<T, CudaSpace>&);                                  \
  template SSM_CUDA_API void weight_gradient<T>(                                \
      MatmulLibrary&, const ssm::WeightGradient<T, CudaSpace>&, void*, Stream); \
  template SSM_CUDA_API std::size_t weight_gradient_scratch_bytes<T>(           \
      const ssm::WeightGradient<T, CudaSpace>&);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
