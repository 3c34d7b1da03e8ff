// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstring>

#include "kernel/activation_functions.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/parallel.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/matmul_few_rows.hpp"
namespace ssm::cuda {
namespace {

using device::Lanes;
using device::Operand;

/// Consecutive k that a lane takes at a time: 16 bytes of weights.
constexpr Index run = 8;

template <class T>
struct alignas(16) Run {
  T values[run];
};

/// `run` numbers at an address that 16 bytes divide, in as few loads as can be.
template <class T>
SSM_HOST_DEVICE Run<T> load_run(const T* from) {
  Run<T> loaded;
  std::memcpy(&loaded, __builtin_assume_aligned(from, 16), sizeof(loaded));
  return loaded;
}

/// The same through any stride; numbers beyond the first `count` are zero.
template <class T>
SSM_HOST_DEVICE Run<T> gather_run(const T* from, Index stride, Index count) {
  Run<T> gathered{};
  for (Index i = 0; i < run; ++i)
    if (i < count) gathered.values[i] = from[i * stride];
  return gathered;
}

template <class V>
bool has_aligned_runs(const V& matrix, int along, int across) {
  constexpr Index aligned = 16 / Index{sizeof(*matrix.data())};
  return matrix.stride(along) == 1 &&
         (matrix.extent(across) == 1 || matrix.stride(across) % aligned == 0) &&
         reinterpret_cast<std::uintptr_t>(matrix.data()) % 16 == 0;
}

/// A warp makes `Columns` entries of `Rows` rows of c. Each lane adds its runs of k in order; then
/// the lanes' sums are added. What is added in which order depends on K alone, however the operands
/// lie.
/// W   the scalar of the weights, BFloat16 or T
template <class T, class W, int Rows, int Columns, int Unroll>
struct FewRows {
  using Sum = Wide<T>;

  FewRows(const ssm::Matmul<T, CudaSpace>& call, const View<const W, 2, CudaSpace>& weights)
      : a(device::operand(call.a)),
        b(device::operand(weights)),
        bias(device::operand(call.bias)),
        c(device::operand(call.c)),
        z(device::operand(call.z)),
        rows(call.c.extent(0)),
        columns(call.c.extent(1)),
        depth(call.a.extent(1)),
        activation(call.activation),
        accumulates(call.accumulate),
        are_aligned(has_aligned_runs(call.a, 1, 0) && has_aligned_runs(weights, 0, 1)) {}

  Index row_blocks() const { return (rows + Rows - 1) / Rows; }
  Index column_blocks() const { return (columns + Columns - 1) / Columns; }

  SSM_DEVICE void operator()(Index block, Lanes lanes) const {
    // Blocks of rows that read the same columns of b are neighbors: the later ones find them in the
    // cache.
    const Index blocks = (rows + Rows - 1) / Rows;
    const Index row = block % blocks * Rows;
    const Index column = block / blocks * Columns;
    Sum sum[Rows][Columns] = {};
    const Index runs = (depth + run - 1) / run;
    const Index aligned = are_aligned ? depth / run : 0;
    lanes.each_unrolled<Unroll>(aligned, [&](Index i) {
      add_run(row, column, sum, [&](const auto* from, Index) { return load_run(from + i * run); });
    });
    // The rest, each run in the lane that it would have been in.
    const Index offset = (lanes.index() + Lanes::count - aligned % Lanes::count) % Lanes::count;
    for (Index i = aligned + offset; i < runs; i += Lanes::count)
      add_run(row, column, sum, [&](const auto* from, Index stride) {
        return gather_run(from + i * run * stride, stride, depth - i * run);
      });
    SSM_UNROLL
    for (int m = 0; m < Rows; ++m) {
      SSM_UNROLL
      for (int n = 0; n < Columns; ++n) sum[m][n] = lanes.total(sum[m][n]);
    }
    // Each lane finishes one entry.
    constexpr int entries = Rows * Columns;
    SSM_UNROLL
    for (int first = 0; first < entries; first += int{Lanes::count}) {
      Sum own = 0;
      SSM_UNROLL
      for (int i = 0; i < int{Lanes::count}; ++i)
        if (first + i < entries && i == lanes.index())
          own = sum[(first + i) / Columns][(first + i) % Columns];
      const Index entry = first + lanes.index();
      const Index m = row + entry / Columns, n = column + entry % Columns;
      if (entry < entries && m < rows && n < columns) finish(m, n, own);
    }
  }

 private:
  /// sum += x·w over a run, which `load(address of k = 0, stride along k)` gives of a row of a or a
  /// column of b.
  template <class Load>
  SSM_DEVICE void add_run(Index row, Index column, Sum (&sum)[Rows][Columns],
                          const Load& load) const {
    Run<W> weights[Columns];
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n)
      weights[n] = load(&b(Index{0}, last(column + n, columns)), b.strides[0]);
    SSM_UNROLL
    for (int m = 0; m < Rows; ++m) {
      const Run<T> x = load(&a(last(row + m, rows), Index{0}), a.strides[1]);
      SSM_UNROLL
      for (int n = 0; n < Columns; ++n) {
        SSM_UNROLL
        for (int j = 0; j < run; ++j)
          sum[m][n] += device::widened(x.values[j]) *
                       static_cast<Sum>(device::widened(weights[n].values[j]));
      }
    }
  }
  /// A block at the edge reads its last row or column again, in place of those that do not exist.
  SSM_DEVICE static Index last(Index i, Index count) { return i < count ? i : count - 1; }
  SSM_DEVICE void finish(Index m, Index n, Sum product) const {
    const Sum value = product + (bias ? bias(n) : Sum{0});
    if (z) z(m, n) = device::narrowed<T>(value);
    c(m, n) = device::narrowed<T>((accumulates ? device::widened(c(m, n)) : Sum{0}) +
                                  device::activate(activation, value));
  }

  Operand<const T, 2> a;
  Operand<const W, 2> b;
  Operand<const Sum, 1> bias;
  Operand<T, 2> c, z;
  Index rows, columns, depth;
  ActivationKind activation;
  bool accumulates, are_aligned;
};

template <int Rows, int Columns, int Unroll, class T, class W>
void run_few_rows(const ssm::Matmul<T, CudaSpace>& a, const View<const W, 2, CudaSpace>& weights,
                  Stream stream) {
  const FewRows<T, W, Rows, Columns, Unroll> blocks(a, weights);
  device::for_each_row(blocks.row_blocks() * blocks.column_blocks(), stream, "matmul", blocks);
}

template <class T, class W>
void choose_few_rows(const ssm::Matmul<T, CudaSpace>& a, const View<const W, 2, CudaSpace>& weights,
                     Stream stream) {
  // Blocks of b are read by one warp each: the more rows share one, the more of its columns share
  // what is read of a.
  const Index rows = a.c.extent(0);
  if (rows <= 1)
    run_few_rows<1, 1, 4>(a, weights, stream);
  else if (rows <= 2)
    run_few_rows<2, 2, 2>(a, weights, stream);
  else if (rows <= 4)
    run_few_rows<4, 4, 1>(a, weights, stream);
  else
    run_few_rows<8, 4, 1>(a, weights, stream);
}

}  // namespace

template <class T>
void matmul_few_rows(const ssm::Matmul<T, CudaSpace>& a, Stream stream) {
  if constexpr (HalfStorage<T>)
    if (a.b) return choose_few_rows(a, a.b, stream);
  choose_few_rows(a, a.b_bf16, stream);
}

#define SSM_INSTANTIATE(T) \
  template SSM_CUDA_API void matmul_few_rows<T>(const ssm::Matmul<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
