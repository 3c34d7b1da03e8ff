// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <type_traits>
#include <utility>

#include "ssm/op/convert.hpp"

// How a primitive runs in a half type on a backend that has it in float: operands in the half type
// are copied to float before, and what was written is copied back behind. Everything else, states,
// most parameters and their gradients, is float anyhow.
namespace ssm::detail {

/// A call's scalar, and the same call in the scalar of arithmetic.
template <class Call>
struct CallTypes;
template <template <class, class> class Call, class T, class Space>
struct CallTypes<Call<T, Space>> {
  using Scalar = T;
  using WideCall = Call<Wide<T>, Space>;
};
template <class Call>
using ScalarOfCall = typename CallTypes<Call>::Scalar;
template <class Call>
using WideCall = typename CallTypes<Call>::WideCall;

/// Whether a member, by its pointer, is a view of T.
template <class T>
constexpr bool is_member_in(std::nullptr_t) {
  return false;
}
template <class T, class V, class Call>
constexpr bool is_member_in(V Call::*) {
  return std::is_same_v<typename V::Value, T>;
}

template <class Call>
bool accumulates(const Call& a) {
  if constexpr (requires { a.accumulate; })
    return a.accumulate;
  else
    return false;
}

/// An operand's memory in the half type, and where its copy lies.
struct WidenedOperand {
  static constexpr std::size_t max_rank = 6;
  void* data = nullptr;
  std::array<Index, max_rank> extents{}, strides{};
  std::size_t rank = 0;
  void* wide = nullptr;
  std::array<Index, max_rank> wide_strides{};
  bool is_written = false;

  Index size() const {
    Index product = 1;
    for (std::size_t axis = 0; axis < rank; ++axis) product *= extents[axis];
    return product;
  }
  /// Lays the copy out without gaps, its axes in the order of the original's strides; then drops
  /// axes of one element and joins those that both sides allow to.
  std::array<Index, max_rank> lay_out() {
    std::array<std::size_t, max_rank> order{};
    for (std::size_t axis = 0; axis < rank; ++axis) order[axis] = axis;
    for (std::size_t i = 1; i < rank; ++i)  // few axes, mostly in order: no need of more
      for (std::size_t k = i;
           k > 0 && std::abs(strides[order[k - 1]]) < std::abs(strides[order[k]]); --k)
        std::swap(order[k - 1], order[k]);
    std::array<Index, max_rank> result{};
    Index step = 1;
    for (std::size_t i = rank; i-- > 0;) {
      result[order[i]] = step;
      step *= extents[order[i]];
    }
    const WidenedOperand all = *this;
    rank = 0;
    for (std::size_t i = 0; i < all.rank; ++i) {
      const Index extent = all.extents[order[i]], stride = all.strides[order[i]];
      if (extent == 1) continue;
      const bool joins = rank > 0 && strides[rank - 1] == extent * stride;
      if (!joins) ++rank;
      extents[rank - 1] = joins ? extents[rank - 1] * extent : extent;
      strides[rank - 1] = stride;
      wide_strides[rank - 1] = result[order[i]];
    }
    return result;
  }
};

/// The copies of one call's operands in T.
template <class B, class T>
class WidenedOperands {
  using Space = typename B::Space;
  static_assert(HasConvert<B, T>, "a backend that runs half types needs the primitive Convert");

 public:
  explicit WidenedOperands(Context<B>& ctx) : ctx_(ctx), frame_(ctx.workspace().frame()) {}

  /// Points a view of the call in float, which still has the address of the operand in T, to a copy
  /// of it. What is neither read nor written goes.
  template <class W, class E>
  void widen(TensorView<W, E, Space>& view, bool is_read, bool is_written) {
    static_assert(std::is_same_v<std::remove_const_t<W>, Wide<T>>);
    constexpr auto rank = static_cast<std::size_t>(E::rank());
    if (!view) return;
    if (!is_read && !is_written) {
      view = {};
      return;
    }
    WidenedOperand& operand = operands_.at(count_++);
    operand.data = const_cast<Wide<T>*>(view.data());
    operand.rank = rank;
    for (std::size_t axis = 0; axis < rank; ++axis) {
      operand.extents[axis] = view.extent(static_cast<int>(axis));
      operand.strides[axis] = view.strides()[axis];
    }
    operand.is_written = is_written;
    const auto strides = take(operand, is_read);
    std::array<Index, rank> laid_out{};
    std::copy_n(strides.begin(), rank, laid_out.begin());
    view = {static_cast<Wide<T>*>(operand.wide), view.extents(), laid_out};
  }
  /// Copies back what was written.
  void finish() {
    for (std::size_t i = 0; i < count_; ++i)
      if (operands_[i].is_written) copy<false>(operands_[i]);
  }

 private:
  [[gnu::noinline]] std::array<Index, WidenedOperand::max_rank> take(WidenedOperand& operand,
                                                                     bool is_read) {
    operand.wide = frame_.template tensor<Wide<T>>(operand.size()).data();
    const auto strides = operand.lay_out();
    if (is_read) copy<true>(operand);
    return strides;
  }
  template <bool widens>
  [[gnu::noinline]] void copy(const WidenedOperand& operand) {
    if (operand.size() == 0) return;
    const std::size_t outer = operand.rank > 3 ? operand.rank - 3 : 0;
    Index blocks = 1;
    for (std::size_t axis = 0; axis < outer; ++axis) blocks *= operand.extents[axis];
    for (Index block = 0; block < blocks; ++block) copy_block<widens>(operand, outer, block);
  }
  template <bool widens>
  void copy_block(const WidenedOperand& operand, std::size_t outer, Index block) {
    T* narrow = static_cast<T*>(operand.data);
    Wide<T>* wide = static_cast<Wide<T>*>(operand.wide);
    for (std::size_t axis = outer; axis-- > 0; block /= operand.extents[axis]) {
      narrow += block % operand.extents[axis] * operand.strides[axis];
      wide += block % operand.extents[axis] * operand.wide_strides[axis];
    }
    std::array<Index, 3> extents{1, 1, 1}, strides{}, wide_strides{};
    for (std::size_t axis = outer; axis < operand.rank; ++axis) {
      const std::size_t to = axis + 3 - operand.rank;
      extents[to] = operand.extents[axis];
      strides[to] = operand.strides[axis];
      wide_strides[to] = operand.wide_strides[axis];
    }
    const DynamicExtents<3> shape(extents[0], extents[1], extents[2]);
    if constexpr (widens)
      B::convert(ctx_, Convert<T, Wide<T>, Space>{.x = {narrow, shape, strides},
                                                  .y = {wide, shape, wide_strides}});
    else
      B::convert(ctx_, Convert<Wide<T>, T, Space>{.x = {wide, shape, wide_strides},
                                                  .y = {narrow, shape, strides}});
  }

  Context<B>& ctx_;
  typename Workspace<Space>::Frame frame_;
  std::array<WidenedOperand, 64> operands_;
  std::size_t count_ = 0;
};

/// Which operands of a call, and which of their gradients, are in T, in the order of its
/// description.
template <class Op, class T>
constexpr std::array<std::array<bool, 24>, 2> operands_in() {
  std::array<std::array<bool, 24>, 2> result{};
  std::size_t i = 0;
  Op::for_each_operand([&](const Operand&, auto member, auto partner) {
    result[0][i] = is_member_in<T>(member);
    result[1][i++] = is_member_in<T>(partner);
  });
  return result;
}

/// Widens the operands of a call, without what is written in a call of its gradient.
template <class Op, class T, class Widened, class WideOp>
void widen_operands(Widened& copies, WideOp& wide, bool is_forward) {
  constexpr auto in_half = operands_in<Op, T>()[0];
  std::size_t i = 0;
  WideOp::for_each_operand([&](const Operand& what, auto member, auto) {
    const bool is_narrow = in_half[i++];
    if constexpr (is_member_in<Wide<T>>(decltype(member){})) {
      if (!is_narrow || what.role == Role::again) return;
      const bool is_updated = what.role == Role::updated && accumulates(wide);
      copies.widen(wide.*member, is_read(what) || is_updated, is_forward && !is_read(what));
    }
  });
}
/// Widens what a call of a gradient has beside the forward call.
template <class Op, class T, class Widened, class WideGradient>
void widen_gradients(Widened& copies, WideGradient& wide) {
  constexpr auto in_half = operands_in<Op, T>()[1];
  std::size_t i = 0;
  WideCall<Op>::for_each_operand([&](const Operand& what, auto, auto partner) {
    const bool is_narrow = in_half[i++];
    if constexpr (is_member_in<Wide<T>>(decltype(partner){})) {
      if (!is_narrow) return;
      const bool is_written = is_read(what);
      copies.widen(wide.*partner, !is_written || accumulates(wide), is_written);
    }
  });
}

/// Runs a call in T as a call in float: run(the same call in float), or run(call, copies) to widen
/// more than its description knows.
template <class B, class Call, class Run>
void run_wide(Context<B>& ctx, const Call& a, Run&& run) {
  using T = ScalarOfCall<Call>;
  WidenedOperands<B, T> copies(ctx);
  WideCall<Call> wide = std::bit_cast<WideCall<Call>>(a);
  widen_operands<Call, T>(copies, wide, true);
  if constexpr (std::is_invocable_v<Run&, WideCall<Call>&, WidenedOperands<B, T>&>)
    run(wide, copies);
  else
    run(std::as_const(wide));
  copies.finish();
}
/// The same for the gradient of Op.
template <template <class, class> class Op, class B, class Gradient, class Run>
void run_wide_gradient(Context<B>& ctx, const Gradient& g, Run&& run) {
  using T = ScalarOfCall<Gradient>;
  using Forward = Op<T, typename B::Space>;
  WidenedOperands<B, T> copies(ctx);
  WideCall<Gradient> wide = std::bit_cast<WideCall<Gradient>>(g);
  if constexpr (requires { wide.forward; }) widen_operands<Forward, T>(copies, wide.forward, false);
  widen_gradients<Forward, T>(copies, wide);
  if constexpr (std::is_invocable_v<Run&, WideCall<Gradient>&, WidenedOperands<B, T>&>)
    run(wide, copies);
  else
    run(std::as_const(wide));
  copies.finish();
}

}  // namespace ssm::detail
