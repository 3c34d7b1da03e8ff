// SPDX-License-Identifier: Apache-2.0
// In place of the tensor-core kernels, where there is no device: what is tested is how their
// operands are prepared.
#include "tensor_cores_on_host.hpp"

#include <span>
#include <vector>

#include "ssm/backend/cuda/causal_convolution.hpp"
#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/diagonal_scan.hpp"
#include "ssm/backend/cuda/shift_convolution.hpp"
#include "ssm/backend/reference.hpp"

namespace ssm::cuda {
namespace {

bool present = false;

View<float, 3> view(const Sequences<float>& x, int batch, int length, int channels) {
  if (x.data == nullptr) return {};
  return {x.data, {batch, length, channels}, {x.batch_stride, 1, x.channel_stride}};
}
View<const float, 3> view(const Sequences<const float>& x, int batch, int length, int channels) {
  if (x.data == nullptr) return {};
  return {x.data, {batch, length, channels}, {x.batch_stride, 1, x.channel_stride}};
}
template <class... N>
View<float, int{sizeof...(N)}> floats(float* data, N... extents) {
  if (data == nullptr) return {};
  return {data, DynamicExtents<int{sizeof...(N)}>(extents...)};
}
template <class... N>
View<const float, int{sizeof...(N)}> floats(const float* data, N... extents) {
  if (data == nullptr) return {};
  return {data, DynamicExtents<int{sizeof...(N)}>(extents...)};
}
template <class... N>
auto numbers(Complex<float>* data, N... extents) {
  return floats(reinterpret_cast<float*>(data), extents..., 2);
}
template <class... N>
auto numbers(const Complex<float>* data, N... extents) {
  return floats(reinterpret_cast<const float*>(data), extents..., 2);
}

/// The call's operands as the reference takes them.
struct Scan {
  template <class Call>
  explicit Scan(const Call& call) : shape(call.shape) {
    if (shape.segments != nullptr)
      offsets.assign(shape.segments, shape.segments + shape.segment_count + 1);
    const auto& p = call.parameters;
    operands.dt = floats(p.dt, shape.channels);
    operands.A = numbers(p.a, shape.channels, shape.modes);
    operands.B = numbers(p.b, shape.channels, shape.modes);
    operands.C = numbers(p.c, shape.channels, shape.modes);
    operands.skip = floats(p.skip, shape.channels);
    operands.discretization = p.discretization;
    operands.x = sequence(call.x);
    operands.gate_in = sequence(call.gate_in);
    operands.gate_out = sequence(call.gate_out);
    operands.segments = offsets;
    operands.initial_state = state(call.initial_state);
  }
  template <class S>
  auto sequence(const S& x) const {
    return view(x, shape.batch, shape.length, shape.channels);
  }
  template <class Z>
  auto state(Z* z) const {
    return numbers(z, shape.sequences(), shape.channels, shape.modes);
  }
  DiagonalScanShape shape;
  std::vector<Index> offsets;
  ssm::DiagonalScan<float, HostSpace> operands;
};

}  // namespace

bool has_tensor_core_kernels() { return present; }
void pretend_tensor_core_kernels(bool on) { present = on; }

template <>
std::size_t diagonal_scan_workspace<float>(const DiagonalScanShape&) {
  return 1;
}
template <>
void diagonal_scan<float>(const DiagonalScan<float>& call, void*, Stream) {
  Context<Reference> ctx;
  Scan scan(call);
  scan.operands.final_state = scan.state(call.final_state);
  scan.operands.y = scan.sequence(call.y);
  ssm::diagonal_scan(ctx, scan.operands);
}
template <>
std::size_t diagonal_scan_backward_workspace<float>(const DiagonalScanBackward<float>&) {
  return 1;
}
template <>
void diagonal_scan_backward<float>(const DiagonalScanBackward<float>& call, void*, Stream) {
  Context<Reference> ctx;
  const Scan scan(call);
  const int channels = scan.shape.channels;
  const int modes = scan.shape.modes;
  ssm::diagonal_scan_backward(ctx, ssm::DiagonalScanBackward<float, HostSpace>{
                                       .forward = scan.operands,
                                       .dy = scan.sequence(call.dy),
                                       .dfinal_state = scan.state(call.dfinal_state),
                                       .dx = scan.sequence(call.dx),
                                       .dgate_in = scan.sequence(call.dgate_in),
                                       .dgate_out = scan.sequence(call.dgate_out),
                                       .dinitial_state = scan.state(call.dinitial_state),
                                       .ddt = floats(call.ddt, channels),
                                       .dA = numbers(call.da, channels, modes),
                                       .dB = numbers(call.db, channels, modes),
                                       .dC = numbers(call.dc, channels, modes),
                                       .dskip = floats(call.dskip, channels)});
}

/// Operands that the two convolutions have in common, as the reference takes them.
template <class Call>
ssm::CausalConvolution<float, HostSpace> convolution(const Call& call) {
  return {.kernel = floats(call.kernel, call.channels, call.taps),
          .skip = floats(call.skip, call.channels),
          .x = view(call.x, call.batch, call.length, call.channels)};
}
template <class Call>
ssm::CausalConvolutionBackward<float, HostSpace> convolution_backward(const Call& call) {
  return {.forward = convolution(call),
          .dy = view(call.dy, call.batch, call.length, call.channels),
          .dx = view(call.dx, call.batch, call.length, call.channels),
          .dkernel = floats(call.dkernel, call.channels, call.taps),
          .dskip = floats(call.dskip, call.channels)};
}

template <>
std::size_t shift_convolution_workspace<float>(const ShiftConvolution<float>&) {
  return 1;
}
template <>
void shift_convolution<float>(const ShiftConvolution<float>& call, void*, Stream) {
  Context<Reference> ctx;
  auto a = convolution(call);
  a.gate_out = view(call.gate, call.batch, call.length, call.channels);
  a.y = view(call.y, call.batch, call.length, call.channels);
  ssm::causal_convolution(ctx, a);
}
template <>
std::size_t shift_convolution_backward_workspace<float>(const ShiftConvolutionBackward<float>&) {
  return 1;
}
template <>
void shift_convolution_backward<float>(const ShiftConvolutionBackward<float>& call, void*, Stream) {
  Context<Reference> ctx;
  auto g = convolution_backward(call);
  g.forward.gate_out = view(call.gate, call.batch, call.length, call.channels);
  g.dgate_out = view(call.dgate, call.batch, call.length, call.channels);
  ssm::causal_convolution_backward(ctx, g);
}

template <>
std::size_t causal_convolution_workspace<float>(const CausalConvolution<float>&) {
  return 1;
}
template <>
void causal_convolution<float>(const CausalConvolution<float>& call, void*, Stream) {
  Context<Reference> ctx;
  auto a = convolution(call);
  a.gate_in = view(call.gate_in, call.batch, call.length, call.channels);
  a.gate_out = view(call.gate_out, call.batch, call.length, call.channels);
  a.y = view(call.y, call.batch, call.length, call.channels);
  ssm::causal_convolution(ctx, a);
}
template <>
std::size_t causal_convolution_backward_workspace<float>(const CausalConvolutionBackward<float>&) {
  return 1;
}
template <>
void causal_convolution_backward<float>(const CausalConvolutionBackward<float>& call, void*,
                                        Stream) {
  Context<Reference> ctx;
  auto g = convolution_backward(call);
  g.forward.gate_in = view(call.gate_in, call.batch, call.length, call.channels);
  g.forward.gate_out = view(call.gate_out, call.batch, call.length, call.channels);
  g.dgate_in = view(call.dgate_in, call.batch, call.length, call.channels);
  g.dgate_out = view(call.dgate_out, call.batch, call.length, call.channels);
  ssm::causal_convolution_backward(ctx, g);
}

}  // namespace ssm::cuda
