// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "kernel/activation_functions.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/kept_weights.cuh"
#include "kernel/parallel.cuh"
#include "kernel/runs.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/matmul_few_rows.hpp"
namespace ssm::cuda {
namespace {

using device::Operand;

using device::gather_run;
using device::load_run;
using device::Run;
constexpr Index run = device::run_length;  // consecutive k that a lane takes at a time

template <class V>
bool has_aligned_runs(const V& matrix, int along, int across) {
  constexpr std::size_t alignment =
      device::run_alignment<std::remove_cvref_t<decltype(*matrix.data())>>;
  constexpr Index aligned = alignment / sizeof(*matrix.data());
  return matrix.stride(along) == 1 &&
         (matrix.extent(across) == 1 || matrix.stride(across) % aligned == 0) &&
         reinterpret_cast<std::uintptr_t>(matrix.data()) % alignment == 0;
}

/// The lanes of a warp, or of a block, make `Columns` entries of `Rows` rows of c. Each lane adds
/// its runs of k in order; then the lanes' sums are added. What is added in which order depends on
/// the sizes alone, however the operands lie.
/// W   the scalar of the weights: T, a half type, or int8 with scales
template <class T, class W, int Rows, int Columns, int Unroll>
struct FewRows {
  using Sum = Wide<T>;

  FewRows() = default;
  FewRows(const ssm::Matmul<T, CudaSpace>& call, const View<const W, 2, CudaSpace>& weights)
      : a(device::operand(call.a)),
        b(device::operand(weights)),
        scale(device::column_scale<W>(call)),
        bias(device::operand(call.bias)),
        residual(device::operand(call.residual)),
        c(device::operand(call.c)),
        z(device::operand(call.z)),
        rows(call.c.extent(0)),
        columns(call.c.extent(1)),
        depth(call.a.extent(1)),
        activation(call.activation),
        accumulates(call.accumulate),
        are_aligned(has_aligned_runs(call.a, 1, 0) && has_aligned_runs(weights, 0, 1)) {}

  Index blocks() const { return (columns + Columns - 1) / Columns * row_blocks(); }

  /// The weights, which no predecessor makes while a model generates.
  template <class Lanes>
  SSM_DEVICE void prefetch(Index block, Lanes lanes) const {
    if (!are_aligned) return;
    constexpr Index line = 128 / Index{sizeof(W)};
    const Index column = first_column(block);
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n)
      for (Index k = lanes.index() * line; k < depth; k += Lanes::count * line)
        device::prefetch(&b(k, last(column + n, columns)));
    if (bias && lanes.first()) device::prefetch(&bias(column));
    if constexpr (device::has_scale<W>)
      if (lanes.first()) device::prefetch(&scale(column));
  }

  template <class Lanes>
  SSM_DEVICE void operator()(Index block, Lanes lanes) const {
    const Index column = first_column(block);
    const Index row = (block - column / Columns * row_blocks()) * Rows;
    Sum sum[Rows][Columns] = {};
    const Index runs = (depth + run - 1) / run;
    const Index aligned = are_aligned ? depth / run : 0;
    // `Unroll` runs on their way at a time; in place of one that is not there, the last.
    for (Index first = lanes.index(); first < aligned; first += Unroll * Lanes::count) {
      Factors factors[Unroll];
      SSM_UNROLL
      for (int u = 0; u < Unroll; ++u)
        read(row, column, factors[u], [&](const auto* from, Index) {
          return load_run(from + last(first + u * Lanes::count, aligned) * run);
        });
      SSM_UNROLL
      for (int u = 0; u < Unroll; ++u)
        if (first + u * Lanes::count < aligned) add(factors[u], sum);
    }
    // The rest, each run in the lane that it would have been in.
    const Index offset = (lanes.index() + Lanes::count - aligned % Lanes::count) % Lanes::count;
    for (Index i = aligned + offset; i < runs; i += Lanes::count) {
      Factors factors;
      read(row, column, factors, [&](const auto* from, Index stride) {
        return gather_run(from + i * run * stride, stride, depth - i * run);
      });
      add(factors, sum);
    }
    Sum entries[Rows * Columns];
    SSM_UNROLL
    for (int i = 0; i < Rows * Columns; ++i) entries[i] = sum[i / Columns][i % Columns];
    lanes.totals(entries, [&](int i, Sum total) {
      const Index m = row + i / Columns, n = column + i % Columns;
      if (m < rows && n < columns) finish(m, n, total);
    });
  }

 private:
  SSM_HOST_DEVICE Index row_blocks() const { return (rows + Rows - 1) / Rows; }
  /// Blocks of rows that read the same columns of b are neighbors: the later ones find them in the
  /// cache.
  SSM_HOST_DEVICE Index first_column(Index block) const {
    return (rows <= Rows ? block : block / row_blocks()) * Columns;
  }
  /// A run of k: of rows of a, and of columns of b.
  struct Factors {
    Run<T> x[Rows];
    Run<W> weights[Columns];
  };
  /// By load(address of k = 0, stride along k).
  template <class Load>
  SSM_DEVICE void read(Index row, Index column, Factors& factors, const Load& load) const {
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n)
      factors.weights[n] = load(&b(Index{0}, last(column + n, columns)), b.strides[0]);
    SSM_UNROLL
    for (int m = 0; m < Rows; ++m)
      factors.x[m] = load(&a(last(row + m, rows), Index{0}), a.strides[1]);
  }
  SSM_DEVICE static void add(const Factors& factors, Sum (&sum)[Rows][Columns]) {
    SSM_UNROLL
    for (int m = 0; m < Rows; ++m) {
      SSM_UNROLL
      for (int n = 0; n < Columns; ++n) {
        SSM_UNROLL
        for (int j = 0; j < run; ++j)
          sum[m][n] += factors.x[m][j] * static_cast<Sum>(factors.weights[n][j]);
      }
    }
  }
  /// A block at the edge reads its last row or column again, in place of those that do not exist.
  SSM_DEVICE static Index last(Index i, Index count) { return i < count ? i : count - 1; }
  SSM_DEVICE void finish(Index m, Index n, Sum product) const {
    if constexpr (device::has_scale<W>) product = device::scaled_sum(product, scale(n));
    const Sum value = product + (bias ? bias(n) : Sum{0});
    if (z) z(m, n) = device::narrowed<T>(value);
    const Sum before = (accumulates ? device::widened(c(m, n)) : Sum{0}) +
                       (residual ? device::widened(residual(m, n)) : Sum{0});
    c(m, n) = device::narrowed<T>(before + device::activate(activation, value));
  }

  Operand<const T, 2> a;
  Operand<const W, 2> b;
  [[no_unique_address]] device::ColumnScale<W> scale;
  Operand<const Sum, 1> bias;
  Operand<const T, 2> residual;
  Operand<T, 2> c, z;
  Index rows = 0, columns = 0, depth = 0;
  ActivationKind activation = ActivationKind::none;
  bool accumulates = false, are_aligned = false;
};

/// Several of them, their blocks numbered through all.
template <class Product>
struct FewRowsList {
  static constexpr int capacity = products_a_kernel;

  Index blocks() const { return first[count]; }
  void add(const Product& product) {
    products[count] = product;
    first[count + 1] = first[count] + product.blocks();
    ++count;
  }
  SSM_HOST_DEVICE int at(Index block) const {
    int i = 0;
    while (i + 1 < count && first[i + 1] <= block) ++i;
    return i;
  }
  template <class Lanes>
  SSM_DEVICE void prefetch(Index block, Lanes lanes) const {
    const int i = at(block);
    products[i].prefetch(block - first[i], lanes);
  }
  template <class Lanes>
  SSM_DEVICE void operator()(Index block, Lanes lanes) const {
    const int i = at(block);
    products[i](block - first[i], lanes);
  }

  Product products[capacity];
  Index first[capacity + 1] = {};
  int count = 0;
};

template <class T>
using Calls = std::span<const ssm::Matmul<T, CudaSpace>>;

template <class W, int Rows, int Columns, int Unroll, class T>
void run_few_rows(Calls<T> calls, Stream stream) {
  // So many warps keep a device busy; where there are fewer, four share what would be several
  // rounds of loads. One row's sums are cut as by matmul_one_row, so that they have one order.
  constexpr Index busy = 2048;
  constexpr int threads = 128;
  FewRowsList<FewRows<T, W, Rows, Columns, Unroll>> products;
  for (const auto& call : calls) products.add({call, device::weights_in<W>(call)});
  const Index rounds = calls.front().a.extent(1) / (run * Unroll * 32);
  if (Rows > 1 && rounds > 1 && products.blocks() < busy)
    device::for_each_block<threads>(products.blocks(), stream, "matmul", products);
  else
    device::for_each_row(products.blocks(), stream, "matmul", products);
}

template <class W, class T>
void choose_few_rows(Calls<T> calls, Stream stream) {
  // Blocks of b are read once: the more rows share one, the more of its columns share what is read
  // of a.
  const Index rows = calls.front().c.extent(0);
  if (rows <= 1)
    run_few_rows<W, 1, 1, 4, T>(calls, stream);
  else if (rows <= 2)
    run_few_rows<W, 2, 2, 2, T>(calls, stream);
  else if (rows <= 4)
    run_few_rows<W, 4, 4, 1, T>(calls, stream);
  else
    run_few_rows<W, std::is_same_v<T, double> ? 4 : 8, 4, 1, T>(calls, stream);
}

}  // namespace

template <class T>
void matmul_few_rows(Calls<T> products, Stream stream) {
  if (products.empty()) return;
  device::with_weight_scalar(products.front(), [&]<class W>(std::type_identity<W>) {
    choose_few_rows<W, T>(products, stream);
  });
}

#define SSM_INSTANTIATE(T) template SSM_CUDA_API void matmul_few_rows<T>(Calls<T>, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
