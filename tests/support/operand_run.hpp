// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/elementwise.hpp"  // copy
#include "ssm/core/operands.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/layout.hpp"

namespace ssm::test {

/// The extents of a call by letter; that of S follows from B and the segments.
using Sizes = std::map<char, Index>;

/// The names of operands that a case leaves out: those whose switch is off.
struct Presence {
  const char* name;
  bool is_given;
};
inline std::vector<std::string_view> left_out(std::initializer_list<Presence> operands) {
  std::vector<std::string_view> names;
  for (const auto& [name, is_given] : operands)
    if (!is_given) names.emplace_back(name);
  return names;
}

/// For a primitive without a gradient.
struct NoGradient {};

/// What a call of a gradient does with the gradients of inputs: those of parameters are added to.
enum class InputGradients { overwritten, added_to };

/// One call of a primitive and one of its gradient, with memory of their own for every operand that
/// the primitive describes. What is read is random, the same for the same name and extents; what
/// is overwritten starts as NaN, what is added to as random numbers. Inputs and outputs lie in the
/// layout, states and parameters as `others` says, and vectors other than [N] in rows.
template <class Op, class Gradient>
struct OperandRun {
  using Operands = Op;

  /// `absent` names operands that are not given; their gradients are not either. A state's and
  /// its gradient's name are told apart: "initial_state", "dinitial_state".
  explicit OperandRun(Sizes sizes, Layout layout, Segments segments = {},
                      const std::vector<std::string_view>& absent = {},
                      InputGradients inputs = InputGradients::overwritten,
                      Layout others = Layout::rows) {
    if (sizes.contains('B')) sizes['S'] = sequence_count(sizes['B'], segments);
    if constexpr (requires { forward.segments; }) forward.segments = segments;
    const auto is_given = [&](const std::string& name) {
      return std::find(absent.begin(), absent.end(), name) == absent.end();
    };
    Op::for_each_operand([&]<class V, class P>(const Operand& what, V Op::*member, P partner) {
      const std::string name = what.name;
      const bool is_state = what.role == Role::initial_state || what.role == Role::final_state;
      const bool is_parameter = what.role == Role::parameter;
      const bool is_vector = V::rank() == 1 && what.letters[0] != 'N';
      const Layout where = is_vector ? Layout::rows : is_state || is_parameter ? others : layout;
      const auto fill_as = [&](bool is_random) { return is_random ? Fill::random : Fill::nan; };
      if (what.role != Role::again && is_given(name))
        forward.*member =
            make<V>(name, what, sizes, where, fill_as(is_read(what) || what.role == Role::updated));
      if constexpr (!std::is_same_v<P, std::nullptr_t>) {
        using G = std::remove_cvref_t<decltype(gradient.*partner)>;
        if constexpr (std::is_assignable_v<G&, const V&>)
          if (what.role == Role::again) gradient.*partner = forward.*member;
        if (what.role != Role::again && is_given("d" + name) && (is_state || is_given(name)))
          gradient.*partner = make<G>(
              "d" + name, what, sizes, where,
              fill_as(!is_read(what) || is_parameter || inputs == InputGradients::added_to));
      }
    });
  }
  OperandRun(OperandRun&&) = default;

  /// The call of the gradient, with the forward call as it is now.
  const Gradient& backward() {
    if constexpr (requires { gradient.forward; }) gradient.forward = forward;
    return gradient;
  }
  /// An operand that was described as read, to give it other numbers.
  template <class T, class E, class S>
  static TensorView<std::remove_const_t<T>, E, S> writable(const TensorView<T, E, S>& operand) {
    return {const_cast<std::remove_const_t<T>*>(operand.data()), operand.extents(),
            operand.strides()};
  }
  /// Gives an operand these numbers, in row-major order.
  template <class V>
  static void set(const V& operand, std::initializer_list<double> numbers) {
    const auto view = writable(operand);
    REQUIRE(view.size() == static_cast<Index>(numbers.size()));
    auto number = numbers.begin();
    for_each_index(view, [&](auto... i) {
      view(i...) = scalar_cast<std::remove_cvref_t<decltype(view(i...))>>(*number++);
    });
  }

  /// Moves an operand into a layout of its own; `gap` places before it along the first axis are
  /// unused, so that its addresses are aligned differently.
  template <class V>
  void lay_out(V& operand, Layout layout, Index gap = 0) {
    if (!operand) return;
    auto placed = std::apply(
        [&](Index first, auto... rest) {
          return place<typename V::Value>(layout, first + gap, rest...);
        },
        operand.extents().to_array());
    const auto view = placed.view.slice(0, gap, gap + operand.extent(0));
    copy(operand, view);
    operand = view;
    keep(std::move(placed.memory));
  }

  Op forward{};
  Gradient gradient{};

 private:
  enum class Fill { random, nan };

  template <class V>
  V make(const std::string& name, const Operand& what, const Sizes& sizes, Layout layout,
         Fill fill) {
    using Value = typename V::Value;
    constexpr int rank = V::rank();
    std::array<Index, std::size_t{rank}> extents{};
    for (std::size_t axis = 0; axis < extents.size(); ++axis) {
      const char letter = what.letters[axis];
      extents[axis] = letter <= '9' ? letter - '0' : sizes.at(letter);
    }
    return std::apply(
        [&](auto... n) {
          auto placed = place<Value>(layout, n...);
          if constexpr (std::is_floating_point_v<Value> || HalfStorage<Value>)
            if (fill == Fill::random) copy_into(placed.view, random_tensor<Value>(name, n...));
          const View<Value, rank> view = placed.view;
          keep(std::move(placed.memory));
          return V(view);
        },
        extents);
  }
  template <class T>
  void keep(DynamicTensor<T, 1>&& memory) {
    memory_.push_back(std::make_shared<DynamicTensor<T, 1>>(std::move(memory)));
  }

  std::vector<std::shared_ptr<void>> memory_;
};

/// Calls visit(what, actual, expected, is_gradient) for everything that the calls wrote.
template <class Op, class Gradient, class Visit>
void for_each_result(const OperandRun<Op, Gradient>& actual,
                     const OperandRun<Op, Gradient>& expected, Visit&& visit) {
  Op::for_each_operand([&](const Operand& what, auto member, auto partner) {
    if (what.role == Role::again) return;
    if (!is_read(what) && expected.forward.*member)
      visit(what, actual.forward.*member, expected.forward.*member, false);
    if constexpr (!std::is_null_pointer_v<decltype(partner)>)
      if (is_read(what) && expected.gradient.*partner)
        visit(what, actual.gradient.*partner, expected.gradient.*partner, true);
  });
}

/// The scalar by whose tolerance a result of this type is compared.
template <class Op, class Value>
struct ComparedIn {
  using Type = Value;
};
template <template <class, class> class Op, class T, class Space, class Value>
struct ComparedIn<Op<T, Space>, Value> {
  using Type = std::conditional_t<std::is_same_v<Value, Wide<T>>, T, Value>;
};

/// Everything that the calls wrote is the same, to the tolerance of the scalar; of a call with
/// sequences in a half type to that type's, as floats follow from them there.
template <class Op, class Gradient>
void expect_equal(const OperandRun<Op, Gradient>& actual,
                  const OperandRun<Op, Gradient>& expected) {
  for_each_result(
      actual, expected, [](const Operand& what, const auto& a, const auto& b, bool is_gradient) {
        using Value = typename std::remove_cvref_t<decltype(a)>::Value;
        using T = typename ComparedIn<Op, Value>::Type;
        CAPTURE(what.name);
        CHECK(difference(a, b) <= (is_gradient ? tolerance<T>.gradient : tolerance<T>.value));
      });
}
/// To the last bit.
template <class Op, class Gradient>
void expect_same(const OperandRun<Op, Gradient>& actual, const OperandRun<Op, Gradient>& expected) {
  for_each_result(actual, expected, [](const Operand& what, const auto& a, const auto& b, bool) {
    CAPTURE(what.name);
    CHECK(difference(a, b) == 0);
  });
}

}  // namespace ssm::test
