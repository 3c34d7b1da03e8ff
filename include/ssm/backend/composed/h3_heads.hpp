// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/h3_mixer.hpp"

namespace ssm::composed {

/// Where the entries of a head are: channel h·width + i of q, k, v, and (i·width + j)·count + h of
/// the outer product.
struct H3Heads {
  template <class T, class Space>
  explicit H3Heads(const ssm::H3Mixer<T, Space>& a)
      : count(a.dt.extent(0)), width(a.q.extent(2) / count) {}
  constexpr Index channel(Index h, Index i) const { return h * width + i; }
  constexpr Index product(Index h, Index i, Index j) const { return (i * width + j) * count + h; }
  Index products() const { return width * width * count; }

  Index count;
  Index width;
};

/// products[i,j,h] = k[h·width+i]·v[h·width+j]
/// k, v       [B, L, D]
/// products   [B, L, width²·H]   overwritten
template <class T, class Space>
struct H3OuterProduct {
  H3Heads heads;
  View<const T, 3, Space> k{};
  View<const T, 3, Space> v{};
  View<T, 3, Space> products{};
};
/// dk, dv   [B, L, D]   overwritten
template <class T, class Space>
struct H3OuterProductBackward {
  H3OuterProduct<T, Space> forward;  // products are not read
  View<const T, 3, Space> dproducts{};
  View<T, 3, Space> dk{};
  View<T, 3, Space> dv{};
};

/// y[h·width+j] = Σ_i q[h·width+i]·sums[i,j,h]
/// q, y   [B, L, D]            y overwritten
/// sums   [B, L, width²·H]
template <class T, class Space>
struct H3Contraction {
  H3Heads heads;
  View<const T, 3, Space> q{};
  View<const T, 3, Space> sums{};
  View<T, 3, Space> y{};
};
/// dq      [B, L, D]            overwritten
/// dsums   [B, L, width²·H]     overwritten; may be the same memory as sums
template <class T, class Space>
struct H3ContractionBackward {
  H3Contraction<T, Space> forward;  // y is not read
  View<const T, 3, Space> dy{};
  View<T, 3, Space> dq{};
  View<T, 3, Space> dsums{};
};

/// These four on memory that the host reads, and the layout of what lies between the steps of the
/// mixer. A backend whose memory the host cannot read brings its own.
struct HostProducts {
  template <class T, class Frame>
  static auto sequences(Frame& frame, Index batch, Index length, Index channels) {
    return frame.template tensor<T>(batch, length, channels);
  }

  template <class Ctx, class T, class Space>
  static void outer_product(Ctx&, const H3OuterProduct<T, Space>& a) {
    for_each_product(a.heads, a.k, [&](Index b, Index t, Index h, Index i, Index j) {
      a.products(b, t, a.heads.product(h, i, j)) =
          a.k(b, t, a.heads.channel(h, i)) * a.v(b, t, a.heads.channel(h, j));
    });
  }

  template <class Ctx, class T, class Space>
  static void outer_product_backward(Ctx&, const H3OuterProductBackward<T, Space>& g) {
    const auto& a = g.forward;
    fill_zero(g.dk);
    fill_zero(g.dv);
    for_each_product(a.heads, a.k, [&](Index b, Index t, Index h, Index i, Index j) {
      const T dproduct = g.dproducts(b, t, a.heads.product(h, i, j));
      g.dk(b, t, a.heads.channel(h, i)) += dproduct * a.v(b, t, a.heads.channel(h, j));
      g.dv(b, t, a.heads.channel(h, j)) += dproduct * a.k(b, t, a.heads.channel(h, i));
    });
  }

  template <class Ctx, class T, class Space>
  static void contract(Ctx&, const H3Contraction<T, Space>& a) {
    fill_zero(a.y);
    for_each_product(a.heads, a.q, [&](Index b, Index t, Index h, Index i, Index j) {
      a.y(b, t, a.heads.channel(h, j)) +=
          a.q(b, t, a.heads.channel(h, i)) * a.sums(b, t, a.heads.product(h, i, j));
    });
  }

  template <class Ctx, class T, class Space>
  static void contract_backward(Ctx&, const H3ContractionBackward<T, Space>& g) {
    const auto& a = g.forward;
    fill_zero(g.dq);
    for_each_product(a.heads, a.q, [&](Index b, Index t, Index h, Index i, Index j) {
      const T sum = a.sums(b, t, a.heads.product(h, i, j));
      const T dy = g.dy(b, t, a.heads.channel(h, j));
      g.dq(b, t, a.heads.channel(h, i)) += dy * sum;
      g.dsums(b, t, a.heads.product(h, i, j)) = dy * a.q(b, t, a.heads.channel(h, i));
    });
  }

 private:
  /// Calls visit(b, t, h, i, j) for every entry of the outer product.
  template <class V, class F>
  static void for_each_product(const H3Heads& heads, const V& x, F&& visit) {
    for (Index b = 0; b < x.extent(0); ++b)
      for (Index t = 0; t < x.extent(1); ++t)
        for (Index i = 0; i < heads.width; ++i)
          for (Index j = 0; j < heads.width; ++j)
            for (Index h = 0; h < heads.count; ++h) visit(b, t, h, i, j);
  }
  template <class V>
  static void fill_zero(const V& x) {
    for (Index b = 0; b < x.extent(0); ++b)
      for (Index t = 0; t < x.extent(1); ++t)
        for (Index d = 0; d < x.extent(2); ++d) x(b, t, d) = 0;
  }
};

}  // namespace ssm::composed
