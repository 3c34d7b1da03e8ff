// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/shift_convolution.hpp"

// What a shift convolution is beside its filter. T: float, double, half types.

namespace ssm::cuda {

/// The filter of a shift SSM: taps[d,s] = Σ_{j<N−s} B[d,j]·C[d,j+s].
template <class T>
SSM_CUDA_API void shift_taps(const ssm::ShiftConvolution<T, CudaSpace>& a,
                             const View<Wide<T>, 2, CudaSpace>& taps, Stream stream);
/// y += what the initial state says, in the first positions of each sequence.
template <class T>
SSM_CUDA_API void add_shift_initial_state(const ssm::ShiftConvolution<T, CudaSpace>& a,
                                          DeviceSegments segments, Stream stream);
/// Writes a.final_state, which may be the same memory as a.initial_state.
template <class T>
SSM_CUDA_API void shift_final_state(const ssm::ShiftConvolution<T, CudaSpace>& a,
                                    DeviceSegments segments, Stream stream);
/// Writes g.dinitial_state.
template <class T>
SSM_CUDA_API void shift_initial_gradient(const ssm::ShiftConvolutionBackward<T, CudaSpace>& g,
                                         DeviceSegments segments, Stream stream);
/// Adds to the gradients of B, C and skip: through the taps, of which `dtaps` are the gradients,
/// and through the states.
template <class T>
SSM_CUDA_API void add_shift_gradients(const ssm::ShiftConvolutionBackward<T, CudaSpace>& g,
                                      const View<const Wide<T>, 2, CudaSpace>& dtaps,
                                      DeviceSegments segments, Stream stream);

}  // namespace ssm::cuda
