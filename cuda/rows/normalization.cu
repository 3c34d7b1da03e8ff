// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "kernel/column_sums.cuh"
#include "rows/half_normalization.cuh"
#include "ssm/backend/cuda/normalization.hpp"

namespace ssm::cuda {

namespace {

/// Sums over a run: of half types in float, which holds them to the last digit or nearly; else in
/// double precision. Runs are added in double precision.
template <class T>
using RunSum = std::conditional_t<HalfStorage<T>, float, double>;

/// The runs of a row, `Held` of a lane, which stay in registers. Of more than one the row is whole
/// packs and has no others.
template <class T, int Held>
struct HeldRuns : device::RowRuns<device::pack_size<T>> {
  using Runs = device::RowRuns<device::pack_size<T>>;
  static constexpr int pack = device::pack_size<T>;
  static constexpr bool is_packed = Held > 1;

  SSM_HOST_DEVICE Index first(Index run) const {
    if constexpr (is_packed) return run * pack;
    return Runs::first(run);
  }
  SSM_HOST_DEVICE Index size(Index run) const {
    if constexpr (is_packed) return pack;
    return Runs::size(run);
  }
  /// Where a run begins, of a row and of a vector.
  template <class U>
  SSM_HOST_DEVICE U* at(const device::Operand<U, 2>& of, Index m, Index run) const {
    if constexpr (is_packed) return of.data + m * of.strides[0] + first(run);
    return &of(m, first(run));
  }
  template <class U>
  SSM_HOST_DEVICE U* at(const device::Operand<U, 1>& of, Index run) const {
    if constexpr (is_packed) return of.data + first(run);
    return &of(first(run));
  }
  SSM_HOST_DEVICE Index count() const {
    if constexpr (is_packed) return this->width / pack;
    return Runs::count();
  }
  /// f(h, run, is_there) for the held runs of a lane; in place of one that is not there, the last:
  /// so there is no branch between loads.
  template <class Lanes, class F>
  SSM_DEVICE void for_each_held(Lanes lanes, F f) const {
    SSM_UNROLL
    for (int h = 0; h < Held; ++h) {
      const Index run = lanes.index() + h * Lanes::count;
      const bool is_there = run < count();
      if constexpr (is_packed)
        f(h, is_there ? run : count() - 1, is_there);
      else if (is_there)
        f(h, run, true);
    }
  }
  /// f(run) for its other runs.
  template <class Lanes, class F>
  SSM_DEVICE void for_each_other(Lanes lanes, F f) const {
    if constexpr (!is_packed)
      for (Index run = lanes.index() + Held * Lanes::count; run < count(); run += Lanes::count)
        f(run);
  }
};

/// run(constant): how many runs a lane of a warp holds of rows like these, 32 numbers at most; 1
/// where they are not held.
template <class T, int N, class Run>
void with_held(const device::RowRuns<N>& runs, Run run) {
  constexpr int most = std::is_same_v<T, double> ? 1 : 32 / N;
  const bool is_packed = runs.length == N && runs.width > 0 && runs.width % N == 0;
  const Index wanted = (runs.count() + device::Lanes::count - 1) / device::Lanes::count;
  if (most == 1 || !is_packed || wanted > most) return run(std::integral_constant<int, 1>());
  if (wanted <= most / 2) return run(std::integral_constant<int, (most + 1) / 2>());
  if (wanted <= most * 3 / 4) return run(std::integral_constant<int, (most * 3 + 3) / 4>());
  run(std::integral_constant<int, most>());
}

/// 1/√x, right to all digits of S.
template <class S>
SSM_DEVICE S reciprocal_root(double x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<S, float>)
    if (x > 1e-30 && x < 1e30) {  // a step of Newton's in double precision, where a root is slow
      const double root = rsqrtf(static_cast<float>(x));
      return static_cast<float>(root * (1.5 - 0.5 * x * root * root));
    }
#endif
  return static_cast<S>(1 / std::sqrt(x));
}

/// Normalizes a row.
template <class T, int Held>
struct NormalizeRow {
  using S = Wide<T>;
  static constexpr int size = device::pack_size<T>;

  explicit NormalizeRow(const ssm::Normalization<T, CudaSpace>& a)
      : x(device::operand(a.x)),
        weight(device::operand(a.weight)),
        bias(device::operand(a.bias)),
        eps_scale(device::operand(a.eps_scale)),
        y(device::operand(a.y)),
        kept_mean(device::operand(a.mean)),
        kept_scale(device::operand(a.scale)),
        runs{device::row_runs<size>(a.x.extent(1), a.x, a.weight, a.bias, a.y)},
        share(1 / static_cast<double>(std::max<Index>(a.x.extent(1), 1))),
        eps(a.eps),
        centers(a.kind == NormalizationKind::layer) {}

  template <class Lanes>
  SSM_DEVICE void prefetch(Index, Lanes lanes) const {
    if (lanes.index() >= runs.count()) return;
    if (weight) device::prefetch(&weight(runs.first(lanes.index())));
    if (bias) device::prefetch(&bias(runs.first(lanes.index())));
  }

  template <class Lanes>
  SSM_DEVICE void operator()(Index m, Lanes lanes) const {
    S held[Held][size];
    S weights[size], biases[size];  // of a block's first run on their way before sums are made
    runs.for_each_held(lanes, [&](int h, Index run, bool) {
      read(m, run, held[h]);
      if (Held == 1) read_parameters(run, weights, biases);
    });
    const auto sum = [&](auto of_run) {
      double own = 0;
      for_each_run(m, lanes, held, [&](Index run, S(&values)[size], bool, bool is_there) {
        const auto part = static_cast<double>(of_run(run, values));
        own += is_there ? part : 0.0;
      });
      return share * lanes.total(own);
    };
    double mean = 0;
    if (centers)
      mean = sum([](Index, const S(&values)[size]) {
        RunSum<T> total = 0;
        SSM_UNROLL
        for (int k = 0; k < size; ++k) total += RunSum<T>{values[k]};
        return total;
      });
    // x − mean without rounding the mean to S.
    const S high = static_cast<S>(mean);
    const S low = HalfStorage<T> ? S{0} : static_cast<S>(mean - high);  // for half types, no matter
    const auto distance_of = [&](S value) {
      if constexpr (HalfStorage<T>) return value - high;
      return (value - high) - low;
    };
    const double variance = sum([&](Index run, const S(&values)[size]) {
      RunSum<T> total = 0;
      SSM_UNROLL
      for (int k = 0; k < size; ++k) {
        const RunSum<T> distance = k < runs.size(run) ? distance_of(values[k]) : S{0};
        total += distance * distance;
      }
      return total;
    });
    const auto scale = reciprocal_root<S>(variance + (eps_scale ? eps * eps_scale(m) : eps));
    for_each_run(m, lanes, held, [&](Index run, S(&values)[size], bool is_first, bool is_there) {
      if (Held > 1 || !is_first) read_parameters(run, weights, biases);
      SSM_UNROLL
      for (int k = 0; k < size; ++k) values[k] = distance_of(values[k]) * scale;
      if (weight) {
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[k] *= weights[k];
      }
      if (bias) {
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[k] += biases[k];
      }
      if (is_there)
        device::write_neighbors(runs.at(y, m, run), y.strides[1], runs.size(run), values);
    });
    if (!lanes.first()) return;
    if (kept_mean) kept_mean(m) = high;
    if (kept_scale) kept_scale(m) = scale;
  }

 private:
  SSM_DEVICE void read(Index m, Index run, S (&values)[size]) const {
    device::read_neighbors(runs.at(x, m, run), x.strides[1], runs.size(run), values);
  }
  SSM_DEVICE void read_parameters(Index run, S (&weights)[size], S (&biases)[size]) const {
    const Index count = runs.size(run);
    if (weight) device::read_neighbors(runs.at(weight, run), weight.strides[0], count, weights);
    if (bias) device::read_neighbors(runs.at(bias, run), bias.strides[0], count, biases);
  }
  /// f(run, its numbers, whether it is the first, whether it is there) for every run of a lane.
  template <class Lanes, class F>
  SSM_DEVICE void for_each_run(Index m, Lanes lanes, S (&held)[Held][size], F f) const {
    runs.for_each_held(lanes,
                       [&](int h, Index run, bool is_there) { f(run, held[h], h == 0, is_there); });
    runs.for_each_other(lanes, [&](Index run) {
      S values[size];
      read(m, run, values);
      f(run, values, false, true);
    });
  }

  device::Operand<const T, 2> x;
  device::Operand<const S, 1> weight, bias, eps_scale;
  device::Operand<T, 2> y;
  device::Operand<S, 1> kept_mean, kept_scale;
  HeldRuns<T, Held> runs;
  double share, eps;
  bool centers;
};

}  // namespace

template <class T>
void normalization(const ssm::Normalization<T, CudaSpace>& a, Stream stream) {
  const Index rows = a.x.extent(0);
  if (normalize_halves(a, stream)) return;
  if (rows < few_normalized_rows)
    return device::for_each_block<256>(rows, stream, "normalization", NormalizeRow<T, 1>(a));
  constexpr int size = device::pack_size<T>;
  with_held<T>(device::row_runs<size>(a.x.extent(1), a.x, a.weight, a.bias, a.y), [&](auto held) {
    device::for_each_row(rows, stream, "normalization", NormalizeRow<T, held()>(a));
  });
}

namespace {

/// (x − mean)·scale of what the forward pass kept.
template <class T>
struct Normalized {
  device::Operand<const T, 2> x;
  device::Operand<const Wide<T>, 1> mean;  // null for rms
  device::Operand<const Wide<T>, 1> scale;

  /// `count` neighbors of row m from d on, and what is 0 where they end earlier only if multiplied
  /// by a gradient that is.
  template <int N>
  SSM_HOST_DEVICE void read(Index m, Index d, Index count, Wide<T> (&values)[N]) const {
    device::read_neighbors(&x(m, d), x.strides[1], count, values);
    const Wide<T> offset = mean ? mean(m) : Wide<T>{0}, factor = scale(m);
    SSM_UNROLL
    for (int k = 0; k < N; ++k) values[k] = (values[k] - offset) * factor;
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
  using S = Wide<T>;
  constexpr int size = device::pack_size<T>;
  const auto normalized = normalized_input(g);
  const auto dy = device::operand(g.dy);
  const auto dweight = device::operand(g.dweight);
  const auto dbias = device::operand(g.dbias);
  device::column_sums<2, RunSum<T>>(
      g.dy.extent(0), device::row_runs<size>(g.dy.extent(1), g.forward.x, g.dy), sums, stream,
      "normalization_backward",
      [=] SSM_DEVICE(Index m, Index d, Index count, RunSum<T>(&values)[2][size]) {
        S inputs[size] = {}, gradients[size];
        if (dweight) normalized.read(m, d, count, inputs);
        device::read_neighbors(&dy(m, d), dy.strides[1], count, gradients);
        SSM_UNROLL
        for (int k = 0; k < size; ++k) {
          values[0][k] = gradients[k] * inputs[k];
          values[1][k] = gradients[k];
        }
      },
      [=] SSM_DEVICE(int which, Index d, double total) {
        if (which == 0 && dweight) dweight(d) += static_cast<S>(total);
        if (which == 1 && dbias) dbias(d) += static_cast<S>(total);
      });
}

/// residual_sum += Σ_m residual.
template <class T>
void add_residual_sum(const ssm::NormalizationBackward<T, CudaSpace>& g, double* sums,
                      Stream stream) {
  using S = Wide<T>;
  constexpr int size = device::pack_size<T>;
  const auto residual = device::operand(g.residual);
  const auto sum = device::operand(g.residual_sum);
  device::column_sums<1, RunSum<T>>(
      g.dy.extent(0), device::row_runs<size>(g.dy.extent(1), g.residual), sums, stream,
      "normalization_backward",
      [=] SSM_DEVICE(Index m, Index d, Index count, RunSum<T>(&values)[1][size]) {
        S numbers[size];
        device::read_neighbors(&residual(m, d), residual.strides[1], count, numbers);
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[0][k] = numbers[k];
      },
      [=] SSM_DEVICE(int, Index d, double total) { sum(d) += static_cast<S>(total); });
}

template <class T>
device::RowRuns<device::pack_size<T>> gradient_runs(
    const ssm::NormalizationBackward<T, CudaSpace>& g) {
  return device::row_runs<device::pack_size<T>>(g.dy.extent(1), g.forward.x, g.forward.weight, g.dy,
                                                g.residual, g.dx);
}

/// The gradient of a row.
/// With n = (x − mean)·scale and g = weight·dy:
///   dx = scale·(g − mean(g) − n·mean(g·n))      without mean(g) for rms
template <class T, int Held>
struct NormalizationGradientRow {
  using S = Wide<T>;
  static constexpr int size = device::pack_size<T>;
  struct Run {
    S normalized[size];
    S weighted[size];  // weight·dy
  };

  explicit NormalizationGradientRow(const ssm::NormalizationBackward<T, CudaSpace>& g)
      : input(normalized_input(g)),
        weight(device::operand(g.forward.weight)),
        dy(device::operand(g.dy)),
        residual(device::operand(g.residual)),
        dx(device::operand(g.dx)),
        runs{gradient_runs(g)},
        share(1 / static_cast<double>(std::max<Index>(g.dy.extent(1), 1))),
        centers(g.forward.kind == NormalizationKind::layer),
        accumulates(g.accumulate) {}

  SSM_DEVICE void operator()(Index m, device::Lanes lanes) const {
    Run held[Held];
    runs.for_each_held(lanes, [&](int h, Index number, bool) { read(m, number, held[h]); });
    double sum_g = 0, sum_gn = 0;
    for_each_run(m, lanes, held, [&](Index, const Run& run, bool is_there) {
      RunSum<T> of_g = 0, of_gn = 0;
      SSM_UNROLL
      for (int k = 0; k < size; ++k) {
        const RunSum<T> weighted = run.weighted[k];
        of_g += weighted;
        of_gn += weighted * run.normalized[k];
      }
      sum_g += is_there ? static_cast<double>(of_g) : 0.0;
      sum_gn += is_there ? static_cast<double>(of_gn) : 0.0;
    });
    const S mean_g = centers ? static_cast<S>(share * lanes.total(sum_g)) : S{0};
    const S mean_gn = static_cast<S>(share * lanes.total(sum_gn));
    const S scale = input.scale(m);
    for_each_run(m, lanes, held, [&](Index number, const Run& run, bool is_there) {
      const Index d = runs.first(number), count = runs.size(number);
      S values[size] = {};
      if (residual) device::read_neighbors(&residual(m, d), residual.strides[1], count, values);
      if (accumulates) {
        S before[size];
        device::read_neighbors(&dx(m, d), dx.strides[1], count, before);
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[k] += before[k];
      }
      SSM_UNROLL
      for (int k = 0; k < size; ++k) {
        const S change = scale * ((run.weighted[k] - mean_g) - run.normalized[k] * mean_gn);
        values[k] += change;
      }
      if (is_there) device::write_neighbors(&dx(m, d), dx.strides[1], count, values);
    });
  }

 private:
  /// 0 where the run ends earlier.
  SSM_DEVICE void read(Index m, Index number, Run& run) const {
    const Index d = runs.first(number), count = runs.size(number);
    input.read(m, d, count, run.normalized);
    device::read_neighbors(&dy(m, d), dy.strides[1], count, run.weighted);
    if (!weight) return;
    S weights[size];
    device::read_neighbors(&weight(d), weight.strides[0], count, weights);
    SSM_UNROLL
    for (int k = 0; k < size; ++k) run.weighted[k] *= weights[k];
  }
  /// f(number, run, whether it is there) for every run of a lane.
  template <class F>
  SSM_DEVICE void for_each_run(Index m, device::Lanes lanes, const Run (&held)[Held], F f) const {
    runs.for_each_held(lanes,
                       [&](int h, Index number, bool is_there) { f(number, held[h], is_there); });
    runs.for_each_other(lanes, [&](Index number) {
      Run run;
      read(m, number, run);
      f(number, run, true);
    });
  }

  Normalized<T> input;
  device::Operand<const S, 1> weight;
  device::Operand<const T, 2> dy, residual;
  device::Operand<T, 2> dx;
  HeldRuns<T, Held> runs;
  double share;
  bool centers, accumulates;
};

}  // namespace

template <class T>
void normalization_backward(const ssm::NormalizationBackward<T, CudaSpace>& g, double* sums,
                            Stream stream) {
  if (g.residual_sum && !fuses_residual_sum<T>(g.dy.extent(1))) {
    add_residual_sum(g, sums, stream);
    auto rest = g;
    rest.residual_sum = {};
    return normalization_backward(rest, sums, stream);
  }
  if (normalize_halves_backward(g, sums, stream)) return;
  if (g.dweight || g.dbias) add_parameter_gradients(g, sums, stream);
  if (g.residual_sum) add_residual_sum(g, sums, stream);
  with_held<T>(gradient_runs(g), [&](auto held) {
    device::for_each_row(g.dy.extent(0), stream, "normalization_backward",
                         NormalizationGradientRow<T, held()>(g));
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
