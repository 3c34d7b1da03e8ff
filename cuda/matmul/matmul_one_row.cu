// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernel/activation_functions.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/parallel.cuh"
#include "kernel/runs.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/matmul_one_row.hpp"

namespace ssm::cuda {
namespace {

using device::load_run;
using device::Operand;
using device::Run;
using device::run_length;

/// One of the products.
template <class T, class W>
struct OneRowProduct {
  using Sum = Wide<T>;

  const W* weights = nullptr;  // of column 0
  Index stride = 0;            // from one column's to the next
  Operand<const Sum, 1> bias;
  Operand<const T, 2> residual;
  Operand<T, 2> c, z;
  Index columns = 0;
  ActivationKind activation = ActivationKind::none;
  bool accumulates = false;

  SSM_HOST_DEVICE const W* at(Index column) const {
    return weights + (column < columns ? column : columns - 1) * stride;
  }
  /// What is added to a column before its activation, and behind it.
  SSM_DEVICE Sum before(Index n) const { return bias && n < columns ? bias(n) : Sum{0}; }
  SSM_DEVICE Sum behind(Index n) const {
    if (n >= columns) return 0;
    return (accumulates ? device::widened(c(0, n)) : Sum{0}) +
           (residual ? device::widened(residual(0, n)) : Sum{0});
  }
  SSM_DEVICE void write(Index n, Sum value, Sum added) const {
    if (z) z(0, n) = device::narrowed<T>(value);
    c(0, n) = device::narrowed<T>(added + device::activate(activation, value));
  }
};

/// How the row is normalized.
template <class S>
struct OneRowNorm {
  const S* weight = nullptr;
  const S* bias = nullptr;
  S eps = 0;
  bool is_given = false, centers = false;
};

/// A group of lanes holds the row, `Held` runs of 8 each, and makes `Columns` entries at a time:
/// those of its number, and of every `groups` further ones.
template <class T, class W, int Capacity, int Columns>
struct OneRow {
  using Sum = Wide<T>;
  static constexpr std::size_t capacity = products_a_kernel;

  explicit OneRow(const ssm::Normalization<T, CudaSpace>* norm,
                  std::span<const ssm::Matmul<T, CudaSpace>> calls)
      : row(calls.front().a.data()),
        depth(calls.front().a.extent(1)),
        share(1 / static_cast<Sum>(depth)) {
    if (norm != nullptr) {
      row = norm->x.data();
      this->norm = {norm->weight.data(), norm->bias.data(), static_cast<Sum>(norm->eps), true,
                    norm->kind == NormalizationKind::layer};
    }
    for (const auto& call : calls) add(call);
  }

  Index units() const { return first[count]; }

  /// The weights, which no predecessor makes while a model generates.
  template <class Lanes>
  SSM_DEVICE void prefetch(Index group, Lanes lanes) const {
    constexpr Index line = 128 / Index{sizeof(W)};
    const auto& product = products[at(group)];
    const Index column = (group - first[at(group)]) * Columns;
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n)
      for (Index k = lanes.index() * line; k < depth; k += Lanes::count * line)
        device::prefetch(product.at(column + n) + k);
    if (product.bias && lanes.first() && column < product.columns)
      device::prefetch(&product.bias(column));
    if (norm.is_given && group == 0)
      for (Index k = lanes.index() * 32; k < depth; k += Lanes::count * 32) {
        if (norm.weight != nullptr) device::prefetch(norm.weight + k);
        if (norm.bias != nullptr) device::prefetch(norm.bias + k);
      }
  }

  template <class Lanes>
  SSM_DEVICE void operator()(Index group, Lanes lanes) const {
    Held<Lanes> x;
    SSM_UNROLL
    for (int h = 0; h < held<Lanes>; ++h) read(row, h, lanes, x.values[h]);
    bool is_ready = !norm.is_given;
    for (Index unit = group; unit < units_; unit += groups) {
      const int i = at(unit);
      const auto& product = products[i];
      const Index column = (unit - first[i]) * Columns;
      Run<W> weights[Columns][held<Lanes>];
      Sum before[Columns], behind[Columns];
      SSM_UNROLL
      for (int n = 0; n < Columns; ++n) {
        SSM_UNROLL
        for (int h = 0; h < held<Lanes>; ++h) {
          const Index k = place(h, lanes);
          if (k < depth) weights[n][h] = load_run(product.at(column + n) + k);
        }
        before[n] = product.before(column + n);
        behind[n] = product.behind(column + n);
      }
      if (!is_ready) normalize(x, lanes);  // while weights are on their way
      is_ready = true;
      Sum sums[Columns];
      SSM_UNROLL
      for (int n = 0; n < Columns; ++n) {
        sums[n] = 0;
        SSM_UNROLL
        for (int h = 0; h < held<Lanes>; ++h)
          if (place(h, lanes) < depth) {
            SSM_UNROLL
            for (int j = 0; j < run_length; ++j)
              sums[n] +=
                  x.values[h][j] * static_cast<Sum>(device::widened(weights[n][h].values[j]));
          }
      }
      lanes.totals(sums, [&](int number, Sum total) {
        SSM_UNROLL
        for (int n = 0; n < Columns; ++n)
          if (n == number && column + n < product.columns)
            product.write(column + n, total + before[n], behind[n]);
      });
    }
  }

  Index groups = 1;

 private:
  template <class Lanes>
  static constexpr int held = Capacity / static_cast<int>(Lanes::count);
  template <class Lanes>
  struct Held {
    Sum values[held<Lanes>][run_length];
  };
  template <class Lanes>
  SSM_DEVICE static Index place(int h, Lanes lanes) {
    return (lanes.index() + h * Lanes::count) * run_length;
  }

  void add(const ssm::Matmul<T, CudaSpace>& call) {
    View<const W, 2, CudaSpace> weights;
    if constexpr (std::is_same_v<W, T>) weights = call.b;
    if constexpr (std::is_same_v<W, BFloat16>)
      if (!weights) weights = call.b_bf16;
    products[count] = {weights.data(),
                       weights.stride(1),
                       device::operand(call.bias),
                       device::operand(call.residual),
                       device::operand(call.c),
                       device::operand(call.z),
                       call.c.extent(1),
                       call.activation,
                       call.accumulate};
    first[count + 1] = first[count] + (call.c.extent(1) + Columns - 1) / Columns;
    units_ = first[++count];
  }
  SSM_HOST_DEVICE int at(Index unit) const {
    int i = 0;
    while (i + 1 < count && first[i + 1] <= unit) ++i;
    return i;
  }

  /// A run of a vector, 0 beyond its end.
  template <class U, class Lanes>
  SSM_DEVICE void read(const U* from, int h, Lanes lanes, Sum (&values)[run_length]) const {
    const Index k = place(h, lanes);
    Run<U> loaded{};
    if (k < depth) loaded = load_run(from + k);
    SSM_UNROLL
    for (int j = 0; j < run_length; ++j) values[j] = device::widened(loaded.values[j]);
  }

  /// Distances from a mean that was rounded, and their own mean: as good as an exact one.
  template <class Lanes>
  SSM_DEVICE void normalize(Held<Lanes>& x, Lanes lanes) const {
    const auto sum = [&](auto of) {
      Sum own{0};
      SSM_UNROLL
      for (int h = 0; h < held<Lanes>; ++h)
        if (place(h, lanes) < depth) {
          SSM_UNROLL
          for (int j = 0; j < run_length; ++j) own += of(x.values[h][j]);
        }
      return share * lanes.total(own);
    };
    Sum rest{0};
    if (norm.centers) {
      const Sum mean = sum([](Sum value) { return value; });
      SSM_UNROLL
      for (int h = 0; h < held<Lanes>; ++h) {
        SSM_UNROLL
        for (int j = 0; j < run_length; ++j) x.values[h][j] -= mean;
      }
      rest = sum([](Sum value) { return value; });
    }
    const Sum variance = sum([&](Sum value) { return (value - rest) * (value - rest); });
    const Sum scale = 1 / std::sqrt(variance + norm.eps);
    SSM_UNROLL
    for (int h = 0; h < held<Lanes>; ++h) {
      Sum weights[run_length], biases[run_length];
      if (norm.weight != nullptr) read(norm.weight, h, lanes, weights);
      if (norm.bias != nullptr) read(norm.bias, h, lanes, biases);
      SSM_UNROLL
      for (int j = 0; j < run_length; ++j) {
        Sum value = (x.values[h][j] - rest) * scale;
        if (norm.weight != nullptr) value *= weights[j];
        if (norm.bias != nullptr) value += biases[j];
        x.values[h][j] = value;
      }
    }
  }

  const T* row;
  OneRowNorm<Sum> norm;
  Index depth, units_ = 0;
  Sum share;
  OneRowProduct<T, W> products[capacity];
  Index first[capacity + 1] = {};
  int count = 0;
};

template <class T>
using Calls = std::span<const ssm::Matmul<T, CudaSpace>>;
template <class T>
using Norm = ssm::Normalization<T, CudaSpace>;

template <class T, class W, int Capacity, int Threads, int Columns>
void run_one_row(const Norm<T>* norm, Calls<T> calls, Stream stream) {
  // So many warps keep a device busy; with more columns than they make at once, each goes on.
  constexpr Index busy = 8448;
  OneRow<T, W, Capacity, Columns> products(norm, calls);
  products.groups = std::min<Index>(products.units(), busy * 32 / Threads);
  if constexpr (Threads == 32)
    device::for_each_row(products.groups, stream, "matmul", products);
  else
    device::for_each_block<Threads>(products.groups, stream, "matmul", products);
}

template <class W, class T>
void choose_one_row(const Norm<T>* norm, Calls<T> calls, Stream stream) {
  const Index depth = calls.front().a.extent(1), runs = depth / run_length;
  Index columns = 0;
  for (const auto& call : calls) columns += call.c.extent(1);
  if (!shares_one_row(depth)) {
    if (runs > 96) return run_one_row<T, W, 128, 32, 1>(norm, calls, stream);
    if (columns >= 1536) return run_one_row<T, W, 96, 32, 2>(norm, calls, stream);
    return run_one_row<T, W, 96, 32, 1>(norm, calls, stream);
  }
  constexpr int threads = matmul_threads;
  if (runs > 512) return run_one_row<T, W, 1024, threads, 1>(norm, calls, stream);
  if (runs > 384) return run_one_row<T, W, 512, threads, 1>(norm, calls, stream);
  if (runs > 256) return run_one_row<T, W, 384, threads, 1>(norm, calls, stream);
  if (columns >= 4096) return run_one_row<T, W, 256, threads, 2>(norm, calls, stream);
  run_one_row<T, W, 256, threads, 1>(norm, calls, stream);
}

}  // namespace

template <class T>
void matmul_one_row(const Norm<T>* norm, Calls<T> products, Stream stream) {
  if constexpr (!std::is_same_v<T, BFloat16>)
    if (products.front().b) return choose_one_row<T, T>(norm, products, stream);
  choose_one_row<BFloat16, T>(norm, products, stream);
}

#define SSM_INSTANTIATE(T) \
  template SSM_CUDA_API void matmul_one_row<T>(const Norm<T>*, Calls<T>, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
