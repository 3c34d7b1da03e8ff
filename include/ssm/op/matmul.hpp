// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/scalar.hpp"    // BFloat16
#include "ssm/op/activation.hpp"  // ActivationKind
#include "ssm/op/unwritten.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

/// A matrix product with the epilogues that training needs.
///   z[m,n] = Σ_k a[m,k]·b[k,n] + bias[n]
///   c[m,n] = act(z[m,n]) + residual[m,n],  added to c where `accumulate` is set
///   a_sum[m] += Σ_k a[m,k]
/// a        [M, K]   any strides with one of them 1: a transposed view costs nothing
/// b        [K, N]   likewise
/// b_bf16   [K, N]   in place of b: kept in bf16, read as T; of calls in another scalar
/// b_f16    [K, N]   likewise, kept in f16
/// b_int8   [K, N]   in place of b, with b_scale: b[k,n] = b_scale[n]·b_int8[k,n]
/// b_scale  [N]      of b_int8
/// bias     [N]      optional
/// residual [M, N]   optional; must not be the memory of c
/// c        [M, N]   row-major rows; must not alias a or b
/// z        [M, N]   optional, overwritten: what the activation's gradient needs
/// a_sum    [M]      optional, added to: a bias gradient, when a is dYᵀ
/// A linear layer stores its weight W as [out, in]:
///   y = x·Wᵀ + bias    dx = dy·W    dW += dyᵀ·x    dbias += Σ dy
/// Cost    2·M·N·K operations
/// Throws  ShapeError; ArgumentError  for b in more than one form
template <class T, class Space>
struct Matmul {
  View<const T, 2, Space> a{};
  View<const T, 2, Space> b{};
  View<const BFloat16, 2, Space> b_bf16{};
  View<const Float16, 2, Space> b_f16{};
  View<const std::int8_t, 2, Space> b_int8{};
  View<const float, 1, Space> b_scale{};
  View<const Wide<T>, 1, Space> bias{};
  ActivationKind activation = ActivationKind::none;
  bool accumulate = false;
  View<const T, 2, Space> residual{};
  View<T, 2, Space> c{};
  View<T, 2, Space> z{};
  View<Wide<T>, 1, Space> a_sum{};
  bool by_parameters = false;  // b and bias are a layer's, which no forward pass writes

  static constexpr const char* name = "matmul";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("a", "MK"), &Matmul::a, nullptr);
    visit(input("b", "KN").optional(), &Matmul::b, nullptr);
    visit(input("b_bf16", "KN").optional(), &Matmul::b_bf16, nullptr);
    visit(input("b_f16", "KN").optional(), &Matmul::b_f16, nullptr);
    visit(input("b_int8", "KN").optional(), &Matmul::b_int8, nullptr);
    visit(input("b_scale", "N").optional(), &Matmul::b_scale, nullptr);
    visit(input("bias", "N").optional(), &Matmul::bias, nullptr);
    visit(input("residual", "MN").optional(), &Matmul::residual, nullptr);
    visit(updated("c", "MN"), &Matmul::c, nullptr);
    visit(output("z", "MN").optional(), &Matmul::z, nullptr);
    visit(updated("a_sum", "M").optional(), &Matmul::a_sum, nullptr);
  }
  void fix_extents(ExtentsByLetter& n) const {
    const int forms = int{bool{b}} + int{bool{b_bf16}} + int{bool{b_f16}} + int{bool{b_int8}};
    if (forms > 1) throw ArgumentError("matmul: b is given in more than one form");
    if (a && forms == 0) n.refuse("b", "is missing");
    if (bool{b_int8} != bool{b_scale}) n.refuse(b_int8 ? "b_scale" : "b_int8", "is missing");
  }
};

/// Backends that have the primitive Matmul.
template <class B, class T = float>
concept HasMatmul = requires(Context<B>& ctx, const Matmul<Wide<T>, typename B::Space>& a) {
  B::matmul(ctx, a);
};

/// Computes Matmul, whose docstring says the rest.
template <class B, class T>
  requires HasMatmul<B, T>
void matmul(Context<B>& ctx, const Matmul<T, typename B::Space>& a) {
  require_operands(a);
  if (a.accumulate) detail::overwrites(ctx, a.c, false);
  if constexpr (requires { B::matmul(ctx, a); }) {
    B::matmul(ctx, a);
  } else {  // b is read as it is
    auto rest = a;
    rest.b = {};
    detail::run_wide(ctx, rest, [&](auto wide) {
      if constexpr (std::is_same_v<T, BFloat16>) {
        if (a.b) wide.b_bf16 = a.b;
      } else {
        if (a.b) wide.b_f16 = a.b;
      }
      B::matmul(ctx, wide);
    });
  }
}

/// Computes several products, none of which reads what another writes; at once where the backend
/// has matmul_each.
template <class B, class T>
  requires HasMatmul<B, T>
void matmul(Context<B>& ctx, std::span<const Matmul<T, typename B::Space>> products) {
  if constexpr (requires { B::matmul_each(ctx, products); }) {
    for (const auto& a : products) {
      require_operands(a);
      if (a.accumulate) detail::overwrites(ctx, a.c, false);
    }
    B::matmul_each(ctx, products);
  } else {
    for (const auto& a : products) matmul<B, T>(ctx, a);
  }
}

/// A product that goes back through an activation: where y = act(x)·Wᵀ, the gradient of x.
///   c[m,n] = act'(x[m,n]) · Σ_k a[m,k]·b[k,n]
/// a   [M, K]   any strides with one of them 1
/// b   [K, N]   likewise
/// x   [M, N]   what the activation had
/// c   [M, N]   row-major rows, overwritten; must not alias a, b or x
/// Cost    2·M·N·K operations
/// Throws  ShapeError
template <class T, class Space>
struct SlopedMatmul {
  View<const T, 2, Space> a{};
  View<const T, 2, Space> b{};
  ActivationKind activation = ActivationKind::none;
  View<const T, 2, Space> x{};
  View<T, 2, Space> c{};

  static constexpr const char* name = "sloped_matmul";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("a", "MK"), &SlopedMatmul::a, nullptr);
    visit(input("b", "KN"), &SlopedMatmul::b, nullptr);
    visit(input("x", "MN"), &SlopedMatmul::x, nullptr);
    visit(output("c", "MN"), &SlopedMatmul::c, nullptr);
  }
};

/// Computes SlopedMatmul: at once where the backend can, else by Matmul and Activation.
template <class B, class T>
  requires(HasMatmul<B, T>&& HasActivation<B, T>)
void sloped_matmul(Context<B>& ctx, const SlopedMatmul<T, typename B::Space>& a) {
  using Space = typename B::Space;
  require_operands(a);
  if constexpr (requires { B::sloped_matmul(ctx, a); })
    if (B::sloped_matmul(ctx, a)) return;
  matmul(ctx, Matmul<T, Space>{.a = a.a, .b = a.b, .c = a.c});
  activation_backward(ctx, ActivationBackward<T, Space>{
                               .forward = {.kind = a.activation, .x = a.x}, .dy = a.c, .dx = a.c});
}

/// A SlopedMatmul where of the activation x alone was kept.
///   c as there      y[m,n] = act(x[m,n])      dbias[n] += Σ_m c[m,n]
/// y       [M, N]   row-major rows, overwritten; must not alias the others
/// dbias   [N]
/// Throws  ShapeError
template <class T, class Space>
struct SlopedMatmulAgain {
  View<const T, 2, Space> a{};
  View<const T, 2, Space> b{};
  ActivationKind activation = ActivationKind::none;
  View<const T, 2, Space> x{};
  View<T, 2, Space> c{};
  View<T, 2, Space> y{};
  View<Wide<T>, 1, Space> dbias{};

  static constexpr const char* name = "sloped_matmul_again";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("a", "MK"), &SlopedMatmulAgain::a, nullptr);
    visit(input("b", "KN"), &SlopedMatmulAgain::b, nullptr);
    visit(input("x", "MN"), &SlopedMatmulAgain::x, nullptr);
    visit(output("c", "MN"), &SlopedMatmulAgain::c, nullptr);
    visit(output("y", "MN"), &SlopedMatmulAgain::y, nullptr);
    visit(updated("dbias", "N"), &SlopedMatmulAgain::dbias, nullptr);
  }
};

/// Computes SlopedMatmulAgain where the backend does all of it in one pass over memory behind the
/// product. Returns false elsewhere, and does nothing.
template <class B, class T>
  requires(HasMatmul<B, T>&& HasActivation<B, T>)
bool sloped_matmul_again(Context<B>& ctx, const SlopedMatmulAgain<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::sloped_matmul_again(ctx, a); })
    return B::sloped_matmul_again(ctx, a);
  else
    return false;
}

/// The gradient of the weight and the bias of a linear map y = x·Wᵀ + bias.
///   dweight[n,k] += Σ_m dy[m,n]·x[m,k]      dbias[n] += Σ_m dy[m,n]
/// Without `accumulate`, and where dweight is one of the context's `unwritten`, it is overwritten.
/// dy        [M, N]   any strides with one of them 1
/// x         [M, K]   likewise
/// dweight   [N, K]
/// dbias     [N]      optional, added to
/// Cost    2·M·N·K operations
/// Throws  ShapeError
template <class T, class Space>
struct WeightGradient {
  View<const T, 2, Space> dy{};
  View<const T, 2, Space> x{};
  bool accumulate = true;
  View<Wide<T>, 2, Space> dweight{};
  View<Wide<T>, 1, Space> dbias{};

  static constexpr const char* name = "weight_gradient";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("dy", "MN"), &WeightGradient::dy, nullptr);
    visit(input("x", "MK"), &WeightGradient::x, nullptr);
    visit(updated("dweight", "NK"), &WeightGradient::dweight, nullptr);
    visit(updated("dbias", "N").optional(), &WeightGradient::dbias, nullptr);
  }
};

namespace detail {

/// The call that overwrites what nobody has written.
template <class B, class T>
WeightGradient<T, typename B::Space> first_or_added(Context<B>& ctx,
                                                    WeightGradient<T, typename B::Space> a) {
  require_operands(a);
  if (a.accumulate) a.accumulate = !overwrites(ctx, a.dweight, a.x.size() > 0);
  return a;
}

template <class B, class T>
void run_weight_gradient(Context<B>& ctx, const WeightGradient<T, typename B::Space>& call) {
  if constexpr (requires { B::weight_gradient(ctx, call); })
    B::weight_gradient(ctx, call);
  else if constexpr (HalfStorage<T>)
    run_wide(ctx, call, [&](const auto& wide) { run_weight_gradient<B, Wide<T>>(ctx, wide); });
  else
    B::matmul(ctx, Matmul<T, typename B::Space>{.a = call.dy.transpose(0, 1),
                                                .b = call.x,
                                                .accumulate = call.accumulate,
                                                .c = call.dweight,
                                                .a_sum = call.dbias});
}

}  // namespace detail

/// Computes WeightGradient, by the backend's own if it has one, else by its Matmul.
template <class B, class T>
  requires HasMatmul<B, T>
void weight_gradient(Context<B>& ctx, const WeightGradient<T, typename B::Space>& a) {
  detail::run_weight_gradient<B, T>(ctx, detail::first_or_added<B, T>(ctx, a));
}

/// Computes WeightGradient of each map; of two at once where the backend can.
template <class B, class T>
  requires HasMatmul<B, T>
void weight_gradient(Context<B>& ctx, std::span<const WeightGradient<T, typename B::Space>> maps) {
  if constexpr (requires { B::weight_gradients(ctx, maps[0], maps[1]); })
    if (maps.size() == 2) {
      const auto first = detail::first_or_added<B, T>(ctx, maps[0]);
      const auto second = detail::first_or_added<B, T>(ctx, maps[1]);
      if (B::weight_gradients(ctx, first, second)) return;
      detail::run_weight_gradient<B, T>(ctx, first);
      detail::run_weight_gradient<B, T>(ctx, second);
      return;
    }
  for (const auto& map : maps) weight_gradient<B, T>(ctx, map);
}

}  // namespace ssm
