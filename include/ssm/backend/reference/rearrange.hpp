// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/convert.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm::reference {

/// Rearrange, Convert, Add and Fill, one element at a time.
struct Rearrange {
  template <class Ctx, class T>
  static void rearrange(Ctx&, const ssm::Rearrange<T, typename Ctx::Space>& a) {
    for (Index i = 0; i < a.x.extent(0); ++i)
      for (Index j = 0; j < a.x.extent(1); ++j)
        for (Index k = 0; k < a.x.extent(2); ++k) a.y(i, j, k) = a.x(i, j, k);
  }

  template <class Ctx, class From, class To>
  static void convert(Ctx&, const ssm::Convert<From, To, typename Ctx::Space>& a) {
    for (Index i = 0; i < a.x.extent(0); ++i)
      for (Index j = 0; j < a.x.extent(1); ++j)
        for (Index k = 0; k < a.x.extent(2); ++k) a.y(i, j, k) = scalar_cast<To>(a.x(i, j, k));
  }

  template <class Ctx, Real T>
  static void add(Ctx&, const ssm::Add<T, typename Ctx::Space>& a) {
    for (Index i = 0; i < a.a.extent(0); ++i) {
      const double b = a.b ? a.b_scale * a.b(i) : 0.0;
      a.y(i) = static_cast<T>(a.a_scale * a.a(i) + b);
    }
  }

  template <class Ctx, class T>
  static void fill(Ctx&, const ssm::Fill<T, typename Ctx::Space>& a) {
    for (Index i = 0; i < a.y.extent(0); ++i) a.y(i) = scalar_cast<T>(a.value);
  }
};

}  // namespace ssm::reference
