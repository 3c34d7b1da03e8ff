// SPDX-License-Identifier: Apache-2.0
#include "convolution/correlation.cuh"
#include "ssm/backend/cuda/causal_convolution.hpp"

namespace ssm::cuda {
namespace device {
namespace {

template <class T>
struct GatedElement {
  SSM_DEVICE T operator()(Index b, Index t, Index d) const {
    return value_or(T{1}, gate, b, t, d) * x(b, t, d);
  }
  Operand<const T, 3> gate, x;
};

/// Σ kernel[d,lag]·u_{t−lag} + skip[d]·u_t, or with u_{t+lag}, inside one sequence.
template <class T>
struct DirectFilter {
  explicit DirectFilter(const ssm::CausalConvolution<T, CudaSpace>& a)
      : kernel(operand(a.kernel)), skip(operand(a.skip)), terms(a.kernel.extent(1)) {}

  SSM_DEVICE T backwards_from(const GatedElement<T>& u, Index b, Index begin, Index t,
                              Index d) const {
    const Index count = terms < t - begin + 1 ? terms : t - begin + 1;
    T sum = value_or(T{0}, skip, d) * u(b, t, d);
    for (Index lag = 0; lag < count; ++lag) sum += kernel(d, lag) * u(b, t - lag, d);
    return sum;
  }
  SSM_DEVICE T forwards_from(const GatedElement<T>& u, Index b, Index t, Index end, Index d) const {
    const Index count = terms < end - t ? terms : end - t;
    T sum = value_or(T{0}, skip, d) * u(b, t, d);
    for (Index lag = 0; lag < count; ++lag) sum += kernel(d, lag) * u(b, t + lag, d);
    return sum;
  }

  Operand<const T, 2> kernel;
  Operand<const T, 1> skip;
  Index terms;
};

template <class T>
struct ConvolutionElement {
  SSM_DEVICE void operator()(Index i) const {
    const auto [b, t, d] = positions.place(i);
    const Sequence s = packing.sequence_with(b, t);
    y(b, t, d) = value_or(T{1}, gate_out, b, t, d) * filter.backwards_from(u, b, s.begin, t, d);
  }

  DirectFilter<T> filter;
  GatedElement<T> u;
  Operand<const T, 3> gate_out;
  Operand<T, 3> y;
  Packing packing;
  Positions positions;
};

/// With g = gate_out·dy:  du_t = Σ_{s ≥ t} kernel[s−t]·g_s + skip·g_t.
template <class T>
struct ConvolutionGradientElement {
  SSM_DEVICE void operator()(Index i) const {
    const auto [b, t, d] = positions.place(i);
    const Sequence s = packing.sequence_with(b, t);
    if (dx || dgate_in) {
      const T du = filter.forwards_from(g, b, t, s.end, d);
      if (dx) dx(b, t, d) = value_or(T{1}, u.gate, b, t, d) * du;
      if (dgate_in) dgate_in(b, t, d) = u.x(b, t, d) * du;
    }
    if (dgate_out) dgate_out(b, t, d) = g.x(b, t, d) * filter.backwards_from(u, b, s.begin, t, d);
  }

  DirectFilter<T> filter;
  GatedElement<T> u, g;
  Operand<T, 3> dx, dgate_in, dgate_out;
  Packing packing;
  Positions positions;
};

template <class T>
struct AddKernelGradient {
  SSM_DEVICE void operator()(Index lag, Index d, double sum) const {
    if (dkernel && lag < terms) dkernel(d, lag) = static_cast<T>(dkernel(d, lag) + sum);
    if (dskip && lag == 0) dskip(d) = static_cast<T>(dskip(d) + sum);
  }
  Operand<T, 2> dkernel;
  Operand<T, 1> dskip;
  Index terms;
};

}  // namespace
}  // namespace device

template <class T>
void general_causal_convolution(const ssm::CausalConvolution<T, CudaSpace>& a,
                                DeviceSegments segments, Stream stream) {
  using namespace device;
  for_each_index(a.x.size(), stream, "causal_convolution",
                 ConvolutionElement<T>{DirectFilter<T>(a),
                                       {operand(a.gate_in), operand(a.x)},
                                       operand(a.gate_out),
                                       operand(a.y),
                                       Packing(segments, a.x.extent(0), a.x.extent(1)),
                                       Positions(a.y)});
}

template <class T>
void general_causal_convolution_backward(const ssm::CausalConvolutionBackward<T, CudaSpace>& g,
                                         DeviceSegments segments, T* workspace, Stream stream) {
  using namespace device;
  const char* const operation = "causal_convolution_backward";
  const auto& a = g.forward;
  const Packing packing(segments, a.x.extent(0), a.x.extent(1));
  const Positions positions(a.x);
  const GatedElement<T> u{operand(a.gate_in), operand(a.x)};
  const GatedElement<T> gradient{operand(a.gate_out), operand(g.dy)};
  if (g.dx || g.dgate_in || g.dgate_out)
    for_each_index(a.x.size(), stream, operation,
                   ConvolutionGradientElement<T>{DirectFilter<T>(a), u, gradient, operand(g.dx),
                                                 operand(g.dgate_in), operand(g.dgate_out), packing,
                                                 positions});
  const Correlation shape = convolution_correlation(g);
  if (shape.lags > 0)
    correlate(shape, packing, positions.positions_contiguous, gradient, u, workspace, stream,
              operation,
              AddKernelGradient<T>{operand(g.dkernel), operand(g.dskip), a.kernel.extent(1)});
}

#define SSM_INSTANTIATE(T)                                                  \
  template SSM_CUDA_API void general_causal_convolution<T>(                 \
      const ssm::CausalConvolution<T, CudaSpace>&, DeviceSegments, Stream); \
  template SSM_CUDA_API void general_causal_convolution_backward<T>(        \
      const ssm::CausalConvolutionBackward<T, CudaSpace>&, DeviceSegments, T*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
