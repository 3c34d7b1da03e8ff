// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fftw3.h>

#include <mutex>
#include <type_traits>

#include "ssm/backend/cpu/fft_rows.hpp"
#include "ssm/core/error.hpp"
#include "ssm/core/memory_space.hpp"

namespace ssm::cpu {

/// Complex FFTs by FFTW, in double and single precision. `Planning` is FFTW's: FFTW_ESTIMATE plans
/// at once and always alike; FFTW_MEASURE and FFTW_PATIENT take up to seconds a length, and what
/// they choose, and with it the last bits of every result, depends on the moment.
template <class T, unsigned Planning>
class FftwRows {
 public:
  FftwRows(Index length, int) {
    auto* row = static_cast<Number*>(
        HostSpace::allocate(static_cast<std::size_t>(length) * sizeof(Number)));
    const auto n = static_cast<int>(length);
    {
      const std::lock_guard lock(planner());
      if constexpr (is_double) {
        forward_ = fftw_plan_dft_1d(n, row, row, FFTW_FORWARD, Planning);
        inverse_ = fftw_plan_dft_1d(n, row, row, FFTW_BACKWARD, Planning);
      } else {
        forward_ = fftwf_plan_dft_1d(n, row, row, FFTW_FORWARD, Planning);
        inverse_ = fftwf_plan_dft_1d(n, row, row, FFTW_BACKWARD, Planning);
      }
    }
    HostSpace::deallocate(row);
    if (forward_ != nullptr && inverse_ != nullptr) return;
    destroy();
    throw BackendError("FFTW", "plan_dft_1d", static_cast<long>(length));
  }
  FftwRows(const FftwRows&) = delete;
  FftwRows& operator=(const FftwRows&) = delete;
  ~FftwRows() { destroy(); }

  void forward(T* row, int) const { execute(forward_, row); }
  void inverse(T* row, int) const { execute(inverse_, row); }

 private:
  static constexpr bool is_double = std::is_same_v<T, double>;
  using Number = std::conditional_t<is_double, fftw_complex, fftwf_complex>;
  using Handle = std::conditional_t<is_double, fftw_plan, fftwf_plan>;

  static void execute(Handle plan, T* row) {
    auto* z = reinterpret_cast<Number*>(row);
    if constexpr (is_double)
      fftw_execute_dft(plan, z, z);
    else
      fftwf_execute_dft(plan, z, z);
  }
  static std::mutex& planner() {  // FFTW's planner is one for the whole process
    static std::mutex mutex;
    return mutex;
  }
  void destroy() {
    const std::lock_guard lock(planner());
    for (Handle plan : {forward_, inverse_}) {
      if (plan == nullptr) continue;
      if constexpr (is_double)
        fftw_destroy_plan(plan);
      else
        fftwf_destroy_plan(plan);
    }
  }
  Handle forward_ = nullptr;
  Handle inverse_ = nullptr;
};

/// FFTW as a policy: ssm::cpu::CausalConvolution<Arch, ssm::cpu::FftwFft>.
template <unsigned Planning>
struct PlannedFftw {
  template <class T, class Arch>
  using Plan = RowPlan<T, Arch, FftwRows<T, Planning>>;
};
using FftwFft = PlannedFftw<FFTW_ESTIMATE>;

}  // namespace ssm::cpu
