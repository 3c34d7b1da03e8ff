// SPDX-License-Identifier: Apache-2.0
#include "causal_convolution.cuh"
#include "convolution_plan.cuh"
#include "long_convolution.cuh"

namespace ssm::cuda {

template <class T>
std::size_t causal_convolution_workspace(const CausalConvolution<T>& call) {
  if (call.length > kBlockConvolutionLength)
    return device::LongConvolution<T>(call, nullptr).used();
  return device::with_transform<T>(call.length, [&](auto plan) {
    return device::KernelSpectra<decltype(plan)>(call.channels, nullptr).used();
  });
}

template <class T>
void causal_convolution(const CausalConvolution<T>& call, void* workspace, Stream stream) {
  using namespace device;
  const char* const operation = "causal_convolution";
  require_sizes(call.batch, call.channels, call.length, call.taps, 1 << 20, operation);
  require(workspace != nullptr, operation, "workspace is null");
  if (call.length > kBlockConvolutionLength) {
    LongConvolution<T>(call, workspace).run(stream, operation);
    return;
  }
  with_transform<T>(call.length, [&](auto plan) {
    using P = decltype(plan);
    const KernelSpectra<P> spectra(call.channels, workspace);
    spectra.build(call.kernel, call.skip, call.taps, call.length, stream, operation);
    const int pairs = (call.batch + 1) / 2;
    const int wanted = 132 * 12 * 128 / P::threads / call.channels;
    launch(convolve<P, T>, dim3(call.channels, std::clamp(wanted, 1, std::min(pairs, 65535))),
           P::threads, P::bytes, stream, operation,
           ConvolutionLaunch<T>{call, spectra.spectrum, spectra.unscale});
    return 0;
  });
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void causal_convolution<T>(const CausalConvolution<T>&, void*, Stream); \
  template SSM_CUDA_API std::size_t causal_convolution_workspace<T>(const CausalConvolution<T>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(Bfloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
