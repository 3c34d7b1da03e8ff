// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/pointwise.hpp"
#include "ssm/op/activation.hpp"

namespace ssm::cpu {

/// ssm::activation, a register at a time.
template <class Arch>
struct Activation {
  template <class Ctx, Real T>
  static void activation(Ctx& ctx, const ssm::Activation<T, typename Ctx::Space>& a) {
    const bool turn = wants_turning(a.x);
    const auto shape = turned(a.x, turn);
    const Rows<const T, Arch> x(shape), gate(turned(a.gate, turn));
    const Rows<T, Arch> y(turned(a.y, turn));
    with_activation(a.kind, [&](auto kind) {
      parallel_pieces(ctx.resources().threads(), shape.extent(0), shape.extent(1),
                      lane_count<T, Arch>, [&](Index m, Index d, Index count) {
                        auto value = activated<kind()>(x.load(m, d, count));
                        if (gate) value *= gate.load(m, d, count);
                        y.store(m, d, count, value);
                      });
    });
  }

  template <class Ctx, Real T>
  static void activation_backward(Ctx& ctx,
                                  const ssm::ActivationBackward<T, typename Ctx::Space>& g) {
    const bool turn = wants_turning(g.forward.x);
    const auto shape = turned(g.forward.x, turn);
    const Rows<const T, Arch> x(shape), gate(turned(g.forward.gate, turn)), dy(turned(g.dy, turn));
    const Rows<T, Arch> dx(turned(g.dx, turn)), dgate(turned(g.dgate, turn));
    with_activation(g.forward.kind, [&](auto kind) {
      parallel_pieces(ctx.resources().threads(), shape.extent(0), shape.extent(1),
                      lane_count<T, Arch>, [&](Index m, Index d, Index count) {
                        const auto at = x.load(m, d, count);
                        auto grad = dy.load(m, d, count);
                        if (gate) {
                          dgate.store(m, d, count, grad * activated<kind()>(at));
                          grad *= gate.load(m, d, count);
                        }
                        dx.store(m, d, count, grad * activation_slope<kind()>(at));
                      });
    });
  }
};

}  // namespace ssm::cpu
