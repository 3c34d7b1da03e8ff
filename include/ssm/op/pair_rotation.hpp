// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

/// Rotates neighboring pairs of channels by an angle that grows with the position, in retention's
/// spacing of angles.
///   (x[2i], x[2i+1]) → scale · rotation by direction · n · base^(−i/(K/2−1)),  i < K/2
/// with n the absolute position: position[s] + the row's place in its sequence. The exponent is 0
/// where K = 2.
/// x, y        [B, L, H, K]   K even; y overwritten, may be the same memory as x
/// position    [S]            optional: absolute position of each sequence's first row, zero if
///                            left out
/// direction   +1, or −1 for the gradient
/// Throws  ShapeError
/// Source  Sun et al. 2023 (RetNet) §2.1; torchscale, theta_shift
template <class T, class Space>
struct PairRotation {
  double base = 10000;
  double scale = 1;
  int direction = 1;
  View<const std::int64_t, 1, Space> position{};
  Segments segments{};
  View<const T, 4, Space> x{};
  View<T, 4, Space> y{};

  static constexpr const char* name = "pair_rotation";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("x", "BLHK"), &PairRotation::x, nullptr);
    visit(input("position", "S").optional(), &PairRotation::position, nullptr);
    visit(output("y", "BLHK"), &PairRotation::y, nullptr);
  }
  void require_rest(const ExtentsByLetter& n) const {
    if (n['K'] % 2 != 0) n.refuse("x", message({"has ", n['K'], " channels, not pairs"}));
  }
};

/// Moves every sequence's position past its rows: y[s] = position[s] + length of sequence s.
/// position   [S]   optional, zero if left out
/// y          [S]   overwritten; may be the same memory as position
/// Throws  ShapeError
template <class Space>
struct AdvancePosition {
  Index length = 0;  // rows of every sequence, without segments
  Segments segments{};
  View<const std::int64_t, 1, Space> position{};
  View<std::int64_t, 1, Space> y{};

  static constexpr const char* name = "advance_position";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("position", "S").optional(), &AdvancePosition::position, nullptr);
    visit(output("y", "S"), &AdvancePosition::y, nullptr);
  }
  void require_rest(const ExtentsByLetter& n) const {
    if (!segments.empty() && sequence_count(1, segments) != n['S'])
      n.refuse("y",
               message({"has ", n['S'], " rows for ", sequence_count(1, segments), " segments"}));
  }
};

/// Backends that have the primitive PairRotation.
template <class B, class T = float>
concept HasPairRotation = requires(Context<B>& ctx,
                                   const PairRotation<Wide<T>, typename B::Space>& a,
                                   const AdvancePosition<typename B::Space>& p) {
  B::pair_rotation(ctx, a);
  B::advance_position(ctx, p);
};

/// Computes PairRotation, whose docstring says the rest.
template <class B, class T>
  requires HasPairRotation<B, T>
void pair_rotation(Context<B>& ctx, const PairRotation<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::pair_rotation(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::pair_rotation(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { pair_rotation(ctx, wide); });
  }
}

template <HasPairRotation B>
void advance_position(Context<B>& ctx, const AdvancePosition<typename B::Space>& a) {
  require_operands(a);
  if (detail::runs_across_ranks(ctx, a, a.name)) return;
  B::advance_position(ctx, a);
}

}  // namespace ssm
