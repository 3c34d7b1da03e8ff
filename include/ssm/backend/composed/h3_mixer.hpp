// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/diagonal_scan.hpp"
#include "ssm/op/h3_mixer.hpp"
#include "ssm/op/shift_convolution.hpp"

namespace ssm::composed {

/// H3Mixer from the backend's own ShiftConvolution and DiagonalScan. With one channel a head the gates of the scan are all
/// it takes; wider heads write the outer product, one scan channel (i·hd + j)·H + h for each of its entries.
/// Wider heads need host-readable memory and states whose axes i, j, h can be walked with one stride.
struct H3Mixer {
  template <class Ctx, class T>
  static void h3_mixer(Ctx& ctx, const ssm::H3Mixer<T, typename Ctx::Space>& a) {
    const Heads heads(a);
    auto frame = ctx.workspace().frame();
    const auto shifted = frame.template tensor<T>(a.k.extents());
    auto scan = scan_of(a);
    scan.final_state = merge_heads(a.final_diagonal);  // may refuse: before the first state changes
    ssm::shift_convolution(ctx, shift_of(a, shifted, true));
    if (heads.width == 1) {
      scan.x = shifted;
      scan.gate_in = a.v;
      scan.gate_out = a.q;
      scan.y = a.y;
      ssm::diagonal_scan(ctx, scan);
      return;
    }
    const auto products = frame.template tensor<T>(heads.product_extents(a));
    const auto sums = frame.template tensor<T>(heads.product_extents(a));
    outer_product(heads, shifted, a.v, products);
    scan.x = products;
    scan.y = sums;
    ssm::diagonal_scan(ctx, scan);
    contract(heads, a.q, sums, a.y);
  }

  template <class Ctx, class T>
  static void h3_mixer_backward(Ctx& ctx, const ssm::H3MixerBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    auto frame = ctx.workspace().frame();
    const auto shifted = frame.template tensor<T>(a.k.extents());
    const auto dshifted = frame.template tensor<T>(a.k.extents());
    ssm::shift_convolution(ctx, shift_of(a, shifted, false));
    if (Heads(a).width == 1)
      scan_backward(ctx, g, shifted, dshifted);
    else
      wide_scan_backward(ctx, g, shifted, dshifted);
    ssm::shift_convolution_backward(ctx, ssm::ShiftConvolutionBackward<T, typename Ctx::Space>{
                                             .forward = shift_of(a, shifted, false),
                                             .dy = dshifted,
                                             .dfinal_state = g.dfinal_shift,
                                             .dx = g.dk,
                                             .dinitial_state = g.dinitial_shift,
                                             .dB = g.dshift_B,
                                             .dC = g.dshift_C,
                                             .dskip = g.dshift_skip});
  }

 private:
  /// Where the entries of a head are: channel h·width + i of q, k, v, and (i·width + j)·count + h of the outer product.
  struct Heads {
    template <class T, class Space>
    explicit Heads(const ssm::H3Mixer<T, Space>& a)
        : count(a.dt.extent(0)), width(a.q.extent(2) / count) {}
    Index channel(Index h, Index i) const { return h * width + i; }
    Index product(Index h, Index i, Index j) const { return (i * width + j) * count + h; }
    template <class T, class Space>
    DynamicExtents<3> product_extents(const ssm::H3Mixer<T, Space>& a) const {
      return {a.q.extent(0), a.q.extent(1), width * width * count};
    }
    /// Calls visit(b, t, h, i, j) for every entry of the outer product.
    template <class V, class F>
    void for_each_product(const V& x, F&& visit) const {
      for (Index b = 0; b < x.extent(0); ++b)
        for (Index t = 0; t < x.extent(1); ++t)
          for (Index i = 0; i < width; ++i)
            for (Index j = 0; j < width; ++j)
              for (Index h = 0; h < count; ++h) visit(b, t, h, i, j);
    }
    Index count;
    Index width;
  };

  template <class T, class Space>
  static ssm::ShiftConvolution<T, Space> shift_of(const ssm::H3Mixer<T, Space>& a,
                                                  const View<T, 3, Space>& shifted,
                                                  bool with_final_state) {
    return {.B = a.shift_B,
            .C = a.shift_C,
            .skip = a.shift_skip,
            .x = a.k,
            .segments = a.segments,
            .initial_state = a.initial_shift,
            .final_state = with_final_state ? a.final_shift : View<T, 3, Space>(),
            .y = shifted};
  }

  template <class T, class Space>
  static ssm::DiagonalScan<T, Space> scan_of(const ssm::H3Mixer<T, Space>& a) {
    ssm::DiagonalScan<T, Space> scan;
    scan.dt = a.dt;
    scan.A = a.A;
    scan.B = a.B;
    scan.C = a.C;
    scan.skip = a.skip;
    scan.discretization = a.discretization;
    scan.segments = a.segments;
    scan.initial_state = merge_heads(a.initial_diagonal);
    return scan;
  }

  template <class T, class Space>
  static ssm::DiagonalScanBackward<T, Space> scan_backward_of(
      const ssm::H3MixerBackward<T, Space>& g) {
    ssm::DiagonalScanBackward<T, Space> backward;
    backward.forward = scan_of(g.forward);
    backward.dfinal_state = merge_heads(g.dfinal_diagonal);
    backward.dinitial_state = merge_heads(g.dinitial_diagonal);
    backward.ddt = g.ddt;
    backward.dA = g.dA;
    backward.dB = g.dB;
    backward.dC = g.dC;
    backward.dskip = g.dskip;
    return backward;
  }

  /// [S, hd, hd, H, P, 1|2] as the [S, hd·hd·H, P, 1|2] of the scan, on the same memory.
  template <class T, class Space>
  static View<T, 4, Space> merge_heads(const View<T, 6, Space>& state) {
    if (!state) return {};
    const Index width = state.extent(1);
    const Index heads = state.extent(3);
    const Index step = heads > 1 ? state.stride(3) : state.stride(2);
    if (width > 1 && (state.stride(2) != heads * step || state.stride(1) != width * heads * step))
      throw ShapeError("h3_mixer", "diagonal state", "must have one stride over its axes i, j, h");
    return {state.data(),
            {state.extent(0), width * width * heads, state.extent(4), state.extent(5)},
            {state.stride(0), step, state.stride(4), state.stride(5)}};
  }

  template <class Ctx, class T, class Space = typename Ctx::Space>
  static void scan_backward(Ctx& ctx, const ssm::H3MixerBackward<T, Space>& g,
                            const View<T, 3, Space>& shifted, const View<T, 3, Space>& dshifted) {
    auto backward = scan_backward_of(g);
    backward.forward.x = shifted;
    backward.forward.gate_in = g.forward.v;
    backward.forward.gate_out = g.forward.q;
    backward.dy = g.dy;
    backward.dx = dshifted;
    backward.dgate_in = g.dv;
    backward.dgate_out = g.dq;
    ssm::diagonal_scan_backward(ctx, backward);
  }

  template <class Ctx, class T, class Space = typename Ctx::Space>
  static void wide_scan_backward(Ctx& ctx, const ssm::H3MixerBackward<T, Space>& g,
                                 const View<T, 3, Space>& shifted,
                                 const View<T, 3, Space>& dshifted) {
    const auto& a = g.forward;
    const Heads heads(a);
    auto frame = ctx.workspace().frame();
    const auto products = frame.template tensor<T>(heads.product_extents(a));
    const auto sums = frame.template tensor<T>(heads.product_extents(a));
    outer_product(heads, shifted, a.v, products);
    auto backward = scan_backward_of(g);
    backward.forward.x = products;
    auto scan = backward.forward;
    scan.y = sums;
    ssm::diagonal_scan(ctx, scan);
    const auto& dsums =
        sums;  // an entry of s is read for the last time where its gradient is written
    contract_backward(heads, a.q, g.dy, sums, g.dq, dsums);
    const auto dproducts = frame.template tensor<T>(heads.product_extents(a));
    backward.dy = dsums;
    backward.dx = dproducts;
    ssm::diagonal_scan_backward(ctx, backward);
    outer_product_backward(heads, shifted, a.v, dproducts, dshifted, g.dv);
  }

  template <class X, class V, class Y>
  static void outer_product(const Heads& heads, const X& k, const V& v, const Y& products) {
    heads.for_each_product(k, [&](Index b, Index t, Index h, Index i, Index j) {
      products(b, t, heads.product(h, i, j)) =
          k(b, t, heads.channel(h, i)) * v(b, t, heads.channel(h, j));
    });
  }

  template <class X, class V, class Z, class DX, class DV>
  static void outer_product_backward(const Heads& heads, const X& k, const V& v, const Z& dproducts,
                                     const DX& dk, const DV& dv) {
    fill_zero(dk);
    fill_zero(dv);
    heads.for_each_product(k, [&](Index b, Index t, Index h, Index i, Index j) {
      const auto dproduct = dproducts(b, t, heads.product(h, i, j));
      dk(b, t, heads.channel(h, i)) += dproduct * v(b, t, heads.channel(h, j));
      dv(b, t, heads.channel(h, j)) += dproduct * k(b, t, heads.channel(h, i));
    });
  }

  template <class Q, class S, class Y>
  static void contract(const Heads& heads, const Q& q, const S& sums, const Y& y) {
    fill_zero(y);
    heads.for_each_product(q, [&](Index b, Index t, Index h, Index i, Index j) {
      y(b, t, heads.channel(h, j)) +=
          q(b, t, heads.channel(h, i)) * sums(b, t, heads.product(h, i, j));
    });
  }

  template <class Q, class DY, class S, class DQ, class DS>
  static void contract_backward(const Heads& heads, const Q& q, const DY& dy, const S& sums,
                                const DQ& dq, const DS& dsums) {
    fill_zero(dq);
    heads.for_each_product(q, [&](Index b, Index t, Index h, Index i, Index j) {
      const auto sum = sums(b, t, heads.product(h, i, j));
      dq(b, t, heads.channel(h, i)) += dy(b, t, heads.channel(h, j)) * sum;
      dsums(b, t, heads.product(h, i, j)) =
          dy(b, t, heads.channel(h, j)) * q(b, t, heads.channel(h, i));
    });
  }

  template <class V>
  static void fill_zero(const V& x) {
    for (Index b = 0; b < x.extent(0); ++b)
      for (Index t = 0; t < x.extent(1); ++t)
        for (Index d = 0; d < x.extent(2); ++d) x(b, t, d) = 0;
  }
};

}  // namespace ssm::composed
