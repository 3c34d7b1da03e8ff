// SPDX-License-Identifier: Apache-2.0
#include "causal_convolution_backward.cuh"
#include "convolution_plan.cuh"

namespace ssm::cuda {
namespace device {

template <class P>
struct ConvolutionBackwardWorkspace {
  ConvolutionBackwardWorkspace(int channels, void* base, const void* made)
      : spectra(channels, made != nullptr ? const_cast<void*>(made) : base), carver(base) {
    carver.take<char>(spectra.used());
    if (P::Terms == 2) inputs = carver.take<char>(Spectrum<P>::bytes * channels);
  }
  KernelSpectra<P> spectra;
  Carver carver;
  char* inputs = nullptr;
};

}  // namespace device

template <class T>
std::size_t causal_convolution_backward_workspace(const CausalConvolutionBackward<T>& call) {
  return device::with_transform<T>(call.length, [&](auto plan) {
    return device::ConvolutionBackwardWorkspace<decltype(plan)>(call.channels, nullptr, nullptr)
        .carver.used();
  });
}

template <class T>
void causal_convolution_backward(const CausalConvolutionBackward<T>& call, void* workspace,
                                 Stream stream) {
  using namespace device;
  const char* const operation = "causal_convolution_backward";
  require_sizes(call.batch, call.channels, call.length, call.taps, kBlockConvolutionLength,
                operation);
  require(workspace != nullptr, operation, "workspace is null");
  with_transform<T>(call.length, [&](auto plan) {
    using P = decltype(plan);
    const ConvolutionBackwardWorkspace<P> space(call.channels, workspace, call.spectra);
    if (call.spectra == nullptr)
      space.spectra.build(call.kernel, call.skip, call.taps, call.length, stream, operation);
    launch(convolve_backward<P, T>, dim3(call.channels), P::threads, convolution_backward_bytes<P>,
           stream, operation,
           ConvolutionBackwardLaunch<T>{call, space.spectra.spectrum, space.spectra.unscale,
                                        space.inputs});
    return 0;
  });
}

#define SSM_INSTANTIATE(T)                                                                       \
  template SSM_CUDA_API void causal_convolution_backward<T>(const CausalConvolutionBackward<T>&, \
                                                            void*, Stream);                      \
  template SSM_CUDA_API std::size_t causal_convolution_backward_workspace<T>(                    \
      const CausalConvolutionBackward<T>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(Bfloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
