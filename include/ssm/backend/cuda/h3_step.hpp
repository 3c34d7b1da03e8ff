// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/h3_step.hpp"

namespace ssm::cuda {

/// The most taps of the shift and modes of the diagonal SSM that h3_step takes.
inline constexpr Index h3_step_taps = 64;
inline constexpr Index h3_step_modes = 32;

/// The compiled half; formula and shapes as ssm::H3Step, one channel a head, complex modes. T:
/// float, double, half types, sequences of which are read and written as they are.
/// Cost    one launch; the states are read and written once, the parameters read once for several
///         sequences where there are many
template <class T>
SSM_CUDA_API void h3_step(const ssm::H3Step<T, CudaSpace>& a, Stream stream);

namespace primitive {
struct H3Step {
  template <class T, class Space>
  static bool can_h3_step(const ssm::H3Step<T, Space>& a) {
    return a.log_dt.extent(0) == a.mixer.q.extent(2) && a.mixer.B.extent(2) == 2 &&
           a.mixer.B.extent(1) <= h3_step_modes && a.mixer.shift_B.extent(1) <= h3_step_taps;
  }
  template <class Ctx, DeviceNumber T>
  static void h3_step(Ctx& ctx, const ssm::H3Step<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::h3_step(on_device(a), stream); });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
