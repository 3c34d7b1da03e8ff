// SPDX-License-Identifier: Apache-2.0
#include "kernel/half_numbers.cuh"
#include "kernel/matrix_elements.cuh"
#include "kernel/parallel.cuh"
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
  const Index width = a.x.extent(1);
  const double share = 1 / static_cast<double>(std::max<Index>(width, 1));
  const double eps = a.eps;
  const bool centers = a.kind == NormalizationKind::layer;
  device::for_each_row(
      a.x.extent(0), stream, "normalization", [=] SSM_DEVICE(Index m, device::Lanes lanes) {
        const double mean =
            centers ? share * lanes.sum(width,
                                        [&](Index d) { return double{device::widened(x(m, d))}; })
                    : 0.0;
        const double variance = share * lanes.sum(width, [&](Index d) {
          const double distance = device::widened(x(m, d)) - mean;
          return distance * distance;
        });
        const double scale = 1 / std::sqrt(variance + (eps_scale ? eps * eps_scale(m) : eps));
        lanes.each(width, [&](Index d) {
          const S normalized = static_cast<S>((device::widened(x(m, d)) - mean) * scale);
          y(m, d) = device::narrowed<T>(normalized * (weight ? weight(d) : S{1}) +
                                        (bias ? bias(d) : S{0}));
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
  const auto normalized = normalized_input(g);
  const auto weight = device::operand(g.forward.weight);
  const auto dy = device::operand(g.dy);
  const auto dx = device::operand(g.dx);
  const Index width = g.dy.extent(1);
  const double share = 1 / static_cast<double>(std::max<Index>(width, 1));
  const bool centers = g.forward.kind == NormalizationKind::layer;
  const bool accumulates = g.accumulate;
  device::for_each_row(
      g.dy.extent(0), stream, "normalization_backward",
      [=] SSM_DEVICE(Index m, device::Lanes lanes) {
        const auto weighted = [&](Index d) {
          const auto gradient = device::widened(dy(m, d));
          return weight ? weight(d) * gradient : gradient;
        };
        const double mean_g =
            centers ? share * lanes.sum(width, [&](Index d) { return double{weighted(d)}; }) : 0.0;
        const double mean_gn = share * lanes.sum(width, [&](Index d) {
          return static_cast<double>(weighted(d)) * normalized(m, d);
        });
        lanes.each(width, [&](Index d) {
          const auto change = static_cast<Wide<T>>(
              normalized.scale(m) * (weighted(d) - mean_g - normalized(m, d) * mean_gn));
          dx(m, d) = device::narrowed<T>(accumulates ? device::widened(dx(m, d)) + change : change);
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
