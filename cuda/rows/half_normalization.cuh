// SPDX-License-Identifier: Apache-2.0
#pragma once

// Normalization of many rows of half types, whole packs of 16 bytes: a warp takes rows in turn.
// Sums over a row are in float.

#include "kernel/async_copies.cuh"
#include "kernel/column_sums.cuh"
#include "ssm/backend/cuda/hopper.hpp"
#include "ssm/backend/cuda/normalization.hpp"

namespace ssm::cuda {

/// Fewer rows than this are normalized by a block each.
inline constexpr Index few_normalized_rows = 512;

#ifdef __CUDACC__

namespace device {

inline constexpr int kNormWarps = 4;  // of a block
inline constexpr int kGradientWarps = static_cast<int>(normalization_gradient_rows);

/// A row in the registers of a warp: packs lane, lane + 32, …; zeros behind its end.
template <class T, int Held>
struct HeldRow {
  static constexpr int size = pack_size<T>;
  detail::RawPack<T> packs[Held];

  __device__ void read(const T* row, int count) {
    SSM_UNROLL
    for (int h = 0; h < Held; ++h) {
      const int pack = pack_of(h);
      if (pack < count)
        packs[h] = *reinterpret_cast<const detail::RawPack<T>*>(row + pack * size);
      else
        packs[h] = {};
    }
  }
  __device__ void widen(float (&to)[Held][size]) const {
    SSM_UNROLL
    for (int h = 0; h < Held; ++h) SSM_UNROLL
    for (int k = 0; k < size; ++k) to[h][k] = widened(packs[h].values[k]);
  }
  __device__ static int pack_of(int h) { return static_cast<int>(threadIdx.x % 32) + 32 * h; }
};

/// Eight floats of a vector.
__device__ inline void read_eight(const float* from, float (&to)[8]) {
  SSM_UNROLL
  for (int i = 0; i < 8; i += 4) detail::read_pack(from + i, to + i);
}

template <class T>
struct HalfNormalization {
  const T* x;
  T* y;
  Index x_step, y_step;
  const float *weight, *bias;  // either may be null
  Operand<const float, 1> eps_scale;
  Operand<float, 1> kept_mean, kept_scale;
  Index rows;
  int packs;  // of a row
  float share, eps;
  bool centers;
};

template <class T, int Held>
__global__ void __launch_bounds__(32 * kNormWarps)
    normalize_half_rows(const HalfNormalization<T> a) {
  constexpr int size = pack_size<T>;
  let_successor_begin();
  wait_for_predecessors();
  const Index step = Index{gridDim.x} * kNormWarps;
  Index row = Index{blockIdx.x} * kNormWarps + threadIdx.x / 32;
  HeldRow<T, Held> next;
  if (row < a.rows) next.read(a.x + row * a.x_step, a.packs);
  for (; row < a.rows; row += step) {
    float values[Held][size];
    next.widen(values);
    if (row + step < a.rows) next.read(a.x + (row + step) * a.x_step, a.packs);
    const auto total = [&](auto of) {
      float sum = 0;
      SSM_UNROLL
      for (int h = 0; h < Held; ++h) {
        float own = 0;
        SSM_UNROLL
        for (int k = 0; k < size; ++k) own += of(values[h][k]);
        if (next.pack_of(h) < a.packs) sum += own;
      }
      return a.share * Lanes().total(sum);
    };
    const float mean = a.centers ? total([](float v) { return v; }) : 0.f;
    const float variance = total([&](float v) { return (v - mean) * (v - mean); });
    const float scale = rsqrtf(variance + (a.eps_scale ? a.eps * a.eps_scale(row) : a.eps));
    SSM_UNROLL
    for (int h = 0; h < Held; ++h) {
      const int pack = next.pack_of(h);
      if (pack >= a.packs) continue;
      float weights[size], biases[size];
      if (a.weight != nullptr) read_eight(a.weight + pack * size, weights);
      if (a.bias != nullptr) read_eight(a.bias + pack * size, biases);
      SSM_UNROLL
      for (int k = 0; k < size; ++k) {
        const float normalized = (values[h][k] - mean) * scale;
        values[h][k] = a.weight != nullptr ? normalized * weights[k] : normalized;
        if (a.bias != nullptr) values[h][k] += biases[k];
      }
      detail::write_pack(a.y + row * a.y_step + pack * size, values[h]);
    }
    if (threadIdx.x % 32 != 0) continue;
    if (a.kept_mean) a.kept_mean(row) = mean;
    if (a.kept_scale) a.kept_scale(row) = scale;
  }
}

template <class T>
struct HalfNormalizationGradient {
  const T *x, *dy, *residual;  // residual may be null, or dx
  T* dx;
  Index x_step, dy_step, residual_step, dx_step;
  const float* weight;  // may be null
  Operand<const float, 1> mean, scale;
  double* sums;  // [2 or 3, blocks, width], or null: dy·n, dy and residual of the block's rows
  Index rows;
  int packs;
  float share;
  bool centers;
};

/// A row of each warp and the next one, which is on its way: a lane brings the packs that it reads.
template <class T, int Held>
struct GradientRows {
  enum Kind { x, dy, residual, kinds };
  detail::RawPack<T> packs[2][kGradientWarps][kinds][32 * Held];

  __device__ void fetch(int slot, const HalfNormalizationGradient<T>& a, Index row) {
    copy(slot, x, a.x + row * a.x_step, a.packs);
    copy(slot, dy, a.dy + row * a.dy_step, a.packs);
    if (a.residual != nullptr) copy(slot, residual, a.residual + row * a.residual_step, a.packs);
  }
  /// Pack h of the lane.
  __device__ const detail::RawPack<T>& at(int slot, Kind kind, int h) const {
    return packs[slot][threadIdx.x / 32][kind][HeldRow<T, Held>::pack_of(h)];
  }

 private:
  __device__ void copy(int slot, Kind kind, const T* row, int count) {
    SSM_UNROLL
    for (int h = 0; h < Held; ++h) {
      const int pack = HeldRow<T, Held>::pack_of(h);
      copy_async_or_zero(&packs[slot][threadIdx.x / 32][kind][pack], row + pack * pack_size<T>,
                         pack < count);
    }
  }
};

/// Sums of columns, of every warp of a block.
template <class T, int Held>
struct GradientSums {
  static constexpr int size = pack_size<T>;
  static constexpr int step = 32 + 32 / size;  // so that neighboring columns are in different banks
  float numbers[kGradientWarps][Held][size * step];

  __device__ void leave(const float (&own)[Held][size]) {
    SSM_UNROLL
    for (int h = 0; h < Held; ++h) SSM_UNROLL
    for (int k = 0; k < size; ++k)
      numbers[threadIdx.x / 32][h][k * step + threadIdx.x % 32] = own[h][k];
  }
  /// Of column d, the warps in order.
  __device__ double total(int d) const {
    const int pack = d / size;
    double total = 0;
    SSM_UNROLL
    for (int w = 0; w < kGradientWarps; ++w)
      total += numbers[w][pack / 32][d % size * step + pack % 32];
    return total;
  }
};

/// dx of every row as NormalizationGradientRow has it, and the sums for weight and bias.
template <class T, int Held, bool SumsResidual>
__global__ void __launch_bounds__(32 * kGradientWarps, 2)
    normalize_half_rows_gradient(const HalfNormalizationGradient<T> a) {
  constexpr int size = pack_size<T>;
  using Rows = GradientRows<T, Held>;
  extern __shared__ uint4 memory[];
  Rows& rows = *reinterpret_cast<Rows*>(memory);
  let_successor_begin();
  wait_for_predecessors();
  const Index step = Index{gridDim.x} * kGradientWarps;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  float of_weight[Held][size] = {}, of_bias[Held][size] = {};
  float of_residual[SumsResidual ? Held : 1][size] = {};
  Index row = Index{blockIdx.x} * kGradientWarps + warp;
  if (row < a.rows) rows.fetch(0, a, row);
  commit_copies();
  for (int slot = 0; row < a.rows; row += step, slot ^= 1) {
    if (row + step < a.rows) rows.fetch(slot ^ 1, a, row + step);
    commit_copies();
    const float mean = a.centers ? a.mean(row) : 0.f, scale = a.scale(row);
    wait_for_groups<1>();
    // What is cheap to make again takes no registers: f(k, n, dy, weight·dy).
    const auto for_each = [&](int h, auto f) {
      const int pack = HeldRow<T, Held>::pack_of(h);
      const auto x = rows.at(slot, Rows::x, h), dy = rows.at(slot, Rows::dy, h);
      float weights[size];
      if (a.weight != nullptr && pack < a.packs) read_eight(a.weight + pack * size, weights);
      SSM_UNROLL
      for (int k = 0; k < size; ++k) {
        const float gradient = widened(dy.values[k]);
        f(k, (widened(x.values[k]) - mean) * scale, gradient,
          a.weight == nullptr ? gradient
          : pack < a.packs    ? gradient * weights[k]
                              : 0.f);
      }
    };
    float sum_g = 0, sum_gn = 0;
    SSM_UNROLL
    for (int h = 0; h < Held; ++h)
      for_each(h, [&](int k, float normalized, float gradient, float weighted) {
        of_weight[h][k] += gradient * normalized;
        of_bias[h][k] += gradient;
        sum_g += weighted;
        sum_gn += weighted * normalized;
      });
    const float mean_g = a.centers ? a.share * Lanes().total(sum_g) : 0.f;
    const float mean_gn = a.share * Lanes().total(sum_gn);
    SSM_UNROLL
    for (int h = 0; h < Held; ++h) {
      const int pack = HeldRow<T, Held>::pack_of(h);
      if (pack >= a.packs) continue;
      float values[size];
      for_each(h, [&](int k, float normalized, float, float weighted) {
        values[k] = scale * ((weighted - mean_g) - normalized * mean_gn);
      });
      if (a.residual != nullptr) {
        const auto residual = rows.at(slot, Rows::residual, h);
        SSM_UNROLL
        for (int k = 0; k < size; ++k) {
          const float number = widened(residual.values[k]);
          values[k] += number;
          if constexpr (SumsResidual) of_residual[h][k] += number;
        }
      }
      detail::write_pack(a.dx + row * a.dx_step + pack * size, values);
    }
  }
  if (a.sums == nullptr) return;
  using Sums = GradientSums<T, Held>;
  static_assert(sizeof(Sums) <= sizeof(Rows));
  Sums& sums = *reinterpret_cast<Sums*>(memory);
  const int width = a.packs * size;
  const auto leave = [&](int which, const float(&own)[Held][size]) {
    __syncthreads();  // what lay there is read
    sums.leave(own);
    __syncthreads();
    for (int d = static_cast<int>(threadIdx.x); d < width; d += 32 * kGradientWarps)
      a.sums[(Index{which} * gridDim.x + blockIdx.x) * width + d] = sums.total(d);
  };
  leave(0, of_weight);
  leave(1, of_bias);
  if constexpr (SumsResidual) leave(2, of_residual);
}

}  // namespace device

#endif

namespace {

/// Whether rows go to the kernels of half_normalization.cuh: many, of whole packs, 1024 numbers at
/// most.
template <class T, class... Views>
bool has_half_rows(Index rows, Index width, const Views&... views) {
  return HalfStorage<T> && rows >= few_normalized_rows && width > 0 && width <= 1024 &&
         width % device::pack_size<T> == 0 && (device::has_packs(views) && ...);
}
/// Whether that kernel sums the residual too; wider rows leave no registers for it.
template <class T>
constexpr bool fuses_residual_sum(Index width) {
  return HalfStorage<T> && width <= 96 * device::pack_size<T>;
}
/// run(constant): the packs of a row that a lane holds.
template <class Run>
void with_packs(Index packs, Run run) {
  if (packs <= 32) return run(std::integral_constant<int, 1>());
  if (packs <= 64) return run(std::integral_constant<int, 2>());
  if (packs <= 96) return run(std::integral_constant<int, 3>());
  run(std::integral_constant<int, 4>());
}

/// Returns false for rows that are not for these kernels.
template <class T>
bool normalize_halves([[maybe_unused]] const ssm::Normalization<T, CudaSpace>& a,
                      [[maybe_unused]] Stream stream) {
#ifdef __CUDACC__
  if constexpr (HalfStorage<T>) {
    const Index rows = a.x.extent(0), width = a.x.extent(1);
    if (!has_half_rows<T>(rows, width, a.x, a.y, a.weight, a.bias)) return false;
    const device::HalfNormalization<T> call{.x = a.x.data(),
                                            .y = a.y.data(),
                                            .x_step = a.x.stride(0),
                                            .y_step = a.y.stride(0),
                                            .weight = a.weight.data(),
                                            .bias = a.bias.data(),
                                            .eps_scale = device::operand(a.eps_scale),
                                            .kept_mean = device::operand(a.mean),
                                            .kept_scale = device::operand(a.scale),
                                            .rows = rows,
                                            .packs = static_cast<int>(width / device::pack_size<T>),
                                            .share = 1 / static_cast<float>(width),
                                            .eps = static_cast<float>(a.eps),
                                            .centers = a.kind == NormalizationKind::layer};
    constexpr Index most_blocks = 4 * hopper_multiprocessors;
    const auto blocks = static_cast<unsigned>(
        std::min((rows + device::kNormWarps - 1) / device::kNormWarps, most_blocks));
    with_packs(call.packs, [&](auto held) {
      struct Name {};
      device::launch_early<Name>(device::normalize_half_rows<T, held()>, dim3(blocks),
                                 32 * device::kNormWarps, stream, "normalization", call);
    });
    return true;
  }
#endif
  return false;
}

/// Returns false for rows that are not for this kernel.
template <class T>
bool normalize_halves_backward([[maybe_unused]] const ssm::NormalizationBackward<T, CudaSpace>& g,
                               [[maybe_unused]] double* sums, [[maybe_unused]] Stream stream) {
#ifdef __CUDACC__
  if constexpr (HalfStorage<T>) {
    const auto& a = g.forward;
    const Index rows = g.dy.extent(0), width = g.dy.extent(1);
    // What dx has is added as a residual is; a row of it is read before that row is written.
    if ((g.accumulate && g.residual) ||
        !has_half_rows<T>(rows, width, a.x, a.weight, g.dy, g.residual, g.dx))
      return false;
    const View<const T, 2, CudaSpace> added = g.accumulate ? g.dx : g.residual;
    const bool has_sums = g.dweight || g.dbias || g.residual_sum;
    const auto blocks = normalization_blocks(rows);
    device::HalfNormalizationGradient<T> call{
        .x = a.x.data(),
        .dy = g.dy.data(),
        .residual = added.data(),
        .dx = g.dx.data(),
        .x_step = a.x.stride(0),
        .dy_step = g.dy.stride(0),
        .residual_step = added ? added.stride(0) : 0,
        .dx_step = g.dx.stride(0),
        .weight = a.weight.data(),
        .mean = device::operand(g.mean),
        .scale = device::operand(g.scale),
        .sums = has_sums ? sums : nullptr,
        .rows = rows,
        .packs = static_cast<int>(width / device::pack_size<T>),
        .share = 1 / static_cast<float>(width),
        .centers = a.kind == NormalizationKind::layer};
    with_packs(call.packs, [&](auto held) {
      const auto launch = [&](auto sums_residual) {
        struct Name {};
        device::launch_early<Name>(
            device::normalize_half_rows_gradient<T, held(), sums_residual()>,
            dim3(static_cast<unsigned>(blocks)),
            {32 * device::kGradientWarps, sizeof(device::GradientRows<T, held()>)}, stream,
            "normalization_backward", call);
      };
      if constexpr (fuses_residual_sum<T>(held() * 32 * device::pack_size<T>))
        if (g.residual_sum) return launch(std::true_type());
      launch(std::false_type());
    });
    if (has_sums) {
      const auto dweight = device::operand(g.dweight);
      const auto dbias = device::operand(g.dbias);
      const auto residual_sum = device::operand(g.residual_sum);
      device::join_slices(device::SlicedSums<double>{sums, blocks, width}, g.residual_sum ? 3 : 2,
                          stream, "normalization_backward",
                          [=] SSM_DEVICE(int which, Index d, double total) {
                            if (which == 0 && dweight) dweight(d) += static_cast<float>(total);
                            if (which == 1 && dbias) dbias(d) += static_cast<float>(total);
                            if (which == 2) residual_sum(d) += static_cast<float>(total);
                          });
    }
    return true;
  }
#endif
  return false;
}

}  // namespace

}  // namespace ssm::cuda
