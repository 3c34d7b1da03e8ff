// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "kernel/activation_functions.cuh"
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
  SSM_DEVICE void write(Index n, Sum product, Sum bias_of_n, T residual_of_n) const {
    const Sum value = product + bias_of_n;
    if (z) z(0, n) = device::narrowed<T>(value);
    const Sum before = (accumulates ? device::widened(c(0, n)) : Sum{0}) +
                       (residual ? device::widened(residual_of_n) : Sum{0});
    c(0, n) = device::narrowed<T>(before + device::activate(activation, value));
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

/// A block holds the row in its shared memory. A warp of it makes `Columns` entries; where it
/// `Streams`, then those that all warps of the grid are further on, whose weights it asks for
/// before sums are made. Lanes take runs of k, `Together` of which are on their way at a time.
template <class T, class W, int Threads, int Capacity, int Columns, int Together, bool Streams>
struct OneRow {
  using Sum = Wide<T>;
  using Block = device::BlockLanes<Threads>;
  explicit OneRow(const ssm::Normalization<T, CudaSpace>* norm,
                  std::span<const ssm::Matmul<T, CudaSpace>> calls)
      : row(calls.front().a.data()),
        depth(static_cast<int>(calls.front().a.extent(1))),
        share(1 / static_cast<Sum>(depth)) {
    if (norm != nullptr) {
      row = norm->x.data();
      this->norm = {norm->weight.data(), norm->bias.data(), static_cast<Sum>(norm->eps), true,
                    norm->kind == NormalizationKind::layer};
    }
    for (const auto& call : calls) add(call);
  }
  Index blocks() const { return (first[count] + Block::warps - 1) / Block::warps; }
  /// How many units lie between those of a warp.
  void set_step(Index some_blocks) { step = static_cast<int>(some_blocks * Block::warps); }

  /// The weights, which no predecessor makes while a model generates.
  SSM_DEVICE void prefetch(Index block, Block lanes) const {
    constexpr int line = 128 / int{sizeof(W)};
    const Lanes warp;
    const int unit = first_unit(block, lanes);
    if (unit < first[count]) {
      const Place place = at(unit);
      SSM_UNROLL
      for (int n = 0; n < Columns; ++n)
        for (int k = static_cast<int>(warp.index()) * line; k < depth; k += warp_size * line)
          device::prefetch(place.product->at(place.column + n) + k);
      if (place.product->bias && warp.first()) device::prefetch(&place.product->bias(place.column));
    }
    if (norm.is_given && block == 0)
      for (Index k = lanes.index() * 32; k < depth; k += Block::count * 32) {
        if (norm.weight != nullptr) device::prefetch(norm.weight + k);
        if (norm.bias != nullptr) device::prefetch(norm.bias + k);
      }
  }

  SSM_DEVICE void operator()(Index block, Block lanes) const {
    const Lanes warp;
    Sum* const x = lanes.template shared<Sum, Capacity>();
    const int units = first[count];
    int unit = first_unit(block, lanes);
    Loaded now;
    if (unit < units) load(unit, warp, now);
    prepare(x, lanes);  // while weights are on their way
    lanes.wait();
    while (unit < units) {
      const Place place = at(unit);
      Sum sums[Columns] = {};
      add(now.weights, x, 0, warp, sums);
      if constexpr (Capacity > Together * warp_size * length)
        for (int begin = Together * warp_size; begin * length < depth;
             begin += Together * warp_size) {
          Run<W> weights[Columns][Together];
          load(place, begin, warp, weights);
          add(weights, x, begin, warp, sums);
        }
      const Beside beside = now.beside;
      unit = Streams ? unit + step : units;
      if (Streams && unit < units) load(unit, warp, now);
      warp.totals(sums, [&](int number, Sum total) {
        SSM_UNROLL
        for (int n = 0; n < Columns; ++n)
          if (n == number && place.column + n < place.product->columns)
            place.product->write(place.column + n, total, beside.bias[n], beside.residual[n]);
      });
    }
    lanes.wait();  // before the row of another call takes its place
  }

 private:
  using Lanes = device::Lanes;
  static constexpr int warp_size = static_cast<int>(Lanes::count);
  static constexpr int length = static_cast<int>(run_length);

  SSM_DEVICE static int first_unit(Index block, Block lanes) {
    return static_cast<int>(block * Block::warps + lanes.warp());
  }
  struct Place {
    const OneRowProduct<T, W>* product;
    int column;
  };
  struct Beside {  // nothing is done with them before sums are made: they are on their way
    Sum bias[Columns];
    T residual[Columns];
  };
  struct Loaded {
    Run<W> weights[Columns][Together];
    Beside beside;
  };

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
    first[count + 1] = first[count] + static_cast<int>((call.c.extent(1) + Columns - 1) / Columns);
    ++count;
  }
  SSM_HOST_DEVICE Place at(int unit) const {
    int i = 0;
    while (i + 1 < count && first[i + 1] <= unit) ++i;
    return {&products[i], (unit - first[i]) * Columns};
  }

  SSM_DEVICE void load(const Place& place, int begin, Lanes warp,
                       Run<W> (&weights)[Columns][Together]) const {
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n) {
      const W* const from = place.product->at(place.column + n);
      SSM_UNROLL
      for (int h = 0; h < Together; ++h) {
        const int k = (begin + static_cast<int>(warp.index()) + h * warp_size) * length;
        if (k < depth) weights[n][h] = load_run(from + k);
      }
    }
  }
  /// All that the first runs of a unit need.
  SSM_DEVICE void load(int unit, Lanes warp, Loaded& loaded) const {
    const Place place = at(unit);
    load(place, 0, warp, loaded.weights);
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n) {
      const Index column = place.column + n;
      const bool is_there = column < place.product->columns;
      loaded.beside.bias[n] = 0;
      if (is_there && place.product->bias) loaded.beside.bias[n] = place.product->bias(column);
      if (is_there && place.product->residual)
        loaded.beside.residual[n] = place.product->residual(0, column);
    }
  }
  SSM_DEVICE void add(const Run<W> (&weights)[Columns][Together], const Sum* x, int begin,
                      Lanes warp, Sum (&sums)[Columns]) const {
    SSM_UNROLL
    for (int h = 0; h < Together; ++h) {
      const int i = begin + static_cast<int>(warp.index()) + h * warp_size;
      if (i * length >= depth) continue;
      const auto low = read_half(x + place_of_half(i, 0), 0),
                 high = read_half(x + place_of_half(i, 1), 0);
      SSM_UNROLL
      for (int n = 0; n < Columns; ++n) {
        SSM_UNROLL
        for (int j = 0; j < length; ++j)
          sums[n] += (j < half ? low.values[j % half] : high.values[j % half]) *
                     static_cast<Sum>(weights[n][h][j]);
      }
    }
  }

  /// The row lies in halves of runs, the first halves before the second ones: neighbors of a warp
  /// read neighbors.
  static constexpr int half = length / 2;
  SSM_HOST_DEVICE static int place_of_half(int i, int which) {
    return which * (Capacity / 2) + i * half;
  }

  template <class U>
  struct alignas(half * sizeof(U)) Some {
    U values[half];
  };
  /// Half i of the halves of runs from an address.
  template <class U>
  SSM_HOST_DEVICE static Some<U> read_half(const U* from, int i) {
    Some<U> some;
    std::memcpy(&some, __builtin_assume_aligned(from + i * half, sizeof(some)), sizeof(some));
    return some;
  }
  SSM_DEVICE void read_parameters(int i, Some<Sum>& weights, Some<Sum>& biases) const {
    if (norm.weight != nullptr) weights = read_half(norm.weight, i);
    if (norm.bias != nullptr) biases = read_half(norm.bias, i);
  }

  /// x ← the row, normalized where there is a norm. Each lane writes and reads its own halves of
  /// runs alone. Distances are from a mean that was rounded; what it lacks is their own mean.
  SSM_DEVICE void prepare(Sum* x, Block lanes) const {
    const int begin = static_cast<int>(lanes.index()), lane_count = static_cast<int>(Block::count);
    const auto for_each_half = [&](auto f) {
      for (int i = begin; i * half < depth; i += lane_count) f(i, x + place_of_half(i / 2, i % 2));
    };
    Some<Sum> weights, biases;  // of the first half, on their way meanwhile
    if (begin * half < depth) read_parameters(begin, weights, biases);
    Sum sums[2] = {};  // of numbers, then of distances and of their squares
    for_each_half([&](int i, Sum* to) {
      const auto some = read_half(row, i);
      SSM_UNROLL
      for (int j = 0; j < half; ++j) {
        to[j] = device::widened(some.values[j]);
        sums[0] += to[j];
      }
    });
    if (!norm.is_given) return;
    Sum mean{0};
    if (norm.centers) {
      lanes.total_each(sums);
      mean = share * sums[0];
    }
    sums[0] = sums[1] = 0;
    for_each_half([&](int, Sum* numbers) {
      SSM_UNROLL
      for (int j = 0; j < half; ++j) {
        numbers[j] -= mean;
        sums[0] += numbers[j];
        sums[1] += numbers[j] * numbers[j];
      }
    });
    lanes.total_each(sums);
    const Sum rest = norm.centers ? share * sums[0] : Sum{0};
    const Sum scale = 1 / std::sqrt(share * sums[1] - rest * rest + norm.eps);
    for_each_half([&](int i, Sum* numbers) {
      if (i != begin) read_parameters(i, weights, biases);
      SSM_UNROLL
      for (int j = 0; j < half; ++j) {
        numbers[j] = (numbers[j] - rest) * scale;
        if (norm.weight != nullptr) numbers[j] *= weights.values[j];
        if (norm.bias != nullptr) numbers[j] += biases.values[j];
      }
    });
  }

  const T* row;
  OneRowNorm<Sum> norm;
  int depth, step = 0;
  Sum share;
  OneRowProduct<T, W> products[products_a_kernel];
  int first[products_a_kernel + 1] = {};  // unit of each
  int count = 0;
};

template <class T>
using Calls = std::span<const ssm::Matmul<T, CudaSpace>>;
template <class T>
using Norm = ssm::Normalization<T, CudaSpace>;

template <class T, class W, int Threads, int Capacity, int Columns, int Together>
void run_one_row(const Norm<T>* norm, Calls<T> calls, Stream stream) {
  constexpr Index busy = 132 * 512 / Threads;  // so many blocks keep a device busy
  const auto run = [&](auto streams) {
    OneRow<T, W, Threads, Capacity, Columns, Together, streams> products(norm, calls);
    const Index blocks = std::min(products.blocks(), busy);
    if (streams != (products.blocks() > busy)) return false;
    products.set_step(blocks);
    device::for_each_block<Threads>(blocks, stream, "matmul", products);
    return true;
  };
  if (!run(std::false_type())) run(std::true_type());
}

template <class W, class T>
void choose_one_row(const Norm<T>* norm, Calls<T> calls, Stream stream) {
  const Index depth = calls.front().a.extent(1);
  Index columns = 0;
  for (const auto& call : calls) columns += call.c.extent(1);
  if (depth > 2048)
    return run_one_row < T, W, 128, 8192, 1, sizeof(W) == 2 ? 12 : 6 > (norm, calls, stream);
  if (depth > 768) return run_one_row<T, W, 128, 2048, 1, 8>(norm, calls, stream);
  if (columns < 1536) return run_one_row<T, W, 256, 768, 1, 3>(norm, calls, stream);
  run_one_row<T, W, 256, 768, 2, 3>(norm, calls, stream);
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
