// SPDX-License-Identifier: Apache-2.0
#include "kernel/packs.cuh"
#include "ssm/backend/cuda/normalization.hpp"

namespace ssm::cuda {

template <class T>
void normalization(const ssm::Normalization<T, CudaSpace>& a, Stream stream) {
  using S = Wide<T>;
  const auto x = device::operand(a.x);
  const auto weight = device::operand(a.weight);
  const auto bias = device::operand(a.bias);
  const auto eps_scale = device::operand(a.eps_scale);
  const auto y = device::operand(a.y);
  const auto kept_mean = device::operand(a.mean);
  const auto kept_scale = device::operand(a.scale);
  constexpr int size = device::pack_size<T>;
  const Index width = a.x.extent(1);
  const auto runs = device::row_runs<size>(width, a.x, a.weight, a.bias, a.y);
  const double share = 1 / static_cast<double>(std::max<Index>(width, 1));
  const double eps = a.eps;
  const bool centers = a.kind == NormalizationKind::layer;
  device::for_each_row(
      a.x.extent(0), stream, "normalization", [=] SSM_DEVICE(Index m, device::Lanes lanes) {
        const auto read = [&](Index run, S(&values)[size]) {
          device::read_neighbors(&x(m, runs.first(run)), x.strides[1], runs.size(run), values);
        };
        const double mean = centers ? share * lanes.sum(runs.count(),
                                                        [&](Index run) {
                                                          S values[size];
                                                          read(run, values);
                                                          double sum = 0;
                                                          SSM_UNROLL
                                                          for (int k = 0; k < size; ++k)
                                                            sum += double{values[k]};
                                                          return sum;
                                                        })
                                    : 0.0;
        const double variance = share * lanes.sum(runs.count(), [&](Index run) {
          S values[size];
          read(run, values);
          double sum = 0;
          SSM_UNROLL
          for (int k = 0; k < size; ++k) {
            const double distance = k < runs.size(run) ? values[k] - mean : 0.0;
            sum += distance * distance;
          }
          return sum;
        });
        const double scale = 1 / std::sqrt(variance + (eps_scale ? eps * eps_scale(m) : eps));
        lanes.each(runs.count(), [&](Index run) {
          const Index d = runs.first(run), count = runs.size(run);
          S values[size], weights[size], biases[size];
          read(run, values);
          if (weight) device::read_neighbors(&weight(d), weight.strides[0], count, weights);
          if (bias) device::read_neighbors(&bias(d), bias.strides[0], count, biases);
          SSM_UNROLL
          for (int k = 0; k < size; ++k) {
            const S normalized = static_cast<S>((values[k] - mean) * scale);
            values[k] = normalized * (weight ? weights[k] : S{1}) + (bias ? biases[k] : S{0});
          }
          device::write_neighbors(&y(m, d), y.strides[1], count, values);
        });
        if (!lanes.first()) return;
        if (kept_mean) kept_mean(m) = static_cast<S>(mean);
        if (kept_scale) kept_scale(m) = static_cast<S>(scale);
      });
}

namespace {

/// (x − mean)·scale of what the forward pass kept.
template <class T>
struct Normalized {
  device::Operand<const T, 2> x;
  device::Operand<const Wide<T>, 1> mean;  // null for rms
  device::Operand<const Wide<T>, 1> scale;

  SSM_HOST_DEVICE Wide<T> operator()(Index m, Index d) const {
    const Wide<T> value = device::widened(x(m, d));
    return (mean ? value - mean(m) : value) * scale(m);
  }
};

template <class T>
Normalized<T> normalized_input(const ssm::NormalizationBackward<T, CudaSpace>& g) {
  Normalized<T> input{device::operand(g.forward.x), {}, device::operand(g.scale)};
  if (g.forward.kind == NormalizationKind::layer) input.mean = device::operand(g.mean);
  return input;
}

/// dweight += Σ_m dy·n, dbias += Σ_m dy.
template <class T>
void add_parameter_gradients(const ssm::NormalizationBackward<T, CudaSpace>& g, double* sums,
                             Stream stream) {
  const auto normalized = normalized_input(g);
  const auto dy = device::operand(g.dy);
  const auto dweight = device::operand(g.dweight);
  const auto dbias = device::operand(g.dbias);
  const Index rows = g.dy.extent(0);
  const Index width = g.dy.extent(1);
  const Index slices = normalization_slices(rows, width);
  const Index depth = (rows + slices - 1) / slices;
  const auto elements = device::matrix_elements(slices, width);
  double* const bias_sums = sums + elements.count;
  device::for_each_index(elements.count, stream, "normalization_backward", [=] SSM_DEVICE(Index i) {
    const auto [slice, d] = elements.at(i);
    const Index end = (slice + 1) * depth < rows ? (slice + 1) * depth : rows;
    double weight_sum = 0;
    double bias_sum = 0;
    for (Index m = slice * depth; m < end; ++m) {
      const Wide<T> gradient = device::widened(dy(m, d));
      if (dweight) weight_sum += gradient * normalized(m, d);
      bias_sum += gradient;
    }
    sums[i] = weight_sum;
    bias_sums[i] = bias_sum;
  });
  device::for_each_row(
      width, stream, "normalization_backward", [=] SSM_DEVICE(Index d, device::Lanes lanes) {
        const double weight_sum = lanes.sum(slices, [&](Index s) { return sums[s * width + d]; });
        const double bias_sum =
            lanes.sum(slices, [&](Index s) { return bias_sums[s * width + d]; });
        if (!lanes.first()) return;
        if (dweight) dweight(d) += static_cast<Wide<T>>(weight_sum);
        if (dbias) dbias(d) += static_cast<Wide<T>>(bias_sum);
      });
}

}  // namespace

/// With n = (x − mean)·scale and g = weight·dy:
///   dx = scale·(g − mean(g) − n·mean(g·n))      without mean(g) for rms
template <class T>
void normalization_backward(const ssm::NormalizationBackward<T, CudaSpace>& g, double* sums,
                            Stream stream) {
  if (g.dweight || g.dbias) add_parameter_gradients(g, sums, stream);
  using S = Wide<T>;
  constexpr int size = device::pack_size<T>;
  const auto x = device::operand(g.forward.x);
  const auto kept_mean = normalized_input(g).mean;
  const auto kept_scale = device::operand(g.scale);
  const auto weight = device::operand(g.forward.weight);
  const auto dy = device::operand(g.dy);
  const auto dx = device::operand(g.dx);
  const Index width = g.dy.extent(1);
  const auto runs = device::row_runs<size>(width, g.forward.x, g.forward.weight, g.dy, g.dx);
  const double share = 1 / static_cast<double>(std::max<Index>(width, 1));
  const bool centers = g.forward.kind == NormalizationKind::layer;
  const bool accumulates = g.accumulate;
  device::for_each_row(
      g.dy.extent(0), stream, "normalization_backward",
      [=] SSM_DEVICE(Index m, device::Lanes lanes) {
        const S mean = kept_mean ? kept_mean(m) : S{0};
        const S scale = kept_scale(m);
        // normalized[k] and weighted[k] = weight·dy of a run; 0 where it ends earlier.
        const auto read = [&](Index run, S(&normalized)[size], S(&weighted)[size]) {
          const Index d = runs.first(run), count = runs.size(run);
          S weights[size];
          device::read_neighbors(&x(m, d), x.strides[1], count, normalized);
          device::read_neighbors(&dy(m, d), dy.strides[1], count, weighted);
          if (weight) device::read_neighbors(&weight(d), weight.strides[0], count, weights);
          SSM_UNROLL
          for (int k = 0; k < size; ++k) {
            normalized[k] = (normalized[k] - mean) * scale;
            if (weight) weighted[k] *= weights[k];
          }
        };
        double mean_g = 0;
        if (centers)
          mean_g = share * lanes.sum(runs.count(), [&](Index run) {
            S normalized[size], weighted[size];
            read(run, normalized, weighted);
            double sum = 0;
            SSM_UNROLL
            for (int k = 0; k < size; ++k) sum += double{weighted[k]};
            return sum;
          });
        const double mean_gn = share * lanes.sum(runs.count(), [&](Index run) {
          S normalized[size], weighted[size];
          read(run, normalized, weighted);
          double sum = 0;
          SSM_UNROLL
          for (int k = 0; k < size; ++k) sum += static_cast<double>(weighted[k]) * normalized[k];
          return sum;
        });
        lanes.each(runs.count(), [&](Index run) {
          S normalized[size], weighted[size], before[size];
          read(run, normalized, weighted);
          const Index d = runs.first(run), count = runs.size(run);
          if (accumulates) device::read_neighbors(&dx(m, d), dx.strides[1], count, before);
          SSM_UNROLL
          for (int k = 0; k < size; ++k) {
            const S change =
                static_cast<S>(scale * (weighted[k] - mean_g - normalized[k] * mean_gn));
            normalized[k] = accumulates ? before[k] + change : change;
          }
          device::write_neighbors(&dx(m, d), dx.strides[1], count, normalized);
        });
      });
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void normalization<T>(const ssm::Normalization<T, CudaSpace>&, Stream); \
  template SSM_CUDA_API void normalization_backward<T>(                                         \
      const ssm::NormalizationBackward<T, CudaSpace>&, double*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
