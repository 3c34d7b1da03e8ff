// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>

#include "ssm/backend/cuda/matmul_one_row.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/h3_step.hpp"

namespace ssm::cuda {

/// The most taps of the shift and modes of the diagonal SSM that h3_step takes.
inline constexpr Index h3_step_taps = 64;
inline constexpr Index h3_step_modes = 32;

/// The compiled half; formula and shapes as ssm::H3Step, one channel a head, complex modes,
/// contiguous operands; rows of q, k and v may lie apart, equally far in all three. T: float,
/// double, half types, sequences of which are read and written as they are.
/// Cost    one launch; the states are read and written once, the parameters read once for several
///         sequences where there are many
template <class T>
SSM_CUDA_API void h3_step(const ssm::H3Step<T, CudaSpace>& a, Stream stream);

/// h3_step of one sequence whose q, k and v are `projections` of one row as matmul_one_row makes
/// them, in one kernel: they are not stored. T: float, half types.
/// parameters_stay   as weights_stay of matmul_one_row, and no less of the step's parameters
template <class T>
SSM_CUDA_API void h3_projected_step(const ssm::Normalization<T, CudaSpace>* norm,
                                    std::span<const ssm::Matmul<T, CudaSpace>> projections,
                                    const ssm::H3Step<T, CudaSpace>& a, bool parameters_stay,
                                    Stream stream);
inline constexpr Index h3_projected_depth = 768;

namespace primitive {
struct H3Step {
  template <class T, class Space>
  static bool can_h3_step(const ssm::H3Step<T, Space>& a) {
    const auto& m = a.mixer;
    const auto are_plain = [](const auto&... x) { return ((!x || x.is_contiguous()) && ...); };
    const auto are_pairs = [](const auto&... x) {  // complex numbers in one load
      return (... && (reinterpret_cast<std::uintptr_t>(x.data()) % (2 * sizeof(*x.data())) == 0));
    };
    const auto has_rows = [&](const auto& x) {
      return (x.extent(2) == 1 || x.stride(2) == 1) && x.stride(0) == m.q.stride(0) &&
             x.stride(0) >= x.extent(2) && x.stride(0) <= 3 * x.extent(2);
    };
    constexpr Index most = std::numeric_limits<int>::max();
    return a.log_dt.extent(0) == m.q.extent(2) && m.B.extent(2) == 2 &&
           m.B.extent(1) <= h3_step_modes && m.shift_B.extent(1) <= h3_step_taps &&
           m.q.size() < most / (2 * h3_step_taps) &&
           (are_plain(m.q, m.k, m.v) || (has_rows(m.q) && has_rows(m.k) && has_rows(m.v))) &&
           are_plain(a.log_dt, a.inv_A_real, a.A_imag, m.shift_B, m.shift_C, m.shift_skip, m.B, m.C,
                     m.skip, m.initial_shift, m.final_shift, m.initial_diagonal, m.final_diagonal,
                     m.y) &&
           are_pairs(m.B, m.C, m.initial_diagonal, m.final_diagonal);
  }
  template <class Ctx, DeviceNumber T>
  static void h3_step(Ctx& ctx, const ssm::H3Step<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::h3_step(on_device(a), stream); });
  }
  /// Whether it did: three products of one row, and nothing else.
  template <class Ctx, DeviceNumber T>
  static bool h3_projected_step(Ctx& ctx, const ssm::Normalization<T, typename Ctx::Space>* norm,
                                std::span<const ssm::Matmul<T, typename Ctx::Space>> projections,
                                const ssm::H3Step<T, typename Ctx::Space>& a) {
    bool is_done = false;
    if constexpr (!std::is_same_v<T, double>) {
      std::optional<ssm::Normalization<T, CudaSpace>> first;
      if (norm != nullptr) first = on_device(*norm);
      if (projections.size() != 3 || (first && !normalizes_one_row(*first))) return false;
      for_each_on_device<3>(projections, [&](auto products) {
        is_done = have_few_rows<T>(products) && has_one_row<T>(products) &&
                  products[0].a.extent(1) <= h3_projected_depth &&
                  std::all_of(products.begin(), products.end(), is_plain<T>);
        if (is_done)
          queue(ctx, [&](Stream stream) {
            cuda::h3_projected_step<T>(first ? &*first : nullptr, products, on_device(a),
                                       weights_stay<T>(ctx, products), stream);
          });
      });
    }
    return is_done;
  }

 private:
  template <class T>
  static bool is_plain(const ssm::Matmul<T, CudaSpace>& product) {
    return product.activation == ActivationKind::none && !product.accumulate && !product.z &&
           !product.residual;
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
