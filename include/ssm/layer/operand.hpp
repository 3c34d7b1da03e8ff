// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <type_traits>

#include "ssm/core/elementwise.hpp"  // TensorLike
#include "ssm/core/scalar.hpp"       // Token

namespace ssm {

/// A layer that reads tokens, and not sequences of vectors, says
/// `static constexpr bool reads_tokens = true`.
template <class L>
concept ReadsTokens = requires {
  requires bool{L::reads_tokens};
};

/// What `evaluate` reads: x [B, L, D], or tokens [B, L].
template <class L, class T, class Space>
using InputOf =
    std::conditional_t<ReadsTokens<L>, View<const Token, 2, Space>, View<const T, 3, Space>>;

namespace detail {

enum class VerbOperand { x, y, dy, dx };
/// How many positions a verb takes: `step` one, and its operands have no axis of positions.
enum class Positions { many, one };

// Each of these says in one sentence what is wrong with an operand. `fits` is passed through, so
// that a verb stops there.
template <VerbOperand name, bool fits>
constexpr bool is_tensor_like() {
  static_assert(fits || name != VerbOperand::x, "x is nothing that ssm::view_of takes");
  static_assert(fits || name != VerbOperand::y, "y is nothing that ssm::view_of takes");
  static_assert(fits || name != VerbOperand::dy, "dy is nothing that ssm::view_of takes");
  static_assert(fits || name != VerbOperand::dx, "dx is nothing that ssm::view_of takes");
  return fits;
}
template <VerbOperand name, bool is_token, bool is_step, bool fits>
constexpr bool has_fitting_rank() {
  constexpr bool is_x = name == VerbOperand::x;
  static_assert(fits || !is_x || is_token || is_step, "x must be [L, D] or [B, L, D]");
  static_assert(fits || !is_x || is_token || !is_step, "x_t must be [D] or [B, D]");
  static_assert(fits || !is_x || !is_token || is_step, "tokens must be [L] or [B, L]");
  static_assert(fits || !is_x || !is_token || !is_step, "the tokens of a step must be [B]");
  static_assert(fits || name != VerbOperand::y || is_step, "y must be [L, D] or [B, L, D]");
  static_assert(fits || name != VerbOperand::y || !is_step, "y_t must be [D] or [B, D]");
  static_assert(fits || name != VerbOperand::dy, "dy must be [L, D] or [B, L, D]");
  static_assert(fits || name != VerbOperand::dx, "dx must be [L, D] or [B, L, D]");
  return fits;
}
template <VerbOperand name, bool is_token, bool fits>
constexpr bool has_fitting_scalar() {
  static_assert(fits || name != VerbOperand::x || is_token,
                "x is of another scalar than the parameters");
  static_assert(fits || name != VerbOperand::x || !is_token, "tokens must be of type ssm::Token");
  static_assert(fits || name != VerbOperand::y, "y is of another scalar than the parameters");
  static_assert(fits || name != VerbOperand::dy, "dy is of another scalar than the parameters");
  static_assert(fits || name != VerbOperand::dx, "dx is of another scalar than the parameters");
  return fits;
}
template <VerbOperand name, bool fits>
constexpr bool lies_in_fitting_memory() {
  static_assert(fits || name != VerbOperand::x,
                "x lies in other memory than the context's backend");
  static_assert(fits || name != VerbOperand::y,
                "y lies in other memory than the context's backend");
  static_assert(fits || name != VerbOperand::dy,
                "dy lies in other memory than the context's backend");
  static_assert(fits || name != VerbOperand::dx,
                "dx lies in other memory than the context's backend");
  return fits;
}
template <VerbOperand name, bool fits>
constexpr bool is_writable() {
  static_assert(fits || name != VerbOperand::y, "y is const, and is to be written");
  static_assert(fits || name != VerbOperand::dx, "dx is const, and is to be written");
  return fits;
}

/// Whether a verb takes X as this operand of layer L, with elements of T in Space; a static_assert
/// says why not.
template <VerbOperand name, class L, class T, class Space, Positions positions, class X>
constexpr bool is_operand() {
  if constexpr (is_tensor_like<name, TensorLike<X>>()) {
    using V = ViewTypeOf<X>;
    constexpr bool is_token = name == VerbOperand::x && ReadsTokens<L>;
    constexpr bool is_step = positions == Positions::one;
    constexpr int batched = is_token || is_step ? (is_token && is_step ? 1 : 2) : 3;
    constexpr bool is_vector = MatrixLike<X> && requires {
      requires bool(X::IsVectorAtCompileTime);
    };
    constexpr int rank = is_vector && batched < 3 ? 1 : V::rank();
    constexpr bool may_lack_batch = !(is_token && is_step);
    constexpr bool must_write = name == VerbOperand::y || name == VerbOperand::dx;
    using Wanted = std::conditional_t<is_token, Token, T>;
    const bool fits[] = {
        has_fitting_rank < name,
        is_token,
        is_step,
        rank == batched || (may_lack_batch && rank == batched - 1) > (),
        has_fitting_scalar<name, is_token, std::is_same_v<typename V::Value, Wanted>>(),
        lies_in_fitting_memory<name, std::is_same_v<typename V::Space, Space>>(),
        is_writable < name,
        !must_write || !std::is_const_v < typename V::Element >> ()};
    return fits[0] && fits[1] && fits[2] && fits[3];
  } else {
    return false;
  }
}

/// A view of an operand; a vector type of Eigen's is one axis where one axis says something.
template <bool vectors_are_one_axis, class X>
auto operand_view(X& x) {
  if constexpr (vectors_are_one_axis && MatrixLike<X> &&
                requires { requires bool(X::IsVectorAtCompileTime); })
    return view_of(x).select(X::ColsAtCompileTime == 1 ? 1 : 0, 0);
  else
    return view_of(x);
}

/// [L, D] as a batch of one, or [L] tokens.
template <int batched, class T, class E, class S>
View<T, batched, S> as_batch(const TensorView<T, E, S>& x) {
  if constexpr (E::rank() < batched)
    return x.unsqueeze(0);
  else
    return x;
}
/// [B, D] or [D] as sequences of one position; so [B] tokens.
template <int batched, class T, class E, class S>
View<T, batched, S> as_one_position(const TensorView<T, E, S>& x) {
  if constexpr (E::rank() + 1 < batched)
    return x.unsqueeze(0).unsqueeze(0);
  else
    return x.unsqueeze(1);
}

/// The width of an operand's type, or `dyn`.
template <class X>
constexpr Index static_width() {
  using V = ViewTypeOf<X>;
  return V::rank() == 0 ? dyn : V::Shape::static_extent(V::rank() - 1);
}

/// The name of a class without its namespace and template arguments: how messages name a layer.
/// Reads what g++ and clang++ write behind "L = ".
template <class L>
[[gnu::cold]] std::string class_name() {
  std::string_view name = __PRETTY_FUNCTION__;
  name.remove_prefix(name.find("L = ") + 4);
  name = name.substr(0, name.find_first_of("<;]"));
  if (const auto scope = name.rfind("::"); scope != std::string_view::npos)
    name.remove_prefix(scope + 2);
  return std::string(name);
}

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_operand(
    const std::string& layer, std::string operand, bool is_given,
    const std::array<Index, 3>& expected, const std::array<Index, 3>& actual, Positions positions) {
  if (positions == Positions::one)
    refuse_extents(layer, operand + "_t", is_given, std::array{expected[0], expected[2]},
                   std::array{actual[0], actual[2]});
  refuse_extents(layer, operand, is_given, expected, actual);
}

/// Throws  ShapeError  unless the extents agree, where `dyn` accepts any. Of a step the axis of
///                     positions is left out.
template <class L, class T, class Space>
void require_operand(const char* operand, const View<T, 3, Space>& actual,
                     const std::array<Index, 3>& expected, Positions positions = Positions::many) {
  bool agree = static_cast<bool>(actual);
  for (int axis = 0; axis < 3; ++axis) {
    const Index wanted = expected[static_cast<std::size_t>(axis)];
    agree = agree && (wanted == dyn || wanted == actual.extent(axis));
  }
  if (!agree)
    refuse_operand(class_name<L>(), operand, static_cast<bool>(actual), expected,
                   actual.extents().to_array(), positions);
}

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_same_memory(const std::string& layer,
                                                                      const char* written,
                                                                      const char* read) {
  throw ArgumentError(message({layer, ": ", written, " must not be the same memory as ", read}));
}

}  // namespace detail
}  // namespace ssm
