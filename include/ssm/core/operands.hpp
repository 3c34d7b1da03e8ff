// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <type_traits>

#include "ssm/core/error.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/core/tensor_view.hpp"

namespace ssm {

/// What a call does with an operand, and the call of its gradient with the operand's partner.
enum class Role : unsigned char {
  input,          // read;         its gradient is overwritten
  parameter,      // read;         its gradient is added to
  initial_state,  // read, zero if left out; its gradient is overwritten
  final_state,    // overwritten;  its gradient is read, zero if left out
  output,         // overwritten;  its gradient is read
  updated,        // read and overwritten, or added to
  again,          // described before: the call of the gradient reads it once more
};

/// One operand of a primitive: its name, a letter for each axis, and what is done with it. The same
/// letter is the same extent in every operand of a call; S is the number of sequences that B, L and
/// the segments make; a digit is an extent.
///   struct Scale {
///     View<const T, 3, Space> x{};
///     View<const T, 1, Space> factor{};
///     View<T, 3, Space> y{};
///     static constexpr const char* name = "scale";
///     static constexpr void for_each_operand(auto&& visit) {
///       using Gradient = ScaleBackward<T, Space>;
///       visit(input("x", "BLD"), &Scale::x, &Gradient::dx);
///       visit(parameter("factor", "D").optional(), &Scale::factor, &Gradient::dfactor);
///       visit(output("y", "BLD"), &Scale::y, &Gradient::dy);
///     }
///   };
/// An operand without a gradient has nullptr for its partner. Checks, tests, and counts of bytes
/// are made from this description.
struct Operand {
  const char* name;
  const char* letters;
  Role role;
  bool is_optional = false;           // may be left out
  bool has_optional_gradient = true;  // of what is read

  /// The same, which a call may leave out.
  constexpr Operand optional() const {
    Operand other = *this;
    other.is_optional = true;
    return other;
  }
  /// The same, whose gradient the call of the gradient may not leave out.
  constexpr Operand with_gradient() const {
    Operand other = *this;
    other.has_optional_gradient = false;
    return other;
  }
};

/// An operand with Role::input.
constexpr Operand input(const char* name, const char* letters) {
  return {name, letters, Role::input};
}
/// An operand with Role::parameter.
constexpr Operand parameter(const char* name, const char* letters) {
  return {name, letters, Role::parameter};
}
/// An operand with Role::initial_state, optional.
constexpr Operand initial_state(const char* name, const char* letters) {
  return {name, letters, Role::initial_state, true};
}
/// An operand with Role::final_state, optional.
constexpr Operand final_state(const char* name, const char* letters) {
  return {name, letters, Role::final_state, true};
}
/// An operand with Role::output.
constexpr Operand output(const char* name, const char* letters) {
  return {name, letters, Role::output};
}
/// An operand with Role::updated.
constexpr Operand updated(const char* name, const char* letters) {
  return {name, letters, Role::updated};
}
/// An operand with Role::again.
constexpr Operand again(const char* name, const char* letters) {
  return {name, letters, Role::again};
}

/// Whether a call reads the operand; then the call of its gradient writes the operand's gradient.
constexpr bool is_read(const Operand& operand) {
  return operand.role == Role::input || operand.role == Role::parameter ||
         operand.role == Role::initial_state;
}

/// Whether a call is checked by itself, or inside the call of its gradient, which writes nothing of
/// it.
enum class CallKind { itself, of_gradient };

/// The extents of a call by letter. Each is fixed by the first operand that has it.
class ExtentsByLetter {
 public:
  /// `op` is what errors name.
  explicit ExtentsByLetter(const char* op, Segments segments = {}) : op_(op), segments_(segments) {
    for (Index& extent : extents_) extent = dyn;
  }

  /// The extent of a letter, or `dyn` where no operand has fixed it yet.
  Index operator[](char letter) const { return extents_[place(letter)]; }
  /// Fixes the extent of a letter.
  void set(char letter, Index extent) { extents_[place(letter)] = extent; }

  /// From here on errors are about the call of the gradient, "scale_backward".
  void begin_gradient() { is_gradient_ = true; }

  /// Throws  ShapeError  if an operand that is given does not fit, or one that must be is missing
  template <class T, class E, class S>
  void require(const Operand& what, const TensorView<T, E, S>& view) {
    require(what, view ? view.extents().data() : nullptr, CallKind::itself);
  }
  /// The same by the operand's extents, null where it is not given.
  [[gnu::noinline]] void require(const Operand& what, const Index* extents, CallKind kind) {
    if (what.role == Role::again || (kind == CallKind::of_gradient && !is_read(what))) return;
    require(what.name, what.letters, what.is_optional, extents);
  }
  /// The same for the gradient of an operand; `is_first`: only of what is always there, else only
  /// of the rest. `is_absent`: the call of the gradient has the forward call, which lacks it.
  [[gnu::noinline]] void require_gradient(const Operand& what, const Index* extents, bool is_first,
                                          bool is_absent) {
    if (is_first != (what.role == Role::again || what.role == Role::output)) return;
    if (what.role == Role::again)
      return require(what.name, what.letters, what.is_optional, extents);
    bool is_optional = what.role == Role::final_state || what.is_optional;
    if (is_read(what)) {
      is_absent = is_absent && what.role != Role::initial_state;
      if (is_absent && extents != nullptr) refuse_gradient(what);
      is_optional = what.has_optional_gradient || is_absent;
    }
    require(what.name, what.letters, is_optional, extents, is_gradient);
  }
  /// Throws  ShapeError  unless the segments cut L into sequences
  void require_segments() {
    if ((*this)['B'] == dyn || (*this)['L'] == dyn || (*this)['S'] != dyn) return;
    if (!are_segments(segments_, (*this)['B'], (*this)['L']))
      detail::refuse_segments(op_name(), segments_, (*this)['B'], (*this)['L']);
    set('S', sequence_count((*this)['B'], segments_));
  }
  /// Throws  ShapeError:  the operand of that name, and the reason
  [[noreturn, gnu::cold, gnu::noinline]] void refuse(const char* name,
                                                     const std::string& reason) const {
    throw ShapeError(op_name(), name, reason);
  }
  /// Throws  ShapeError:  there is a gradient of an operand that there is not
  [[noreturn, gnu::cold, gnu::noinline]] void refuse_gradient(const Operand& what) const {
    throw ShapeError(op_name(), message({"d", what.name}),
                     message({"is given, but the ", what.name, " is not"}));
  }

 private:
  static constexpr std::size_t place(char letter) { return static_cast<std::size_t>(letter - 'A'); }

  static constexpr bool is_gradient = true;

  /// `extents` is null where the operand is not given.
  void require(const char* name, const char* letters, bool is_optional, const Index* extents,
               bool of_gradient = false) {
    if (extents == nullptr && is_optional) return;
    if (extents == nullptr || !take(letters, extents))
      refuse_extents(name, letters, extents, of_gradient);
  }
  /// Whether extents agree with those that are fixed; fixes the others.
  bool take(const char* letters, const Index* extents) {
    for (std::size_t axis = 0; letters[axis] != 0; ++axis) {
      const Index expected = expected_at(letters[axis]);
      if (expected != dyn && expected != extents[axis]) return false;
    }
    for (std::size_t axis = 0; letters[axis] != 0; ++axis) {
      if (letters[axis] <= '9') continue;
      Index& fixed = extents_[place(letters[axis])];
      if (fixed != dyn && fixed != extents[axis]) return false;
      fixed = extents[axis];
    }
    return true;
  }
  Index expected_at(char letter) {
    if (letter <= '9') return letter - '0';
    if (letter == 'S') require_segments();
    return (*this)[letter];
  }
  [[noreturn, gnu::cold, gnu::noinline]] void refuse_extents(const char* name, const char* letters,
                                                             const Index* extents,
                                                             bool of_gradient) {
    Index expected[8] = {};
    std::size_t rank = 0;
    for (; letters[rank] != 0; ++rank) expected[rank] = expected_at(letters[rank]);
    detail::refuse_extents(op_name(), message({of_gradient ? "d" : "", name}), extents != nullptr,
                           {expected, rank}, {extents, extents == nullptr ? 0 : rank});
  }
  std::string op_name() const { return message({op_, is_gradient_ ? "_backward" : ""}); }

  const char* op_;
  Segments segments_;
  bool is_gradient_ = false;
  Index extents_[26];
};

namespace detail {
/// The extents of an operand; null where it is not given.
template <class V>
const Index* extents_of(const V& view) {
  return view ? view.extents().data() : nullptr;
}

/// Checks what a call reads and, unless it is inside the call of its gradient, what it writes.
template <class Op>
struct RequireOperands {
  const Op& a;
  ExtentsByLetter& extents;
  CallKind kind;

  template <class V, class Partner>
  void operator()(const Operand& what, V Op::*member, Partner) const {
    extents.require(what, extents_of(a.*member), kind);
  }
};

template <class Call>
ExtentsByLetter begin_extents(const Call& a, const char* op) {
  ExtentsByLetter extents = [&] {
    if constexpr (requires { a.segments; })
      return ExtentsByLetter(op, a.segments);
    else
      return ExtentsByLetter(op);
  }();
  if constexpr (requires { a.fix_extents(extents); }) a.fix_extents(extents);
  return extents;
}

template <class Op>
ExtentsByLetter require_operands(const Op& a, CallKind kind) {
  ExtentsByLetter extents = begin_extents(a, Op::name);
  Op::for_each_operand(RequireOperands<Op>{a, extents, kind});
  extents.require_segments();
  if constexpr (requires { a.require_rest(extents); }) a.require_rest(extents);
  return extents;
}

/// Checks what the call of a gradient has beside the forward call; first what is always there.
template <class Op, class Gradient>
struct RequireGradients {
  const Gradient& g;
  ExtentsByLetter& extents;
  bool is_first;

  template <class V>
  void operator()(const Operand&, V Op::*, std::nullptr_t) const {}
  template <class V, class P>
  void operator()(const Operand& what, V Op::*member, P Gradient::*partner) const {
    bool is_absent = false;
    if constexpr (requires { g.forward.*member; }) is_absent = !(g.forward.*member);
    extents.require_gradient(what, extents_of(g.*partner), is_first, is_absent);
  }
};
}  // namespace detail

/// Throws  ShapeError  unless every operand of a call is as it is described; returns the extents.
/// A primitive may say more:
///   void fix_extents(ExtentsByLetter&) const          first: extents that follow from others
///   void require_rest(const ExtentsByLetter&) const   what letters cannot say
template <class Op>
ExtentsByLetter require_operands(const Op& a) {
  return detail::require_operands(a, CallKind::itself);
}

/// The same for the call of a gradient, its `forward` included where it has one.
template <class Op, class Gradient>
ExtentsByLetter require_gradients(const Gradient& g) {
  ExtentsByLetter extents = [&] {
    if constexpr (requires { g.forward; })
      return detail::require_operands(g.forward, CallKind::of_gradient);
    else
      return detail::begin_extents(g, Op::name);
  }();
  extents.begin_gradient();
  for (const bool is_first : {true, false}) {
    Op::for_each_operand(detail::RequireGradients<Op, Gradient>{g, extents, is_first});
    if (is_first) extents.require_segments();
  }
  if constexpr (requires { g.require_rest(extents); }) g.require_rest(extents);
  return extents;
}

/// How many bytes the operands of a call have together: what it moves at least.
template <class Op>
double operand_bytes(const Op& a) {
  double sum = 0;
  Op::for_each_operand([&](const Operand& what, auto member, auto) {
    using Value = typename std::remove_cvref_t<decltype(a.*member)>::Value;
    if (what.role != Role::again && a.*member)
      sum += static_cast<double>((a.*member).size()) * static_cast<double>(sizeof(Value));
  });
  return sum;
}

}  // namespace ssm
