// SPDX-License-Identifier: Apache-2.0
// In place of the tensor-core kernels, where there is no device: what is tested is how their
// operands are prepared.
#include "tensor_cores_on_host.hpp"

#include <bit>
#include <span>
#include <vector>

#include "ssm/backend/cuda/batched_h3_mixer.hpp"
#include "ssm/backend/cuda/causal_convolution.hpp"
#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/decayed_attention.hpp"
#include "ssm/backend/cuda/diagonal_scan.hpp"
#include "ssm/backend/cuda/h3_mixer.hpp"
#include "ssm/backend/cuda/h3_pairs.hpp"
#include "ssm/backend/cuda/shift_convolution.hpp"
#include "ssm/backend/cuda/ssd_scan.hpp"
#include "ssm/backend/cuda/tiled_attention.hpp"
#include "ssm/backend/reference.hpp"

namespace ssm::cuda {
namespace {

bool present = false;

/// One for all calls: they allocate nothing, as on a device.
Context<Reference>& reference() {
  static thread_local Context<Reference> ctx;
  return ctx;
}

template <class E>
View<E, 3> view(const Sequences<E>& x, int batch, int length, int channels) {
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
template <class T>
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
  ssm::DiagonalScan<T, HostSpace> operands;
};

}  // namespace

bool has_tensor_core_kernels() { return present; }
void pretend_tensor_core_kernels(bool on) { present = on; }

template <class T>
std::size_t diagonal_scan_workspace(const DiagonalScanShape&) {
  return 1;
}
template <class T>
std::size_t diagonal_scan_checkpoint_count(const DiagonalScanShape& shape) {
  return static_cast<std::size_t>(shape.batch) * static_cast<std::size_t>(shape.channels) *
         static_cast<std::size_t>((shape.length + 1023) / 1024 * shape.modes);
}
/// What stands for the checkpoint: the reference needs none, and expects to see this again.
template <class T>
Complex<float> checkpoint(std::size_t i) {
  return {static_cast<float>(i % 1000), static_cast<float>(sizeof(T))};
}
template <class T>
void diagonal_scan(const DiagonalScan<T>& call, void*, Stream) {
  Context<Reference>& ctx = reference();
  Scan<T> scan(call);
  if (call.checkpoints != nullptr)
    for (std::size_t i = 0; i < diagonal_scan_checkpoint_count<T>(call.shape); ++i)
      call.checkpoints[i] = checkpoint<T>(i);
  scan.operands.final_state = scan.state(call.final_state);
  scan.operands.y = scan.sequence(call.y);
  ssm::diagonal_scan(ctx, scan.operands);
}
template <class T>
std::size_t diagonal_scan_backward_workspace(const DiagonalScanBackward<T>&) {
  return 1;
}
template <class T>
void diagonal_scan_backward(const DiagonalScanBackward<T>& call, void*, Stream) {
  Context<Reference>& ctx = reference();
  const Scan<T> scan(call);
  if (call.checkpoints != nullptr)
    for (std::size_t i = 0; i < diagonal_scan_checkpoint_count<T>(call.shape); ++i)
      if (call.checkpoints[i] != checkpoint<T>(i)) throw Failure("diagonal_scan: no checkpoint");
  const int channels = scan.shape.channels;
  const int modes = scan.shape.modes;
  ssm::diagonal_scan_backward(ctx, ssm::DiagonalScanBackward<T, HostSpace>{
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

namespace {

/// Operands that the two convolutions have in common, as the reference takes them.
template <class T, class Call>
ssm::CausalConvolution<T, HostSpace> convolution(const Call& call) {
  return {.kernel = floats(call.kernel, call.channels, call.taps),
          .skip = floats(call.skip, call.channels),
          .x = view(call.x, call.batch, call.length, call.channels)};
}
template <class T, class Call>
ssm::CausalConvolutionBackward<T, HostSpace> convolution_backward(const Call& call) {
  return {.forward = convolution<T>(call),
          .dy = view(call.dy, call.batch, call.length, call.channels),
          .dx = view(call.dx, call.batch, call.length, call.channels),
          .dkernel = floats(call.dkernel, call.channels, call.taps),
          .dskip = floats(call.dskip, call.channels)};
}

}  // namespace

template <class T>
std::size_t shift_convolution_workspace(const ShiftConvolution<T>&) {
  return 1;
}
template <class T>
void shift_convolution(const ShiftConvolution<T>& call, void*, Stream) {
  Context<Reference>& ctx = reference();
  auto a = convolution<T>(call);
  a.gate_out = view(call.gate, call.batch, call.length, call.channels);
  a.y = view(call.y, call.batch, call.length, call.channels);
  ssm::causal_convolution(ctx, a);
}
template <class T>
std::size_t shift_convolution_backward_workspace(const ShiftConvolutionBackward<T>&) {
  return 1;
}
template <class T>
void shift_convolution_backward(const ShiftConvolutionBackward<T>& call, void*, Stream) {
  Context<Reference>& ctx = reference();
  auto g = convolution_backward<T>(call);
  g.forward.gate_out = view(call.gate, call.batch, call.length, call.channels);
  g.dgate_out = view(call.dgate, call.batch, call.length, call.channels);
  ssm::causal_convolution_backward(ctx, g);
}

template <class T>
std::size_t causal_convolution_workspace(const CausalConvolution<T>&) {
  return 1;
}
template <class T>
void causal_convolution(const CausalConvolution<T>& call, void*, Stream) {
  Context<Reference>& ctx = reference();
  auto a = convolution<T>(call);
  a.gate_in = view(call.gate_in, call.batch, call.length, call.channels);
  a.gate_out = view(call.gate_out, call.batch, call.length, call.channels);
  a.y = view(call.y, call.batch, call.length, call.channels);
  ssm::causal_convolution(ctx, a);
}
template <class T>
std::size_t causal_convolution_backward_workspace(const CausalConvolutionBackward<T>&) {
  return 1;
}
template <class T>
void causal_convolution_backward(const CausalConvolutionBackward<T>& call, void*, Stream) {
  Context<Reference>& ctx = reference();
  auto g = convolution_backward<T>(call);
  g.forward.gate_in = view(call.gate_in, call.batch, call.length, call.channels);
  g.forward.gate_out = view(call.gate_out, call.batch, call.length, call.channels);
  g.dgate_in = view(call.dgate_in, call.batch, call.length, call.channels);
  g.dgate_out = view(call.dgate_out, call.batch, call.length, call.channels);
  ssm::causal_convolution_backward(ctx, g);
}

namespace {

/// The call as the reference takes it: a shift whose B is one at lag 0 has C for its taps.
template <class T>
struct Mixer {
  using Frame = Workspace<HostSpace>::Frame;
  Mixer(const H3Mixer<T>& of, Frame& frame)
      : call(of),
        shift_B(frame.tensor<float>(Index{of.channels}, Index{of.tap_count})),
        zeros(frame.tensor<float>(Index{of.channels})) {
    for (Index d = 0; d < of.channels; ++d) {
      zeros(d) = 0;
      for (Index lag = 0; lag < of.tap_count; ++lag) shift_B(d, lag) = lag == 0 ? 1 : 0;
    }
    operands = {.q = sequence(of.q),
                .k = sequence(of.k),
                .v = sequence(of.v),
                .shift_B = shift_B,
                .shift_C = floats(of.taps, of.channels, of.tap_count),
                .shift_skip = skip(of.shift_skip),
                .dt = floats(of.diagonal.dt, of.channels),
                .A = numbers(of.diagonal.a, of.channels, of.modes),
                .B = numbers(of.diagonal.b, of.channels, of.modes),
                .C = numbers(of.diagonal.c, of.channels, of.modes),
                .skip = skip(of.diagonal.skip),
                .discretization = of.diagonal.discretization};
  }
  Mixer(const Mixer&) = delete;
  template <class E>
  View<E, 3> sequence(const Sequences<E>& x) const {
    return view(x, call.batch, call.length, call.channels);
  }
  /// A skip that is left out, as zeros.
  View<const float, 1> skip(const float* given) const {
    if (given != nullptr) return floats(given, call.channels);
    return zeros;
  }
  const H3Mixer<T>& call;
  View<float, 2> shift_B;
  View<float, 1> zeros;
  ssm::H3Mixer<T, HostSpace> operands;
};

}  // namespace

template <class T>
std::size_t h3_mixer_workspace(const H3Mixer<T>&) {
  return 1;
}
template <class T>
void h3_mixer(const H3Mixer<T>& call, void*, Stream) {
  Context<Reference>& ctx = reference();
  auto frame = ctx.workspace().frame();
  Mixer<T> mixer(call, frame);
  mixer.operands.y = mixer.sequence(call.y);
  ssm::h3_mixer(ctx, mixer.operands);
}
template <class T>
std::size_t h3_mixer_backward_workspace(const H3MixerBackward<T>&) {
  return 1;
}
template <class T>
void h3_mixer_backward(const H3MixerBackward<T>& call, void*, Stream) {
  Context<Reference>& ctx = reference();
  auto frame = ctx.workspace().frame();
  const Mixer<T> mixer(call.forward, frame);
  const int channels = call.forward.channels, modes = call.forward.modes;
  const View<float, 2> dshift_B = frame.tensor<float>(mixer.shift_B.extents());
  const View<float, 1> unwanted = frame.tensor<float>(Index{channels});
  const auto skip = [&](float* given) {
    return given != nullptr ? floats(given, channels) : unwanted;
  };
  ssm::h3_mixer_backward(ctx, ssm::H3MixerBackward<T, HostSpace>{
                                  .forward = mixer.operands,
                                  .dy = mixer.sequence(call.dy),
                                  .dq = mixer.sequence(call.dq),
                                  .dk = mixer.sequence(call.dk),
                                  .dv = mixer.sequence(call.dv),
                                  .dshift_B = dshift_B,
                                  .dshift_C = floats(call.dtaps, channels, call.forward.tap_count),
                                  .dshift_skip = skip(call.dshift_skip),
                                  .ddt = floats(call.ddt, channels),
                                  .dA = numbers(call.da, channels, modes),
                                  .dB = numbers(call.db, channels, modes),
                                  .dC = numbers(call.dc, channels, modes),
                                  .dskip = skip(call.dskip)});
}

namespace {

/// The same operands where the host reads them.
template <template <class, class> class Operands, class T>
Operands<T, HostSpace> on_host(const Operands<T, CudaSpace>& a) {
  return std::bit_cast<Operands<T, HostSpace>>(a);
}

}  // namespace

std::size_t batched_h3_workspace(const ssm::H3Mixer<BFloat16, CudaSpace>&) { return 1; }
std::size_t batched_h3_workspace(const ssm::H3MixerBackward<BFloat16, CudaSpace>&) { return 1; }
Index batched_h3_tape(const ssm::H3Mixer<BFloat16, CudaSpace>&) { return 1; }
void batched_h3_mixer(const ssm::H3Mixer<BFloat16, CudaSpace>& a, void*, Stream) {
  auto call = on_host(a);
  call.tape = {};
  ssm::h3_mixer(reference(), call);
}
void batched_h3_mixer_backward(const ssm::H3MixerBackward<BFloat16, CudaSpace>& g, void*, Stream) {
  auto call = on_host(g);
  call.tape = {};
  ssm::h3_mixer_backward(reference(), call);
}

namespace {

template <class V>
View<typename V::Element, V::rank()> host_view(const V& view) {
  return std::bit_cast<View<typename V::Element, V::rank()>>(view);
}
/// Σ_i x[b,t,i]·y[b,s,i] over the channels of head h.
float head_product(const View<const BFloat16, 3, CudaSpace>& x, Index t,
                   const View<const BFloat16, 3, CudaSpace>& y, Index s, Index b, Index h,
                   Index width) {
  float sum = 0;
  for (Index i = h * width; i < (h + 1) * width; ++i)
    sum += static_cast<float>(host_view(x)(b, t, i)) * static_cast<float>(host_view(y)(b, s, i));
  return sum;
}

}  // namespace

void h3_pairs(const H3Pairs& call, Stream) {
  const auto kernel = host_view(call.kernel);
  const auto skip = host_view(call.skip);
  const auto c = host_view(call.c);
  const auto y = host_view(call.y);
  const Index heads = kernel.extent(0), length = y.extent(1), width = y.extent(2) / heads;
  for (Index b = 0; b < y.extent(0); ++b)
    for (Index t = 0; t < length; ++t)
      for (Index channel = 0; channel < y.extent(2); ++channel) {
        const Index h = channel / width;
        float sum = 0;
        for (Index s = call.backwards ? t : 0; s < (call.backwards ? length : t + 1); ++s)
          sum += (kernel(h, t < s ? s - t : t - s) + (s == t ? skip(h) : 0.0f)) *
                 head_product(call.a, t, call.b, s, b, h, width) *
                 static_cast<float>(c(b, s, channel));
        y(b, t, channel) = BFloat16(sum);
      }
}
void h3_pair_kernel_gradient(const H3PairKernelGradient& call, float*, Stream) {
  const auto dkernel = host_view(call.dkernel);
  const Index heads = dkernel.extent(0), length = call.q.extent(1);
  const Index width = call.q.extent(2) / heads;
  for (Index h = 0; h < heads; ++h)
    for (Index lag = 0; lag < length; ++lag) {
      double sum = 0;
      for (Index b = 0; b < call.q.extent(0); ++b)
        for (Index s = 0; s + lag < length; ++s)
          sum += static_cast<double>(head_product(call.q, s + lag, call.k, s, b, h, width) *
                                     head_product(call.dy, s + lag, call.v, s, b, h, width));
      dkernel(h, lag) = static_cast<float>(sum);
      if (lag == 0) host_view(call.dskip)(h) += static_cast<float>(sum);
    }
}

template <class T>
void tiled_decayed_attention(const ssm::DecayedAttention<T, CudaSpace>& a, DeviceSegments,
                             const DecayedSizes&, float*, Stream) {
  ssm::decayed_attention(reference(), on_host(a));
}
template <class T>
void tiled_decayed_attention_backward(const ssm::DecayedAttentionBackward<T, CudaSpace>& g,
                                      DeviceSegments, const DecayedSizes&, float*, Stream) {
  ssm::decayed_attention_backward(reference(), on_host(g));
}
template <class T>
void tiled_ssd_scan(const ssm::SsdScan<T, CudaSpace>& a, DeviceSegments, const DecayedSizes&,
                    float*, Stream) {
  ssm::ssd_scan(reference(), on_host(a));
}
template <class T>
void tiled_ssd_scan_backward(const ssm::SsdScanBackward<T, CudaSpace>& g, DeviceSegments,
                             const DecayedSizes&, float*, Stream) {
  ssm::ssd_scan_backward(reference(), on_host(g));
}

#define SSM_INSTANTIATE(T)                                                                       \
  template void tiled_decayed_attention<T>(const ssm::DecayedAttention<T, CudaSpace>&,           \
                                           DeviceSegments, const DecayedSizes&, float*, Stream); \
  template void tiled_decayed_attention_backward<T>(                                             \
      const ssm::DecayedAttentionBackward<T, CudaSpace>&, DeviceSegments, const DecayedSizes&,   \
      float*, Stream);                                                                           \
  template void tiled_ssd_scan<T>(const ssm::SsdScan<T, CudaSpace>&, DeviceSegments,             \
                                  const DecayedSizes&, float*, Stream);                          \
  template void tiled_ssd_scan_backward<T>(const ssm::SsdScanBackward<T, CudaSpace>&,            \
                                           DeviceSegments, const DecayedSizes&, float*, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

#define SSM_INSTANTIATE(T)                                                                        \
  template std::size_t diagonal_scan_workspace<T>(const DiagonalScanShape&);                      \
  template std::size_t diagonal_scan_checkpoint_count<T>(const DiagonalScanShape&);               \
  template void diagonal_scan<T>(const DiagonalScan<T>&, void*, Stream);                          \
  template std::size_t diagonal_scan_backward_workspace<T>(const DiagonalScanBackward<T>&);       \
  template void diagonal_scan_backward<T>(const DiagonalScanBackward<T>&, void*, Stream);         \
  template std::size_t shift_convolution_workspace<T>(const ShiftConvolution<T>&);                \
  template void shift_convolution<T>(const ShiftConvolution<T>&, void*, Stream);                  \
  template std::size_t shift_convolution_backward_workspace<T>(                                   \
      const ShiftConvolutionBackward<T>&);                                                        \
  template void shift_convolution_backward<T>(const ShiftConvolutionBackward<T>&, void*, Stream); \
  template std::size_t causal_convolution_workspace<T>(const CausalConvolution<T>&);              \
  template void causal_convolution<T>(const CausalConvolution<T>&, void*, Stream);                \
  template std::size_t causal_convolution_backward_workspace<T>(                                  \
      const CausalConvolutionBackward<T>&);                                                       \
  template void causal_convolution_backward<T>(const CausalConvolutionBackward<T>&, void*,        \
                                               Stream);                                           \
  template std::size_t h3_mixer_workspace<T>(const H3Mixer<T>&);                                  \
  template void h3_mixer<T>(const H3Mixer<T>&, void*, Stream);                                    \
  template std::size_t h3_mixer_backward_workspace<T>(const H3MixerBackward<T>&);                 \
  template void h3_mixer_backward<T>(const H3MixerBackward<T>&, void*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

template <class T>
void tiled_attention(const ssm::Attention<T, CudaSpace>& a, DeviceSegments, const std::int64_t*,
                     float*, Stream) {
  ssm::attention(reference(), std::bit_cast<ssm::Attention<T, HostSpace>>(a));
}
template <class T>
void tiled_attention_backward(const ssm::AttentionBackward<T, CudaSpace>& g, DeviceSegments,
                              const std::int64_t*, float*, Stream) {
  ssm::attention_backward(reference(), std::bit_cast<ssm::AttentionBackward<T, HostSpace>>(g));
}

#define SSM_INSTANTIATE(T)                                                               \
  template void tiled_attention<T>(const ssm::Attention<T, CudaSpace>&, DeviceSegments,  \
                                   const std::int64_t*, float*, Stream);                 \
  template void tiled_attention_backward<T>(const ssm::AttentionBackward<T, CudaSpace>&, \
                                            DeviceSegments, const std::int64_t*, float*, Stream);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
