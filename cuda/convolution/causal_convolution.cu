// SPDX-License-Identifier: Apache-2.0
#include "convolution/causal_convolution.cuh"
#include "convolution/convolution_plan.cuh"
#include "convolution/long_convolution.cuh"
#include "convolution/spectral_plan.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda {

template <class T>
std::size_t causal_convolution_workspace(const CausalConvolution<T>& call) {
  using namespace device;
  if constexpr (uses_negacyclic<T>) {
    if (call.length > longest_block<T>)
      return with_row_convolution(call.length, [&](auto type) {
        return typename decltype(type)::type(call.batch, call.channels, false, nullptr).used();
      });
    return with_bf16_tables(call, [&](auto type) {
      using Tables = typename decltype(type)::type;
      return Tables(Tables::slice(call.channels), nullptr).used();
    });
  } else {
    if (call.length > longest_block<T>) return LongConvolution<T>(call, nullptr).used();
    return with_transform<T>(call.length, [&](auto plan) {
      return KernelSpectra<decltype(plan)>(call.channels, nullptr).used();
    });
  }
}

namespace device {

inline SequenceProduct product_of(const CausalConvolution<BFloat16>& call) {
  return {.batch = call.batch,
          .channels = call.channels,
          .length = call.length,
          .x = call.x,
          .gate_in = call.gate_in,
          .gate_out = call.gate_out,
          .y = call.y};
}

template <class Tables>
void convolve_by_tables(const CausalConvolution<BFloat16>& call, void* workspace, Stream stream,
                        const char* operation) {
  const int slice = Tables::slice(call.channels);
  for (int first = 0; first < call.channels; first += slice) {
    const Tables tables(std::min(slice, call.channels - first), workspace);
    tables.build({call.kernel, call.skip, call.taps}, first, call.length, stream, operation);
    tables.template run<false>(from_channel(product_of(call), first), stream, operation);
  }
}

template <class P, class T>
void convolve_by_spectra(const CausalConvolution<T>& call, void* workspace, Stream stream,
                         const char* operation) {
  const KernelSpectra<P> spectra(call.channels, workspace);
  spectra.build(call.kernel, call.skip, call.taps, call.length, stream, operation);
  const int pairs = (call.batch + 1) / 2;
  const int wanted = hopper_multiprocessors * 12 * 128 / P::threads / call.channels;
  launch(convolve<P, T>, dim3(call.channels, std::clamp(wanted, 1, std::min(pairs, 65535))),
         P::threads, P::bytes, stream, operation,
         ConvolutionLaunch<T>{call, spectra.spectrum, spectra.unscale});
}

}  // namespace device

template <class T>
void causal_convolution(const CausalConvolution<T>& call, void* workspace, Stream stream) {
  using namespace device;
  const char* const operation = "causal_convolution";
  require_sizes(call.batch, call.channels, call.length, call.taps, 1 << 20, operation);
  require(workspace != nullptr, operation, "workspace is null");
  if constexpr (uses_negacyclic<T>) {
    if (call.length > longest_block<T>)
      return with_row_convolution(call.length, [&](auto type) {
        typename decltype(type)::type(call.batch, call.channels, false, workspace)
            .run(call, stream, operation);
      });
    with_bf16_tables(call, [&](auto type) {
      convolve_by_tables<typename decltype(type)::type>(call, workspace, stream, operation);
    });
  } else if (call.length > longest_block<T>) {
    LongConvolution<T>(call, workspace).run(stream, operation);
  } else {
    with_transform<T>(call.length, [&](auto plan) {
      convolve_by_spectra<decltype(plan)>(call, workspace, stream, operation);
    });
  }
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void causal_convolution<T>(const CausalConvolution<T>&, void*, Stream); \
  template SSM_CUDA_API std::size_t causal_convolution_workspace<T>(const CausalConvolution<T>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
