// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernel/column_sums.cuh"
#include "kernel/quick_functions.cuh"
#include "matmul/gelu_product.cuh"
#include "matmul/matmul_product.cuh"
#include "ssm/backend/cuda/matmul.hpp"

namespace ssm::cuda {
namespace device {
namespace {

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
/// sums     [parts·M, N]   rows 0 … M−1 of the first numbers, then those of the next
/// factor   [N]            of every row of the sums, or null
template <class T>
void finish(const ssm::Matmul<T, CudaSpace>& a, const View<T, 2, CudaSpace>& sums, int parts,
            const View<const Wide<T>, 1, CudaSpace>& factor, Stream stream) {
  using S = Wide<T>;
  constexpr int size = pack_size<T>;
  const auto from = operand(sums);
  const Index rows = a.c.extent(0);
  const auto in_every_row = [&](const View<const S, 1, CudaSpace>& row) {
    return row ? View<const S, 2, CudaSpace>(row.data(), {rows, row.extent(0)}, {0, row.stride(0)})
               : View<const S, 2, CudaSpace>();
  };
  const auto biases = in_every_row(a.bias), factors = in_every_row(factor);
  const auto bias = operand(biases);
  const auto scale = operand(factors);
  const auto z = operand(a.z);
  const auto c = operand(a.c);
  const auto residual = operand(a.residual);
  const ActivationKind kind = a.activation;
  const bool accumulates = a.accumulate;
  const auto runs =
      matrix_runs<size>(rows, a.c.extent(1), sums, biases, factors, a.z, a.residual, a.c);
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
      if (scale) {
        S scales[size];
        read_neighbors(&scale(m, n), scale.strides[1], count, scales);
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[k] *= scales[k];
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
  Factor<T> factor;
  if (!is_right_factor(a, factor)) layout.take<T>(count(a.rows() * a.inner()));
  if (!is_left_factor(a, factor)) layout.take<T>(count(a.inner() * a.columns()));
  if (HalfStorage<T> && a.bias) layout.take<T>(count(a.columns()));
  if (has_row_sums) reserve_row_sums<T>(a.a, layout);
  return layout;
}

/// to[part, m, k] ← numbers of bf16 whose sum over the parts is a[m, k].
template <int parts>
void split_numbers(const View<const float, 2, CudaSpace>& a, BFloat16* to, Stream stream) {
  constexpr int size = pack_size<BFloat16>;
  const auto from = operand(a);
  const Index rows = a.extent(0), inner = a.extent(1);
  const View<BFloat16, 2, CudaSpace> first(to, {rows, inner});
  const auto runs = inner % size == 0 ? matrix_runs<size>(rows, inner, a, first)
                                      : MatrixRuns<size>{1, inner, matrix_elements(rows, inner)};
  for_each_index(runs.count(), stream, "matmul", [=] SSM_DEVICE(Index i) {
    const auto run = runs.at(i);
    with_full_run<size>(run.count, [&](auto count) {
      float rest[size];
      read_neighbors(&from(run.row, run.column), from.strides[1], count, rest);
      SSM_UNROLL
      for (int part = 0; part < parts; ++part) {
        float values[size];
        SSM_UNROLL
        for (int k = 0; k < size; ++k) {
          values[k] = widened(narrowed<BFloat16>(rest[k]));
          rest[k] = std::isfinite(values[k]) ? rest[k] - values[k] : 0.0F;
        }
        write_neighbors(to + (part * rows + run.row) * inner + run.column, Index{1}, count, values);
      }
    });
  });
}

/// The whole numbers of a matrix in bf16, which holds them exactly; as they lie, at `to`.
View<const BFloat16, 2, CudaSpace> in_bf16(const View<const std::int8_t, 2, CudaSpace>& b,
                                           BFloat16* to, Stream stream) {
  constexpr int size = pack_size<std::int8_t>;
  const bool is_transposed = b.stride(0) == 1;  // as the transpose of a layer's weight
  const auto numbers = is_transposed ? b.transpose(0, 1) : b;
  const View<BFloat16, 2, CudaSpace> target(to, numbers.extents());
  const auto from = operand(numbers);
  const auto written = operand(target);
  const auto runs = matrix_runs<size>(numbers.extent(0), numbers.extent(1), numbers, target);
  for_each_index(runs.count(), stream, "matmul", [=] SSM_DEVICE(Index i) {
    const auto run = runs.at(i);
    with_full_run<size>(run.count, [&](auto count) {
      float values[size];
      read_neighbors(&from(run.row, run.column), from.strides[1], count, values);
      write_neighbors(&written(run.row, run.column), Index{1}, count, values);
    });
  });
  return is_transposed ? target.transpose(0, 1) : target;
}

/// Rows of floats by a matrix kept in bf16, on tensor cores: a number of a row is the sum of three
/// of bf16, whose products with the matrix are exact; sums are in float. The matrix is read as it
/// is, one of whole numbers in bf16, whose sums are multiplied by the scales of columns.
struct ByParts {
  using Call = ssm::Matmul<float, CudaSpace>;
  static constexpr int parts = 3;
  static constexpr Index rows_at_once = 512;

  template <class T>
  static bool can(const ssm::Matmul<T, CudaSpace>& a) {
    if constexpr (std::is_same_v<T, float>) {
      const auto& b = a.b_bf16;
      Factor<BFloat16> factor;
      return a.c.size() > 0 && a.a.extent(1) > 0 &&
             (a.b_int8 || (b && as_factor(b.data(), b.extent(1), b.extent(0), b.stride(1),
                                          b.stride(0), factor)));
    }
    return false;
  }
  static void reserve(const Call& a, WorkspaceLayout& layout) {
    const Index rows = std::min(rows_at_once, a.c.extent(0));
    layout.take<BFloat16>(static_cast<std::size_t>(parts * rows * a.a.extent(1)));
    layout.take<float>(static_cast<std::size_t>(parts * rows * a.c.extent(1)));
    if (a.b_int8) layout.take<BFloat16>(static_cast<std::size_t>(a.b_int8.size()));
  }
  /// Whether the numbers of a are those of a call before, in the same place of its scratch memory.
  static bool are_split(const Call* before, const Call& a) {
    return before != nullptr && can(*before) && !before->a_sum && !a.a_sum &&
           before->a.data() == a.a.data() && before->a.stride(0) == a.a.stride(0) &&
           before->a.stride(1) == a.a.stride(1) && before->a.extents() == a.a.extents() &&
           a.a.extent(0) <= rows_at_once;
  }
  static void run(MatmulLibrary& library, const Call& a, bool are_split, WorkspaceLayout& scratch,
                  Stream stream) {
    const Index all = a.c.extent(0), at_once = std::min(rows_at_once, all);
    const Index inner = a.a.extent(1), columns = a.c.extent(1);
    BFloat16* const factors =
        scratch.take<BFloat16>(static_cast<std::size_t>(parts * at_once * inner));
    float* const sums = scratch.take<float>(static_cast<std::size_t>(parts * at_once * columns));
    const auto b =
        a.b_int8
            ? in_bf16(a.b_int8, scratch.take<BFloat16>(static_cast<std::size_t>(a.b_int8.size())),
                      stream)
            : a.b_bf16;
    for (Index first = 0; first < all; first += at_once) {
      const Index rows = std::min(at_once, all - first);
      const auto some = [&](const auto& x) { return x ? x.slice(0, first, first + rows) : x; };
      Call call = a;
      call.a = some(a.a);
      call.residual = some(a.residual);
      call.c = some(a.c);
      call.z = some(a.z);
      if (!are_split) split_numbers<parts>(call.a, factors, stream);
      const ssm::Matmul<BFloat16, CudaSpace> product_of_parts{
          .a = View<const BFloat16, 2, CudaSpace>(factors, {parts * rows, inner}), .b = b};
      product(library, Operands<BFloat16>(product_of_parts), scratch, Rows<float>{sums, columns},
              Rows<const float>{}, stream);
      finish(call, View<float, 2, CudaSpace>(sums, {parts * rows, columns}), parts, a.b_scale,
             stream);
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
  if (device::has_pass(a)) device::before_activation(a, layout);
  return layout.used();
}

namespace {

/// before   the product before, which has left its scratch memory as it was; or null
template <class T>
void matmul_behind(MatmulLibrary& library, [[maybe_unused]] const ssm::Matmul<T, CudaSpace>* before,
                   const ssm::Matmul<T, CudaSpace>& a, void* memory, Stream stream) {
  using namespace device;
  using S = Wide<T>;
  const Operands<T> operands(a);
  WorkspaceLayout scratch(memory);
  const Index rows = a.c.extent(0), columns = a.c.extent(1);
  if (a.a_sum) add_row_sums(operands.a, a.a_sum, scratch, stream);
  if (rows == 0 || columns == 0) return;
  if (!has_rows(a.c)) throw ShapeError("matmul", "c", "must have contiguous rows");
  if constexpr (std::is_same_v<T, float>)
    if (ByParts::can(a))
      return ByParts::run(library, a, ByParts::are_split(before, a), scratch, stream);
  if (!has_pass(a)) {
    Rows<const T> added;
    if (a.accumulate) added = {a.c.data(), a.c.stride(0)};
    if (a.residual) added = {a.residual.data(), a.residual.stride(0)};
    product(library, operands, scratch, Rows<T>{a.c.data(), a.c.stride(0)}, added, stream);
    return;
  }
  if constexpr (HalfStorage<T>)
    if (gelu_product(a, stream)) return;
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
  finish(rest, sums, 1, {}, stream);
}

}  // namespace

template <class T>
void matmul(MatmulLibrary& library, std::span<const ssm::Matmul<T, CudaSpace>> products,
            void* scratch, Stream stream) {
  const ssm::Matmul<T, CudaSpace>* before = nullptr;
  for (const auto& a : products) {
    matmul_behind(library, before, a, scratch, stream);
    before = &a;
  }
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
  Rows<const W> added;
  if (a.accumulate) added = {target.data, target.step};
  product(library, operands, scratch, target, added, stream);
}

#define SSM_INSTANTIATE(T)                                                                         \
  template SSM_CUDA_API void matmul<T>(MatmulLibrary&, std::span<const ssm::Matmul<T, CudaSpace>>, \
                                       void*, Stream);                                             \
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
