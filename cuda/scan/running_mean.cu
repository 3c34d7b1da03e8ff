// SPDX-License-Identifier: Apache-2.0
#include "kernel/packing.cuh"
#include "ssm/backend/cuda/running_mean.hpp"

namespace ssm::cuda {

template <class T>
void running_mean(const ssm::RunningMean<T, CudaSpace>& a, DeviceSegments segments, Stream stream) {
  const auto x = device::operand(a.x);
  const auto y = device::operand(a.y);
  const auto initial_sum = device::operand(a.initial_sum);
  const auto position = device::operand(a.position);
  const auto final_sum = device::operand(a.final_sum);
  const device::Packing packing(segments, a.x.extent(0), a.x.extent(1));
  const Index channels = a.x.extent(2);
  device::for_each_index(packing.sequences * channels, stream, "running_mean",
                         [=] SSM_DEVICE(Index i) {
                           const Sequence s = packing.sequence(i / channels);
                           const Index d = i % channels;
                           double sum = initial_sum ? initial_sum(s.row, d) : T{0};
                           std::int64_t count = position ? position(s.row) : 0;
                           for (Index t = s.begin; t < s.end; ++t) {
                             sum += x(s.batch, t, d);
                             y(s.batch, t, d) = static_cast<T>(sum / static_cast<double>(++count));
                           }
                           if (final_sum) final_sum(s.row, d) = static_cast<T>(sum);
                         });
}

template <class T>
void running_mean_backward(const ssm::RunningMeanBackward<T, CudaSpace>& g, DeviceSegments segments,
                           Stream stream) {
  const auto dy = device::operand(g.dy);
  const auto dx = device::operand(g.dx);
  const auto dfinal_sum = device::operand(g.dfinal_sum);
  const auto position = device::operand(g.position);
  const auto dinitial_sum = device::operand(g.dinitial_sum);
  const device::Packing packing(segments, g.dy.extent(0), g.dy.extent(1));
  const Index channels = g.dy.extent(2);
  device::for_each_index(
      packing.sequences * channels, stream, "running_mean_backward", [=] SSM_DEVICE(Index i) {
        const Sequence s = packing.sequence(i / channels);
        const Index d = i % channels;
        double dsum = dfinal_sum ? dfinal_sum(s.row, d) : T{0};
        std::int64_t count = (position ? position(s.row) : 0) + (s.end - s.begin);
        for (Index t = s.end; t-- > s.begin; --count) {
          dsum += dy(s.batch, t, d) / static_cast<double>(count);
          if (dx) dx(s.batch, t, d) = static_cast<T>(dsum);
        }
        if (dinitial_sum) dinitial_sum(s.row, d) = static_cast<T>(dsum);
      });
}

#define SSM_INSTANTIATE(T)                                                          \
  template SSM_CUDA_API void running_mean<T>(const ssm::RunningMean<T, CudaSpace>&, \
                                             DeviceSegments, Stream);               \
  template SSM_CUDA_API void running_mean_backward<T>(                              \
      const ssm::RunningMeanBackward<T, CudaSpace>&, DeviceSegments, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
