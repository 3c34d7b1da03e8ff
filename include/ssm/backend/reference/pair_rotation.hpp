// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/op/pair_rotation.hpp"

namespace ssm::reference {

/// PairRotation, one pair at a time, in double precision; AdvancePosition.
struct PairRotation {
  template <class Ctx, Real T>
  static void pair_rotation(Ctx&, const ssm::PairRotation<T, typename Ctx::Space>& a) {
    const Index pairs = a.x.extent(3) / 2;
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      const std::int64_t first = a.position ? a.position(s.row) : 0;
      for (Index t = s.begin; t < s.end; ++t)
        for (Index i = 0; i < pairs; ++i) {
          const double place =
              static_cast<double>(i) / std::max(1.0, static_cast<double>(pairs - 1));
          const double angle =
              static_cast<double>(a.direction * (first + t - s.begin)) * std::pow(a.base, -place);
          rotate(a, s.batch, t, i, a.scale * std::cos(angle), a.scale * std::sin(angle));
        }
    });
  }

  template <class Ctx>
  static void advance_position(Ctx&, const ssm::AdvancePosition<typename Ctx::Space>& a) {
    for (Index row = 0; row < a.y.extent(0); ++row) {
      const Sequence s = sequence_at(row, a.length, a.segments);
      a.y(row) = (a.position ? a.position(row) : 0) + s.end - s.begin;
    }
  }

 private:
  template <class T, class Space>
  static void rotate(const ssm::PairRotation<T, Space>& a, Index b, Index t, Index i, double cosine,
                     double sine) {
    for (Index h = 0; h < a.x.extent(2); ++h) {
      const double first = a.x(b, t, h, 2 * i);
      const double second = a.x(b, t, h, 2 * i + 1);
      a.y(b, t, h, 2 * i) = static_cast<T>(first * cosine - second * sine);
      a.y(b, t, h, 2 * i + 1) = static_cast<T>(second * cosine + first * sine);
    }
  }
};

}  // namespace ssm::reference
