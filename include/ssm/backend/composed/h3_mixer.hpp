// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/composed/h3_heads.hpp"
#include "ssm/op/diagonal_scan.hpp"
#include "ssm/op/h3_mixer.hpp"
#include "ssm/op/shift_convolution.hpp"

namespace ssm::composed {

/// H3Mixer from the backend's own ShiftConvolution and DiagonalScan. With one channel a head the
/// gates of the scan are all it takes; wider heads write the outer product, one scan channel
/// (i·hd + j)·H + h for each of its entries. Wider heads need states whose axes i, j, h can be
/// walked with one stride.
/// Products   what wider heads do beside the scans, and the layout of what lies between, as
///            HostProducts has it
template <class Products>
struct BasicH3Mixer {
  using ComposedH3Mixer = BasicH3Mixer;
  template <class Ctx, Real T>
    requires HasShiftConvolution<typename Ctx::BackendType, T> &&
        HasDiagonalScan<typename Ctx::BackendType, T>
  static void h3_mixer(Ctx& ctx, const ssm::H3Mixer<T, typename Ctx::Space>& a) { compose(ctx, a); }
  template <class Ctx, Real T>
    requires HasShiftConvolution<typename Ctx::BackendType, T> &&
        HasDiagonalScan<typename Ctx::BackendType, T>
  static void h3_mixer_backward(Ctx& ctx, const ssm::H3MixerBackward<T, typename Ctx::Space>& g) {
    compose_backward(ctx, g);
  }

 protected:
  /// Sequences in half types have one channel a head; what lies between the steps is rounded to T.
  template <class Ctx, class T>
  static void compose(Ctx& ctx, const ssm::H3Mixer<T, typename Ctx::Space>& a) {
    const H3Heads heads(a);
    auto frame = ctx.workspace().frame();
    const auto shifted = like_input<T>(frame, a);
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
    if constexpr (Real<T>) {
      const auto products = like_products<T>(frame, a);
      const auto sums = like_products<T>(frame, a);
      Products::outer_product(ctx, outer_product_of(a, shifted, products));
      scan.x = products;
      scan.y = sums;
      ssm::diagonal_scan(ctx, scan);
      Products::contract(ctx, contraction_of(a, sums, a.y));
    }
  }
  template <class Ctx, class T>
  static void compose_backward(Ctx& ctx, const ssm::H3MixerBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    auto frame = ctx.workspace().frame();
    const auto shifted = like_input<T>(frame, a);
    const auto dshifted = like_input<T>(frame, a);
    ssm::shift_convolution(ctx, shift_of(a, shifted, false));
    if (H3Heads(a).width == 1)
      scan_backward(ctx, g, shifted, dshifted);
    else if constexpr (Real<T>)
      wide_scan_backward(ctx, g, shifted, dshifted);
    ssm::shift_convolution_backward(ctx, shift_backward_of(g, shifted, dshifted));
  }

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
            .final_state = with_final_state ? a.final_shift : View<Wide<T>, 3, Space>(),
            .y = shifted};
  }
  template <class T, class Space>
  static ssm::ShiftConvolutionBackward<T, Space> shift_backward_of(
      const ssm::H3MixerBackward<T, Space>& g, const View<T, 3, Space>& shifted,
      const View<T, 3, Space>& dshifted) {
    return {.forward = shift_of(g.forward, shifted, false),
            .dy = dshifted,
            .dfinal_state = g.dfinal_shift,
            .dx = g.dk,
            .dinitial_state = g.dinitial_shift,
            .dB = g.dshift_B,
            .dC = g.dshift_C,
            .dskip = g.dshift_skip};
  }

 private:
  template <class T, class Frame, class Operands>
  static auto like_input(Frame& frame, const Operands& a) {
    return Products::template sequences<T>(frame, a.k.extent(0), a.k.extent(1), a.k.extent(2));
  }
  template <class T, class Frame, class Operands>
  static auto like_products(Frame& frame, const Operands& a) {
    return Products::template sequences<T>(frame, a.k.extent(0), a.k.extent(1),
                                           H3Heads(a).products());
  }

  template <class T, class Space>
  static H3OuterProduct<T, Space> outer_product_of(const ssm::H3Mixer<T, Space>& a,
                                                   const View<T, 3, Space>& shifted,
                                                   const View<T, 3, Space>& products) {
    return {.heads = H3Heads(a), .k = shifted, .v = a.v, .products = products};
  }
  template <class T, class Space>
  static H3Contraction<T, Space> contraction_of(const ssm::H3Mixer<T, Space>& a,
                                                const View<T, 3, Space>& sums,
                                                const View<T, 3, Space>& y) {
    return {.heads = H3Heads(a), .q = a.q, .sums = sums, .y = y};
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

  template <class Ctx, Real T, class Space = typename Ctx::Space>
  static void wide_scan_backward(Ctx& ctx, const ssm::H3MixerBackward<T, Space>& g,
                                 const View<T, 3, Space>& shifted,
                                 const View<T, 3, Space>& dshifted) {
    const auto& a = g.forward;
    auto frame = ctx.workspace().frame();
    const auto products = like_products<T>(frame, a);
    const auto sums = like_products<T>(frame, a);
    const auto outer_product = outer_product_of(a, shifted, products);
    Products::outer_product(ctx, outer_product);
    auto backward = scan_backward_of(g);
    backward.forward.x = products;
    auto scan = backward.forward;
    scan.y = sums;
    ssm::diagonal_scan(ctx, scan);
    const auto& dsums = sums;  // an entry is read for the last time where its gradient is written
    Products::contract_backward(
        ctx, H3ContractionBackward<T, Space>{
                 .forward = contraction_of(a, sums, {}), .dy = g.dy, .dq = g.dq, .dsums = dsums});
    const auto dproducts = like_products<T>(frame, a);
    backward.dy = dsums;
    backward.dx = dproducts;
    ssm::diagonal_scan_backward(ctx, backward);
    Products::outer_product_backward(
        ctx, H3OuterProductBackward<T, Space>{
                 .forward = outer_product, .dproducts = dproducts, .dk = dshifted, .dv = g.dv});
  }
};

/// The mixer whose outer products are loops on the host.
using H3Mixer = BasicH3Mixer<HostProducts>;

}  // namespace ssm::composed
