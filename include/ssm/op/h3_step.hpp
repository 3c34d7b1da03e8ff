// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/diagonal_parameters.hpp"
#include "ssm/op/h3_mixer.hpp"
#include "ssm/op/normalized_matmul.hpp"

namespace ssm {

/// One position of H3Mixer by the parameters that a layer keeps: in place of the dt and A of
/// `mixer` those that DiagonalParameters makes of
/// log_dt               [H]
/// inv_A_real, A_imag   [H, P]
/// Throws  ShapeError
template <class T, class Space>
struct H3Step {
  View<const Wide<T>, 1, Space> log_dt{};
  View<const Wide<T>, 2, Space> inv_A_real{};
  View<const Wide<T>, 2, Space> A_imag{};
  H3Mixer<T, Space> mixer{};
};

namespace detail {
template <class T, class Space>
void require_step(const H3Step<T, Space>& a) {
  auto mixer = a.mixer;
  mixer.dt = a.log_dt;  // as long
  mixer.A = mixer.B;
  auto extents = require_operands(mixer);
  extents.require(parameter("inv_A_real", "HP"), a.inv_A_real);
  extents.require(parameter("A_imag", "HP"), a.A_imag);
}
}  // namespace detail

/// Computes H3Step where the backend does so at once, and says whether it did: a call of one
/// position that is not packed. Else diagonal_parameters and h3_mixer do.
/// projections   the products that make q, k and v, in this order, behind `norm` as for
///               normalized_matmul; they are made here, and q, k and v may stay unwritten. None:
///               they are there
template <class B, class T>
bool h3_step(Context<B>& ctx, const H3Step<T, typename B::Space>& a,
             std::span<const Matmul<T, typename B::Space>> projections = {},
             const Normalization<T, typename B::Space>* norm = nullptr) {
  if constexpr (requires { B::h3_step(ctx, a); }) {
    const bool is_step = a.mixer.q.extent(1) == 1 && a.mixer.segments.empty();
    if (!is_step || ctx.sequence_cut() != nullptr || !B::can_h3_step(a)) return false;
    detail::require_step(a);
    if (!projections.empty()) {
      if constexpr (requires { B::h3_projected_step(ctx, norm, projections, a); }) {
        for (const auto& product : projections) require_operands(product);
        if (norm != nullptr) require_operands(*norm);
        if (B::h3_projected_step(ctx, norm, projections, a)) return true;
      }
      normalized_matmul<B, T>(ctx, norm, projections);
    }
    B::h3_step(ctx, a);
    return true;
  } else {
    return false;
  }
}

}  // namespace ssm
