// SPDX-License-Identifier: Apache-2.0
#include "convolution/causal_convolution_backward.cuh"
#include "convolution/convolution_plan.cuh"
#include "convolution/long_convolution_backward.cuh"
#include "convolution/spectral_plan.cuh"

namespace ssm::cuda {
namespace device {

/// Whether the kernel's gradient goes by spectra in device memory, or by one kernel.
template <class Tables>
inline constexpr bool has_spectral_gradient = false;
template <class P>
inline constexpr bool has_spectral_gradient<RightAngleTables<P>> = (P::length > 16384);

template <class P>
struct ConvolutionBackwardWorkspace {
  ConvolutionBackwardWorkspace(int channels, void* base, const void* made)
      : spectra(channels, made != nullptr ? const_cast<void*>(made) : base), layout(base) {
    layout.take<char>(spectra.used());
    inputs = layout.take<char>(Spectrum<P>::bytes * channels);
  }
  KernelSpectra<P> spectra;
  WorkspaceLayout layout;
  char* inputs = nullptr;
};

/// dgate_out is the forward product with dy as its gate; dx and dgate_in are one product backwards
/// in time; dkernel is a kernel of its own.
template <class Tables>
void backward_by_tables(const CausalConvolutionBackward<BFloat16>& call, void* workspace,
                        Stream stream, const char* operation) {
  const int slice = Tables::slice(call.channels);
  const bool made = call.spectra != nullptr && call.length <= kBlockConvolutionLength;
  void* const base = made ? const_cast<void*>(call.spectra) : workspace;
  for (int first = 0; first < call.channels; first += slice) {
    const Tables tables(std::min(slice, call.channels - first), base);
    if (!made)
      tables.build({call.kernel, call.skip, call.taps}, first, call.length, stream, operation);
    const auto x = from_channel(call.x, first), gate_in = from_channel(call.gate_in, first),
               gate_out = from_channel(call.gate_out, first), dy = from_channel(call.dy, first);
    if (call.dgate_out.data != nullptr)
      tables.template run<false>(SequenceProduct{.batch = call.batch,
                                                 .length = call.length,
                                                 .x = x,
                                                 .gate_in = gate_in,
                                                 .gate_out = dy,
                                                 .y = from_channel(call.dgate_out, first)},
                                 stream, operation);
    tables.template run<true>(SequenceProduct{.batch = call.batch,
                                              .length = call.length,
                                              .x = dy,
                                              .gate_in = gate_out,
                                              .gate_out = gate_in,
                                              .second_gate = x,
                                              .y = from_channel(call.dx, first),
                                              .second = from_channel(call.dgate_in, first)},
                              stream, operation);
  }
  if constexpr (has_spectral_gradient<Tables>) {
    SpectralGradient<typename Tables::Plan>(call.batch, call.channels, workspace)
        .run(call, stream, operation);
  } else {
    const Tables tables(std::min(slice, call.channels), base);
    tables.correlate(
        KernelGradientLaunch{call.batch, call.channels, call.length, call.taps, call.x,
                             call.gate_in, call.dy, call.gate_out, call.dkernel, call.dskip},
        stream, operation);
  }
}

/// The gradient of the kernel comes after the others and takes their memory.
template <class Tables>
std::size_t workspace_by_tables(const CausalConvolutionBackward<BFloat16>& call) {
  std::size_t used = Tables(Tables::slice(call.channels), nullptr).used();
  if constexpr (has_spectral_gradient<Tables>)
    used = std::max(
        used, SpectralGradient<typename Tables::Plan>(call.batch, call.channels, nullptr).used());
  return used;
}

template <class P, class T>
void backward_by_spectra(const CausalConvolutionBackward<T>& call, void* workspace, Stream stream,
                         const char* operation) {
  const ConvolutionBackwardWorkspace<P> space(call.channels, workspace, call.spectra);
  if (call.spectra == nullptr)
    space.spectra.build(call.kernel, call.skip, call.taps, call.length, stream, operation);
  launch(convolve_backward<P, T>, dim3(call.channels), P::threads, P::bytes, stream, operation,
         ConvolutionBackwardLaunch<T>{call, space.spectra.spectrum, space.spectra.unscale,
                                      space.inputs});
}

}  // namespace device

template <class T>
std::size_t causal_convolution_backward_workspace(const CausalConvolutionBackward<T>& call) {
  using namespace device;
  if constexpr (uses_negacyclic<T>) {
    if (call.length > longest_block<T>)
      return with_row_convolution(call.length, [&](auto type) {
        return typename decltype(type)::type(call.batch, call.channels, true, nullptr).used();
      });
    return with_bf16_tables(
        call, [&](auto type) { return workspace_by_tables<typename decltype(type)::type>(call); });
  } else {
    if (call.length > longest_block<T>) return LongConvolutionBackward<T>(call, nullptr).used();
    return with_transform<T>(call.length, [&](auto plan) {
      return ConvolutionBackwardWorkspace<decltype(plan)>(call.channels, nullptr, nullptr)
          .layout.used();
    });
  }
}

template <class T>
void causal_convolution_backward(const CausalConvolutionBackward<T>& call, void* workspace,
                                 Stream stream) {
  using namespace device;
  const char* const operation = "causal_convolution_backward";
  require_sizes(call.batch, call.channels, call.length, call.taps, 1 << 20, operation);
  require(workspace != nullptr, operation, "workspace is null");
  if constexpr (uses_negacyclic<T>) {
    if (call.length > longest_block<T>)
      return with_row_convolution(call.length, [&](auto type) {
        typename decltype(type)::type(call.batch, call.channels, true, workspace)
            .run(call, stream, operation);
      });
    with_bf16_tables(call, [&](auto type) {
      backward_by_tables<typename decltype(type)::type>(call, workspace, stream, operation);
    });
  } else if (call.length > longest_block<T>) {
    LongConvolutionBackward<T>(call, workspace).run(stream, operation);
  } else {
    with_transform<T>(call.length, [&](auto plan) {
      backward_by_spectra<decltype(plan)>(call, workspace, stream, operation);
    });
  }
}

#define SSM_INSTANTIATE(T)                                                                       \
  template SSM_CUDA_API void causal_convolution_backward<T>(const CausalConvolutionBackward<T>&, \
                                                            void*, Stream);                      \
  template SSM_CUDA_API std::size_t causal_convolution_backward_workspace<T>(                    \
      const CausalConvolutionBackward<T>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
