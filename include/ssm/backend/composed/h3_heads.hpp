// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/h3_mixer.hpp"

namespace ssm::composed {

/// Where the entries of a head are: channel h·width + i of q, k, v, and (i·width + j)·count + h of
/// the outer product.
struct H3Heads {
  template <class T, class Space>
  explicit H3Heads(const ssm::H3Mixer<T, Space>& a)
      : batch(a.q.extent(0)),
        length(a.q.extent(1)),
        count(a.dt.extent(0)),
        width(a.q.extent(2) / count) {}
  constexpr Index channel(Index h, Index i) const { return h * width + i; }
  constexpr Index product(Index h, Index i, Index j) const { return (i * width + j) * count + h; }
  Index products() const { return width * width * count; }

  Index batch;
  Index length;
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
    multiply<T>(a.heads, {a.k, Entry::i}, {a.v, Entry::j}, {a.products, Entry::product}, false);
  }

  template <class Ctx, class T, class Space>
  static void outer_product_backward(Ctx&, const H3OuterProductBackward<T, Space>& g) {
    const auto& a = g.forward;
    fill_zero(g.dk);
    fill_zero(g.dv);
    multiply<T>(a.heads, {g.dproducts, Entry::product}, {a.v, Entry::j}, {g.dk, Entry::i}, true);
    multiply<T>(a.heads, {g.dproducts, Entry::product}, {a.k, Entry::i}, {g.dv, Entry::j}, true);
  }

  template <class Ctx, class T, class Space>
  static void contract(Ctx&, const H3Contraction<T, Space>& a) {
    fill_zero(a.y);
    multiply<T>(a.heads, {a.q, Entry::i}, {a.sums, Entry::product}, {a.y, Entry::j}, true);
  }

  template <class Ctx, class T, class Space>
  static void contract_backward(Ctx&, const H3ContractionBackward<T, Space>& g) {
    const auto& a = g.forward;
    fill_zero(g.dq);
    multiply<T>(a.heads, {g.dy, Entry::j}, {a.sums, Entry::product}, {g.dq, Entry::i}, true);
    multiply<T>(a.heads, {g.dy, Entry::j}, {a.q, Entry::i}, {g.dsums, Entry::product}, false);
  }

 private:
  /// Which element of a head: of a channel i or j, or of their product.
  enum class Entry { i, j, product };
  template <class T>
  struct Factor {
    template <class V>
    Factor(const V& view, Entry which)
        : data(view.data()), stride{view.stride(0), view.stride(1), view.stride(2)}, entry(which) {}
    /// That of the first head; further heads are `step` apart.
    T* at(const H3Heads& heads, Index b, Index t, Index i, Index j) const {
      const Index channel = entry == Entry::i   ? heads.channel(0, i)
                            : entry == Entry::j ? heads.channel(0, j)
                                                : heads.product(0, i, j);
      return data + b * stride[0] + t * stride[1] + channel * stride[2];
    }
    Index step(const H3Heads& heads) const {
      return entry == Entry::product ? stride[2] : heads.width * stride[2];
    }
    T* data;
    Index stride[3];
    Entry entry;
  };

  /// z = x·y, or z += x·y, for every i, j of every head at every position.
  template <class T>
  [[gnu::noinline]] static void multiply(const H3Heads& heads, const Factor<const T>& x,
                                         const Factor<const T>& y, const Factor<T>& z, bool add) {
    const Index x_step = x.step(heads), y_step = y.step(heads), z_step = z.step(heads);
    for (Index b = 0; b < heads.batch; ++b)
      for (Index t = 0; t < heads.length; ++t)
        for (Index i = 0; i < heads.width; ++i)
          for (Index j = 0; j < heads.width; ++j) {
            const T *from_x = x.at(heads, b, t, i, j), *from_y = y.at(heads, b, t, i, j);
            T* const to = z.at(heads, b, t, i, j);
            for (Index h = 0; h < heads.count; ++h) {
              const T product = from_x[h * x_step] * from_y[h * y_step];
              to[h * z_step] = add ? to[h * z_step] + product : product;
            }
          }
  }
  template <class V>
  static void fill_zero(const V& x) {
    for (Index b = 0; b < x.extent(0); ++b)
      for (Index t = 0; t < x.extent(1); ++t)
        for (Index d = 0; d < x.extent(2); ++d) x(b, t, d) = 0;
  }
};

}  // namespace ssm::composed
