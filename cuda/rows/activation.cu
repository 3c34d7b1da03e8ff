// SPDX-License-Identifier: Apache-2.0
#include "kernel/column_sums.cuh"
#include "kernel/packs.cuh"
#include "kernel/quick_functions.cuh"
#include "ssm/backend/cuda/activation.hpp"
#include "ssm/backend/cuda/matmul.hpp"

namespace ssm::cuda {
namespace device {
namespace {

/// Packs that a thread reads before it computes: enough on their way to fill the memory's time.
constexpr int kPacksAtOnce = 4;

/// gelu_tanh of contiguous numbers. One function, so that few registers leave room for threads.
template <class T>
void gelu_packs(const T* x, T* y, Index packs, Stream stream) {
  constexpr int size = pack_size<T>;
  const Index share = packs / kPacksAtOnce;
  for_each_index(share, stream, "activation", [=] SSM_DEVICE(Index i) {
    Wide<T> values[kPacksAtOnce][size];
    SSM_UNROLL
    for (int k = 0; k < kPacksAtOnce; ++k)
      read_neighbors<size>(x + (i + k * share) * size, 1, size, values[k]);
    SSM_UNROLL
    for (int k = 0; k < kPacksAtOnce; ++k) {
      SSM_UNROLL
      for (int j = 0; j < size; ++j)
        values[k][j] = activate_number<T>(ActivationKind::gelu_tanh, values[k][j]);
      write_neighbors<size>(y + (i + k * share) * size, 1, size, values[k]);
    }
  });
}

/// c ← c·gelu'(x) and y ← gelu(x), and what is added to sums of columns of c.
template <class T>
struct SlopeAndGelu {
  using S = Wide<T>;
  static constexpr int size = pack_size<T>;
  struct Ahead {
    detail::RawPack<T> x, gradient;
  };

  SSM_DEVICE void ask(Index m, Index n, Ahead& ahead) const {
    ahead.x = *reinterpret_cast<const detail::RawPack<T>*>(&x(m, n));
    ahead.gradient = *reinterpret_cast<const detail::RawPack<T>*>(&c(m, n));
  }
  SSM_DEVICE void operator()(Index m, Index n, const Ahead& ahead, S (&slopes)[1][size]) const {
    S values[size];
    SSM_UNROLL
    for (int k = 0; k < size; ++k) {
      const auto gelu = quick_gelu(widened(ahead.x.values[k]));
      slopes[0][k] = widened(ahead.gradient.values[k]) * gelu.slope;
      values[k] = gelu.value;
    }
    detail::write_pack(&c(m, n), slopes[0]);
    detail::write_pack(&y(m, n), values);
  }

  Operand<const T, 2> x;
  Operand<T, 2> c, y;
};

/// Whether all of it is such packs.
template <class T>
bool is_packs(const ssm::Activation<T, CudaSpace>& a) {
  return a.x.is_contiguous() && a.y.is_contiguous() && has_packs(a.x) && has_packs(a.y) &&
         a.x.size() % (kPacksAtOnce * pack_size<T>) == 0;
}

}  // namespace
}  // namespace device

template <class T>
void activation(const ssm::Activation<T, CudaSpace>& a, Stream stream) {
  if constexpr (HalfStorage<T>)
    if (a.kind == ActivationKind::gelu_tanh && !a.gate && device::is_packs(a))
      return device::gelu_packs(a.x.data(), a.y.data(), a.x.size() / device::pack_size<T>, stream);
  constexpr int size = device::pack_size<T>;
  const auto x = device::operand(a.x);
  const auto gate = device::operand(a.gate);
  const auto y = device::operand(a.y);
  const ActivationKind kind = a.kind;
  const auto runs = device::matrix_runs<size>(a.x.extent(0), a.x.extent(1), a.x, a.gate, a.y);
  device::for_each_index(runs.count(), stream, "activation", [=] SSM_DEVICE(Index i) {
    const auto run = runs.at(i);
    const Index m = run.row, d = run.column;
    device::with_full_run<size>(run.count, [&](auto count) {
      Wide<T> values[size], factors[size];
      device::read_neighbors(&x(m, d), x.strides[1], count, values);
      if (gate) device::read_neighbors(&gate(m, d), gate.strides[1], count, factors);
      device::with_known_kind(kind, [&](auto known) {
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[k] = device::activate_number<T>(known, values[k]);
      });
      if (gate) {
        SSM_UNROLL
        for (int k = 0; k < size; ++k) values[k] *= factors[k];
      }
      device::write_neighbors(&y(m, d), y.strides[1], count, values);
    });
  });
}

template <class T>
void activation_backward(const ssm::ActivationBackward<T, CudaSpace>& g, Stream stream) {
  constexpr int size = device::pack_size<T>;
  const auto x = device::operand(g.forward.x);
  const auto gate = device::operand(g.forward.gate);
  const auto dy = device::operand(g.dy);
  const auto dx = device::operand(g.dx);
  const auto dgate = device::operand(g.dgate);
  const ActivationKind kind = g.forward.kind;
  const auto runs = device::matrix_runs<size>(g.forward.x.extent(0), g.forward.x.extent(1),
                                              g.forward.x, g.forward.gate, g.dy, g.dx, g.dgate);
  device::for_each_index(runs.count(), stream, "activation_backward", [=] SSM_DEVICE(Index i) {
    const auto run = runs.at(i);
    const Index m = run.row, d = run.column;
    device::with_full_run<size>(run.count, [&](auto count) {
      Wide<T> values[size], gradients[size], factors[size];
      device::read_neighbors(&x(m, d), x.strides[1], count, values);
      device::read_neighbors(&dy(m, d), dy.strides[1], count, gradients);
      if (gate) device::read_neighbors(&gate(m, d), gate.strides[1], count, factors);
      device::with_known_kind(kind, [&](auto known) {
        SSM_UNROLL
        for (int k = 0; k < size; ++k) {
          const Wide<T> input = values[k];
          values[k] = device::activation_number_slope<T>(known, input) *
                      (gate ? factors[k] : Wide<T>{1}) * gradients[k];
          if (gate) factors[k] = device::activate_number<T>(known, input) * gradients[k];
        }
      });
      device::write_neighbors(&dx(m, d), dx.strides[1], count, values);
      if (gate) device::write_neighbors(&dgate(m, d), dgate.strides[1], count, factors);
    });
  });
}

template <class T>
void slope_and_activate(const ssm::SlopedMatmulAgain<T, CudaSpace>& a, Wide<T>* partial,
                        Stream stream) {
  const device::SlopeAndGelu<T> summands{device::operand(a.x), device::operand(a.c),
                                         device::operand(a.y)};
  const auto dbias = device::operand(a.dbias);
  device::column_sums<1, Wide<T>>(
      a.x.extent(0), device::row_runs<device::pack_size<T>>(a.x.extent(1), a.x, a.c, a.y), partial,
      stream, "sloped_matmul_again", summands,
      [=] SSM_DEVICE(int, Index n, Wide<T> total) { dbias(n) += total; });
}
#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void slope_and_activate<T>(const ssm::SlopedMatmulAgain<T, CudaSpace>&, \
                                                   Wide<T>*, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

#define SSM_INSTANTIATE(T)                                                                        \
  template SSM_CUDA_API void activation<T>(const ssm::Activation<T, CudaSpace>&, Stream);         \
  template SSM_CUDA_API void activation_backward<T>(const ssm::ActivationBackward<T, CudaSpace>&, \
                                                    Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
