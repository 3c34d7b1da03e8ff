// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/core/workspace.hpp"
#include "ssm/op/attention.hpp"

namespace ssm::cpu {

/// Rotary: the angles of a position are shared by batch and heads. Within a run of positions each
/// one follows from the one before by a rotation in double precision.
template <class T>
class RotaryRotation {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::Rotary<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    const Index half = a.dimension / 2;
    auto frame = ctx.workspace().frame();
    const auto turns = frame.template tensor<double>(threads, 4, std::max<Index>(1, half));
    const Index length = a.x.extent(1);
    parallel(threads, (length + positions - 1) / positions, 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i)
        for_each_sequence(a.x.extent(0), length, a.segments, [&](Sequence s) {
          const Index begin = std::max(s.begin, i * positions);
          const Index end = std::min(s.end, (i + 1) * positions);
          if (begin < end) run_positions(a, s, begin, end, &turns(worker, 0, 0));
        });
    });
  }

 private:
  static constexpr Index positions = 64;

  static void run_positions(const ssm::Rotary<T, HostSpace>& a, Sequence s, Index begin, Index end,
                            double* turns) {
    const Index half = a.dimension / 2;
    double *cosine = turns, *sine = turns + half, *step_cosine = sine + half,
           *step_sine = step_cosine + half;
    const Index first = first_position(a, s) + begin - s.begin;
    for (Index j = 0; j < half; ++j) {
      const double step = a.direction * std::pow(a.base, -2.0 * static_cast<double>(j) /
                                                             static_cast<double>(a.dimension));
      cosine[j] = std::cos(static_cast<double>(first) * step);
      sine[j] = std::sin(static_cast<double>(first) * step);
      step_cosine[j] = std::cos(step);
      step_sine[j] = std::sin(step);
    }
    for (Index t = begin; t < end; ++t) {
      for (Index h = 0; h < a.x.extent(2); ++h) rotate(a, s.batch, t, h, cosine, sine);
      for (Index j = 0; j < half; ++j) {
        const double next = cosine[j] * step_cosine[j] - sine[j] * step_sine[j];
        sine[j] = sine[j] * step_cosine[j] + cosine[j] * step_sine[j];
        cosine[j] = next;
      }
    }
  }

  static void rotate(const ssm::Rotary<T, HostSpace>& a, Index b, Index t, Index h,
                     const double* cosine, const double* sine) {
    const Index half = a.dimension / 2;
    for (Index j = 0; j < half; ++j) {
      const T first = a.x(b, t, h, j);
      const T second = a.x(b, t, h, j + half);
      const T c = static_cast<T>(cosine[j]);
      const T s = static_cast<T>(sine[j]);
      a.y(b, t, h, j) = first * c - second * s;
      a.y(b, t, h, j + half) = second * c + first * s;
    }
    for (Index j = a.dimension; j < a.x.extent(3); ++j) a.y(b, t, h, j) = a.x(b, t, h, j);
  }
};

}  // namespace ssm::cpu
