// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/handed_row.cuh"
#include "kernel/one_row.cuh"
#include "ssm/backend/cuda/row_pair.hpp"

namespace ssm::cuda::device {

/// Two products of one row, the second of what the first makes. A warp makes two entries of the
/// first, from a row that each warp holds in its registers. Of the second a thread has a run of k
/// and as many entries as the block makes. All weights are in registers before the row is there.
template <class T, class W, int Threads, int Runs, int Outputs>
struct RowPair {
  static constexpr int columns = 2;    // of the first product, a warp
  static constexpr int most_sums = 8;  // of the second, a block
  static constexpr int length = static_cast<int>(run_length);
  static constexpr int warp_size = static_cast<int>(Lanes::count);
  static constexpr int depth_held = Runs * warp_size * length;
  static_assert(Outputs <= most_sums);

  struct Second {
    Run<W> weights[Outputs];
    float bias, scale;  // of the thread's entry
  };
  struct Held {
    Run<W> first[columns][Runs];
    float bias[columns], scale[columns];
    Second second;
  };
  using Norm = float[2][depth_held];  // weights and biases, as place_of says

  SSM_DEVICE static int warp() { return static_cast<int>(threadIdx.x) / warp_size; }
  SSM_DEVICE static int lane() { return static_cast<int>(threadIdx.x) % warp_size; }
  SSM_DEVICE static int warps() { return static_cast<int>(blockDim.x) / warp_size; }
  SSM_DEVICE static int block() { return static_cast<int>(blockIdx.x); }
  SSM_DEVICE static int k_of(int h) { return (lane() + h * warp_size) * length; }
  SSM_DEVICE int first_column() const { return (block() * warps() + warp()) * columns; }
  /// The entry of a share of the second product that a thread writes.
  SSM_DEVICE int own_column(int share) const {
    return share * outputs + static_cast<int>(threadIdx.x);
  }
  SSM_DEVICE bool writes(int share) const {
    return static_cast<int>(threadIdx.x) < outputs && own_column(share) < second.columns;
  }

  SSM_DEVICE void load(Held& held) const {
    SSM_UNROLL
    for (int n = 0; n < columns; ++n) {
      const int column = min(first_column() + n, hidden - 1);
      const W* const from = first.weights + static_cast<Index>(column) * first_stride;
      SSM_UNROLL
      for (int h = 0; h < Runs; ++h)
        if (k_of(h) < depth) held.first[n][h] = load_run(from + k_of(h));
      held.bias[n] = first.bias != nullptr ? first.bias[column] : 0.0F;
      if constexpr (has_scale<W>) held.scale[n] = first.scale[column];
    }
    load(held.second, block());
  }
  SSM_DEVICE void load(Second& held, int share) const {
    held.bias = 0;
    if (writes(share)) {
      if (second.bias != nullptr) held.bias = second.bias[own_column(share)];
      if constexpr (has_scale<W>) held.scale = second.scale[own_column(share)];
    }
    const int k = static_cast<int>(threadIdx.x) * length;
    if (k >= hidden) return;
    SSM_UNROLL
    for (int n = 0; n < Outputs; ++n) {
      const int column = min(share * outputs + n, second.columns - 1);
      held.weights[n] = load_run(second.weights + static_cast<Index>(column) * second_stride + k);
    }
  }
  SSM_DEVICE T load_residual(int share) const {
    return writes(share) && second.residual != nullptr ? second.residual[own_column(share)] : T{};
  }

  SSM_DEVICE void load(Norm& norm) const {
    if (!normalizes) return;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < depth; i += static_cast<int>(blockDim.x)) {
      norm[0][place_of(i)] = norm_weight != nullptr ? norm_weight[i] : 1.0F;
      norm[1][place_of(i)] = norm_bias != nullptr ? norm_bias[i] : 0.0F;
    }
    __syncthreads();
  }

  SSM_DEVICE void operator()(Held& held, const Norm& norm) const {
    const HandedRow::Count before = threadIdx.x == 0 ? handed.begin() : 0;
    float x[Runs][length];
    read_row(x);
    T residual = load_residual(block());
    if (normalizes) normalize(x, norm);

    float sums[columns] = {};
    SSM_UNROLL
    for (int h = 0; h < Runs; ++h)
      if (k_of(h) < depth) {
        SSM_UNROLL
        for (int n = 0; n < columns; ++n) {
          SSM_UNROLL
          for (int j = 0; j < length; ++j) sums[n] += x[h][j] * held.first[n][h][j];
        }
      }
    Lanes().totals(sums, [&](int number, float total) {
      SSM_UNROLL
      for (int n = 0; n < columns; ++n)
        if (n == number) {
          if constexpr (has_scale<W>) total = scaled_sum(total, held.scale[n]);
          total += held.bias[n];
        }
      if (first_column() + number >= hidden) return;
      const float value = activate(ActivationKind::gelu_tanh, total);
      handed.write(first_column() + number, widened(narrowed<T>(value)));
    });

    const HandedRow::Share wanted = handed.exchange(before);
    if (wanted == HandedRow::Share::none) return;
    for (int share = block();;) {
      write_second(held.second, share, residual);
      if (wanted == HandedRow::Share::own) return;
      share = handed.take();
      if (share < 0) return;
      load(held.second, share);
      residual = load_residual(share);
    }
  }
  SSM_DEVICE void write_second(const Second& held, int share, T residual) const {
    __shared__ float parts[Threads / warp_size][most_sums];
    float made[most_sums] = {};
    const int k = static_cast<int>(threadIdx.x) * length;
    if (k < hidden) {
      float row[length];
      handed.read(k, row);
      SSM_UNROLL
      for (int n = 0; n < Outputs; ++n) {
        SSM_UNROLL
        for (int j = 0; j < length; ++j) made[n] += row[j] * held.weights[n][j];
      }
    }
    Lanes().totals(made, [&](int n, float total) { parts[warp()][n] = total; });
    __syncthreads();
    if (!writes(share)) return;
    float sum{0};
    SSM_UNROLL
    for (int i = 0; i < Threads / warp_size; ++i)
      if (i < warps()) sum += parts[i][threadIdx.x];
    if constexpr (has_scale<W>) sum = scaled_sum(sum, held.scale);
    second.c[own_column(share)] = narrowed<T>(sum + held.bias + widened(residual));
  }

  SSM_DEVICE void read_row(float (&x)[Runs][length]) const {
    SSM_UNROLL
    for (int h = 0; h < Runs; ++h) {
      Run<T> run;
      if (k_of(h) < depth) run = load_run(row + k_of(h));
      SSM_UNROLL
      for (int j = 0; j < length; ++j) x[h][j] = k_of(h) < depth ? static_cast<float>(run[j]) : 0;
    }
  }
  /// As OneRow does: distances are from a mean that was rounded; what it lacks is their own mean.
  SSM_DEVICE void normalize(float (&x)[Runs][length], const Norm& norm) const {
    const float share = 1 / static_cast<float>(depth);
    float sum{0}, squares{0}, mean{0};
    if (centers) {
      SSM_UNROLL
      for (int h = 0; h < Runs; ++h) {
        SSM_UNROLL
        for (int j = 0; j < length; ++j) sum += x[h][j];
      }
      mean = share * Lanes().total(sum);
    }
    sum = 0;
    SSM_UNROLL
    for (int h = 0; h < Runs; ++h) {
      if (k_of(h) >= depth) continue;
      SSM_UNROLL
      for (int j = 0; j < length; ++j) {
        x[h][j] -= mean;
        sum += x[h][j];
        squares += x[h][j] * x[h][j];
      }
    }
    squares = Lanes().total(squares);
    const float rest = centers ? share * Lanes().total(sum) : 0.0F;
    const float scale = 1 / sqrtf(share * squares - rest * rest + eps);
    SSM_UNROLL
    for (int h = 0; h < Runs; ++h) {
      if (k_of(h) >= depth) continue;
      SSM_UNROLL
      for (int begin = 0; begin < length; begin += half) {
        const int place = place_of(k_of(h) + begin);
        const Half weights = *reinterpret_cast<const Half*>(&norm[0][place]),
                   biases = *reinterpret_cast<const Half*>(&norm[1][place]);
        SSM_UNROLL
        for (int j = 0; j < half; ++j)
          x[h][begin + j] = (x[h][begin + j] - rest) * scale * weights.values[j] + biases.values[j];
      }
    }
  }
  static constexpr int half = length / 2;
  struct alignas(half * sizeof(float)) Half {
    float values[half];
  };
  /// The first halves of runs lie before the second ones: neighbors of a warp read neighbors.
  SSM_DEVICE static int place_of(int i) {
    return i / length * half + (i % length < half ? i % half : depth_held / 2 + i % half);
  }

  const T* row = nullptr;
  const float *norm_weight = nullptr, *norm_bias = nullptr;
  float eps = 0;
  bool normalizes = false, centers = false, stays = false;
  int depth = 0, hidden = 0, outputs = 0, first_stride = 0, second_stride = 0;
  OneRowProduct<T, W> first, second;
  HandedRow handed;
};

}  // namespace ssm::cuda::device
