// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstring>
#include <span>

#include "kernel/activation_functions.cuh"
#include "kernel/kept_weights.cuh"
#include "kernel/runs.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/matmul_one_row.hpp"

namespace ssm::cuda::device {

/// One of the products: the rows of operands are contiguous. Arguments are few bytes: a kernel
/// waits for each line of them that it reads first.
template <class T, class W>
struct OneRowProduct {
  using Sum = Wide<T>;

  const W* weights = nullptr;  // of column 0
  [[no_unique_address]] std::conditional_t<has_scale<W>, const float*, NoScale> scale{};
  const Sum* bias = nullptr;
  const T* residual = nullptr;
  T* c = nullptr;
  int columns = 0;
  ActivationKind activation = ActivationKind::none;

  SSM_DEVICE void write(int n, Sum product, Sum bias_of_n, T residual_of_n) const {
    Sum value = product + bias_of_n;
    if (activation != ActivationKind::none) value = activate(activation, value);
    if (residual != nullptr) value += widened(residual_of_n);
    c[n] = narrowed<T>(value);
  }
};

/// stride   between columns of the weights
template <class W, class T>
OneRowProduct<T, W> one_row_product(const ssm::Matmul<T, CudaSpace>& call, int& stride) {
  const auto weights = weights_in<W>(call);
  stride = static_cast<int>(weights.extent(1) > 1 ? weights.stride(1) : weights.extent(0));
  OneRowProduct<T, W> product{weights.data(),   {},
                              call.bias.data(), call.residual.data(),
                              call.c.data(),    static_cast<int>(call.c.extent(1)),
                              call.activation};
  if constexpr (has_scale<W>) product.scale = call.b_scale.data();
  return product;
}

/// A block holds the row in its shared memory. A warp of it makes `Columns` entries; where it
/// `Streams`, then those that all warps of the grid are further on, whose weights it asks for
/// before sums are made. Lanes take runs of k, `Together` of which are on their way at a time.
template <class T, class W, int Threads, int Capacity, int Columns, int Together, bool Streams>
struct OneRow {
  using Sum = Wide<T>;
  using Block = BlockLanes<Threads>;

  struct Place {
    const OneRowProduct<T, W>* product;
    int column;
  };
  struct Beside {
    Sum bias[Columns];
    float scale[has_scale<W> ? Columns : 1];

    SSM_DEVICE Sum scaled(Sum sum, int n) const {
      if constexpr (has_scale<W>) return scaled_sum(sum, scale[n]);
      return sum;
    }
  };
  /// The first runs of a unit's weights, and what is beside them: on their way until sums are made.
  struct Ahead {
    Run<W> weights[Columns][Together];
    Beside beside;
  };
  explicit OneRow(const ssm::Normalization<T, CudaSpace>* norm,
                  std::span<const ssm::Matmul<T, CudaSpace>> calls, bool weights_stay)
      : row(norm != nullptr ? norm->x.data() : calls.front().a.data()),
        depth(static_cast<int>(calls.front().a.extent(1))),
        count(static_cast<int>(calls.size())),
        normalizes(norm != nullptr),
        stays(weights_stay) {
    if (normalizes) {
      norm_weight = norm->weight.data();
      norm_bias = norm->bias.data();
      eps = static_cast<Sum>(norm->eps);
      centers = norm->kind == NormalizationKind::layer;
    }
    for (int i = 0; i < one_row_products; ++i) {
      if (i < count) products[i] = one_row_product<W>(calls[static_cast<std::size_t>(i)], stride);
      first[i + 1] = first[i] + (products[i].columns + Columns - 1) / Columns;
    }
  }
  Index blocks() const { return (first[one_row_products] + Block::warps - 1) / Block::warps; }
  /// How many units lie between those of a warp.
  void set_step(Index some_blocks) { step = static_cast<int>(some_blocks * Block::warps); }

  /// The weights; where a predecessor may make them, they are brought to the cache.
  SSM_DEVICE void ask(Index block, Block lanes, Ahead& ahead) const {
    const Lanes warp;
    const int unit = first_unit(block, lanes);
    prefetch_norm(block, lanes);
    if (unit >= first[one_row_products]) return;
    constexpr int held = Together * warp_size * length;  // of a column, in registers
    if (stays) load(unit, warp, ahead);
    if (!stays || depth > held) prefetch(at(unit), warp);
    if (Streams && unit + step < first[one_row_products]) prefetch(at(unit + step), warp);
  }
  SSM_DEVICE void prefetch(const Place& place, Lanes warp) const {
    constexpr int line = 128 / int{sizeof(W)};
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n)
      for (int k = static_cast<int>(warp.index()) * line; k < depth; k += warp_size * line)
        device::prefetch(column_of(place, n) + k);
    if (place.product->bias != nullptr && warp.first())
      device::prefetch(place.product->bias + place.column);
    if constexpr (has_scale<W>)
      if (warp.first()) device::prefetch(place.product->scale + place.column);
  }
  SSM_DEVICE void prefetch_norm(Index block, Block lanes) const {
    if (normalizes && block == 0)
      for (int k = static_cast<int>(lanes.index()) * 32; k < depth; k += Threads * 32) {
        if (norm_weight != nullptr) device::prefetch(norm_weight + k);
        if (norm_bias != nullptr) device::prefetch(norm_bias + k);
      }
  }

  SSM_DEVICE void operator()(Index block, Block lanes, Ahead& now) const {
    const Lanes warp;
    Sum* const x = lanes.template shared<Sum, Capacity>();
    const int units = first[one_row_products];
    int unit = first_unit(block, lanes);
    T residual[Columns];
    if (unit < units) {
      if (!stays) load(unit, warp, now);
      load_residual(at(unit), residual);
    }
    prepare(x, lanes, [] {});
    lanes.wait();
    while (unit < units) {
      const Place place = at(unit);
      Sum sums[Columns] = {};
      T others[Columns];
      add_all(place, now, x, warp, sums);
      const Beside beside = now.beside;
      SSM_UNROLL
      for (int n = 0; n < Columns; ++n) others[n] = residual[n];
      unit = Streams ? unit + step : units;
      if (Streams && unit < units) {
        load(unit, warp, now);
        load_residual(at(unit), residual);
      }
      warp.totals(sums, [&](int number, Sum total) {
        SSM_UNROLL
        for (int n = 0; n < Columns; ++n)
          if (n == number && place.column + n < place.product->columns)
            place.product->write(place.column + n, beside.scaled(total, n), beside.bias[n],
                                 others[n]);
      });
    }
    lanes.wait();  // before the row of another call takes its place
  }

  // What other kernels that hold the row are made of.
  static constexpr int warp_size = static_cast<int>(Lanes::count);
  static constexpr int length = static_cast<int>(run_length);

  SSM_DEVICE static int first_unit(Index block, Block lanes) {
    return static_cast<int>(block * Block::warps + lanes.warp());
  }

  SSM_HOST_DEVICE Place at(int unit) const {
    int i = 0;
    SSM_UNROLL
    for (int next = 1; next < one_row_products; ++next) i += unit >= first[next] ? 1 : 0;
    return {&products[i], (unit - first[i]) * Columns};
  }
  SSM_DEVICE const W* column_of(const Place& place, int n) const {
    const int column = place.column + n, last = place.product->columns - 1;
    return place.product->weights + static_cast<Index>(column < last ? column : last) * stride;
  }

  SSM_DEVICE void load(const Place& place, int begin, Lanes warp,
                       Run<W> (&weights)[Columns][Together]) const {
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n) {
      const W* const from = column_of(place, n);
      SSM_UNROLL
      for (int h = 0; h < Together; ++h) {
        const int k = (begin + static_cast<int>(warp.index()) + h * warp_size) * length;
        if (k < depth) weights[n][h] = load_run(from + k);
      }
    }
  }
  SSM_DEVICE void load(int unit, Lanes warp, Ahead& loaded) const { load(at(unit), warp, loaded); }
  SSM_DEVICE void load(const Place& place, Lanes warp, Ahead& loaded) const {
    load(place, 0, warp, loaded.weights);
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n) {
      const int column = place.column + n;
      const bool is_there = column < place.product->columns;
      loaded.beside.bias[n] = 0;
      if (is_there && place.product->bias != nullptr)
        loaded.beside.bias[n] = place.product->bias[column];
      if constexpr (has_scale<W>)
        if (is_there) loaded.beside.scale[n] = place.product->scale[column];
    }
  }
  SSM_DEVICE void load_residual(const Place& place, T (&residual)[Columns]) const {
    SSM_UNROLL
    for (int n = 0; n < Columns; ++n)
      if (place.column + n < place.product->columns && place.product->residual != nullptr)
        residual[n] = place.product->residual[place.column + n];
  }
  SSM_DEVICE void add_all(const Place& place, const Ahead& loaded, const Sum* x, Lanes warp,
                          Sum (&sums)[Columns]) const {
    add(loaded.weights, x, 0, warp, sums);
    if constexpr (Capacity > Together * warp_size * length)
      for (int begin = Together * warp_size; begin * length < depth;
           begin += Together * warp_size) {
        Run<W> weights[Columns][Together];
        load(place, begin, warp, weights);
        add(weights, x, begin, warp, sums);
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
    if (norm_weight != nullptr) weights = read_half(norm_weight, i);
    if (norm_bias != nullptr) biases = read_half(norm_bias, i);
  }

  /// x ← the row, normalized where there is a norm. Each lane writes and reads its own halves of
  /// runs alone. Distances are from a mean that was rounded; what it lacks is their own mean.
  /// meanwhile   what is done while the row is on its way
  template <class Meanwhile>
  SSM_DEVICE void prepare(Sum* x, Block lanes, const Meanwhile& meanwhile) const {
    const int begin = static_cast<int>(lanes.index()), lane_count = static_cast<int>(Block::count);
    const auto for_each_half = [&](auto f) {
      for (int i = begin; i * half < depth; i += lane_count) f(i, x + place_of_half(i / 2, i % 2));
    };
    Some<Sum> weights, biases;  // of the first half, on their way meanwhile
    Some<T> first_half;
    if (begin * half < depth) {
      first_half = read_half(row, begin);
      read_parameters(begin, weights, biases);
    }
    meanwhile();
    Sum sums[2] = {};  // of numbers, then of distances and of their squares
    for_each_half([&](int i, Sum* to) {
      const auto some = i == begin ? first_half : read_half(row, i);
      SSM_UNROLL
      for (int j = 0; j < half; ++j) {
        to[j] = widened(some.values[j]);
        sums[0] += to[j];
      }
    });
    if (!normalizes) return;
    const Sum share = 1 / static_cast<Sum>(depth);
    Sum mean{0};
    if (centers) {
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
    const Sum rest = centers ? share * sums[0] : Sum{0};
    const Sum scale = 1 / std::sqrt(share * sums[1] - rest * rest + eps);
    for_each_half([&](int i, Sum* numbers) {
      if (i != begin) read_parameters(i, weights, biases);
      SSM_UNROLL
      for (int j = 0; j < half; ++j) {
        numbers[j] = (numbers[j] - rest) * scale;
        if (norm_weight != nullptr) numbers[j] *= weights.values[j];
        if (norm_bias != nullptr) numbers[j] += biases.values[j];
      }
    });
  }

  const T* row;
  const Sum* norm_weight = nullptr;
  const Sum* norm_bias = nullptr;
  Sum eps = 0;
  int depth, step = 0, stride = 0, count;
  bool normalizes, centers = false, stays;
  int first[one_row_products + 1] = {};  // unit of each
  OneRowProduct<T, W> products[one_row_products];
};

}  // namespace ssm::cuda::device
