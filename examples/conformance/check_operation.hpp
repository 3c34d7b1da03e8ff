// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/operands.hpp"
#include "trial.hpp"

namespace ssm::conformance {

/// For a primitive without a gradient.
struct NoGradient {};

/// Runs one primitive over one case: whole sequence, gradients, chunks, single positions. What is
/// read and what is compared follows from the description of its operands. Results start as NaN,
/// gradients of parameters as zero. A file may hold the last axes of an operand as one, where the
/// extents of these are set before, and its first axis as several:
///   [B, L, H·P] for "BLHP"
///   [B, L, D] for "MD"
template <class B, class Op, class Gradient = NoGradient>
class OperationCheck {
 public:
  /// What the file calls an operand, where that is another name: "skip" is "D"; or where in the
  /// file it is: "dlogits" is "grad/input/logits".
  using Names = std::map<std::string, std::string>;
  /// By letter, from the config.
  using Extents = std::map<char, Index>;

  explicit OperationCheck(Trial& trial, Names names = {}, Extents extents = {})
      : trial_(trial), names_(std::move(names)), extents_(std::move(extents)) {
    extents_['1'] = 1;
    ctx_.workspace().fill_with_nan(true);
    if constexpr (requires { forward.segments; }) {
      segments_ = trial.segments();
      forward.segments = segments_;
    }
    Op::for_each_operand([&]<class V>(const Operand& what, V Op::*member, auto) {
      if (!is_read(what) || (what.is_optional && !trial_.has(forward_name(what)))) return;
      forward.*member = read<V>(forward_name(what), what);
    });
    if (extents_.contains('B')) extents_['S'] = sequence_count(extents_['B'], segments_);
    Op::for_each_operand([&]<class V>(const Operand& what, V Op::*member, auto partner) {
      if (what.role != Role::output && what.role != Role::final_state) return;
      // what has a gradient of its own and may be left out is a result in some files alone
      const bool is_extra = what.is_optional && what.role == Role::output &&
                            !std::is_null_pointer_v<decltype(partner)>;
      if (!is_extra || trial_.has(forward_name(what))) forward.*member = make<V>(what);
    });
  }

  /// `evaluate(ctx, forward)` and `differentiate(ctx, gradient)` are the two calls.
  template <class Evaluate, class Differentiate>
  void run(Evaluate&& evaluate, Differentiate&& differentiate) {
    evaluate(ctx_, std::as_const(forward));
    compare_results();
    if (trial_.has_any("grad/")) {
      make_gradients();
      differentiate(ctx_, std::as_const(gradient));
      compare_gradients();
    }
    bool has_state = false;
    for_each_state([&](auto, auto) { has_state = true; });
    if (!has_state || trial_.splits().empty()) return;
    run_chunks(evaluate, " in chunks", trial_.splits());
    run_chunks(evaluate, " by steps",
               std::vector<Index>(static_cast<std::size_t>(extents_.at('L')), 1));
  }
  /// Without a gradient.
  template <class Evaluate>
  void run(Evaluate&& evaluate) {
    evaluate(ctx_, std::as_const(forward));
    compare_results();
  }

  Op forward{};
  Gradient gradient{};

 private:
  std::string name_in_file(const std::string& prefix, const Operand& what) const {
    const auto found = names_.find(what.name);
    if (found == names_.end()) return prefix + what.name;
    const bool is_place = found->second.find('/') != std::string::npos;
    return is_place ? found->second : prefix + found->second;
  }
  std::string forward_name(const Operand& what) const {
    if (what.role == Role::parameter) return name_in_file("param/", what);
    if (what.role == Role::initial_state) return name_in_file("state/initial/", what);
    if (what.role == Role::final_state) return name_in_file("state/final/", what);
    return name_in_file(what.role == Role::output ? "output/" : "input/", what);
  }
  /// Of the gradient of what is read, and of what is written.
  std::string gradient_name(const Operand& what) const {
    if (what.role == Role::parameter) return name_in_file("grad/param/", what);
    if (what.role == Role::initial_state) return name_in_file("grad/state/", what);
    if (what.role == Role::final_state) return name_in_file("cotangent/state/", what);
    return name_in_file(what.role == Role::output ? "cotangent/" : "grad/input/", what);
  }

  /// The shape that a tensor of the file must have to be an operand with these letters. Sets the
  /// extents that no operand before it has set.
  std::vector<Index> shape_of(const std::string& name, std::string_view letters) {
    const auto shape = trial_.shape(name);
    std::vector<Index> expected(shape.begin(), shape.end());
    if (shape.empty()) throw CaseError("tensor '" + name + "' has no axes");
    const auto expect = [&](std::size_t axis, char letter, Index found) {
      const Index extent = extents_.try_emplace(letter, found).first->second;
      if (extent != found) expected[axis] = extent;
    };
    if (shape.size() < letters.size()) {
      expected.back() = 1;
      for (const char letter : letters.substr(shape.size() - 1)) {
        if (!extents_.contains(letter)) throw CaseError("tensor '" + name + "' has too few axes");
        expected.back() *= extents_[letter];
      }
      for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis)
        expect(axis, letters[axis], shape[axis]);
      return expected;
    }
    const std::size_t more = shape.size() - letters.size();
    const auto rows = shape.first(more + 1);
    expect(0, letters[0], std::accumulate(rows.begin(), rows.end(), Index{1}, std::multiplies<>()));
    for (std::size_t axis = 1; axis < letters.size(); ++axis)
      expect(more + axis, letters[axis], shape[more + axis]);
    return expected;
  }
  /// An operand with memory of its own, of NaN.
  template <class V>
  V make(const Operand& what) {
    using Value = typename V::Value;
    constexpr std::size_t rank{V::rank()};
    std::array<Index, rank> extents{};
    std::transform(what.letters, what.letters + rank, extents.begin(),
                   [&](char letter) { return extents_.at(letter); });
    const auto tensor = std::apply(
        [](auto... n) {
          return std::make_shared<DynamicTensor<Value, V::rank()>>(DynamicExtents<V::rank()>(n...));
        },
        extents);
    memory_.push_back(tensor);
    if constexpr (std::is_floating_point_v<Value>)
      fill(*tensor, std::numeric_limits<Value>::quiet_NaN());
    return V(tensor->view());
  }
  template <class V>
  V read(const std::string& name, const Operand& what) {
    using Value = typename V::Value;
    const auto shape = shape_of(name, what.letters);
    const auto fill_from = [&](const auto& numbers, auto convert) {
      const auto operand = make<View<Value, V::rank()>>(what);
      std::transform(numbers.begin(), numbers.end(), operand.data(), convert);
      return V(operand);
    };
    if constexpr (std::is_same_v<Value, Token>)
      return fill_from(trial_.whole_numbers(name, shape),
                       [&](auto number) { return Trial::as_token(number, name); });
    else if constexpr (std::is_integral_v<Value>)
      return fill_from(trial_.whole_numbers(name, shape), [](auto number) { return number; });
    else
      return fill_from(trial_.numbers(name, shape),
                       [](double number) { return static_cast<Value>(number); });
  }
  template <class V>
  void compare(const std::string& name, const Operand& what, const V& actual) {
    std::vector<double> numbers;
    for_each_element([&](auto x) { numbers.push_back(static_cast<double>(x)); },
                     View<const typename V::Value, V::rank()>(actual));
    constexpr Tolerance allowed = tolerance<typename V::Value>;
    trial_.compare_flat(name, shape_of(name, what.letters), numbers,
                        name.starts_with("grad/") ? allowed.gradient : allowed.value);
  }

  void compare_results() {
    Op::for_each_operand([&](const Operand& what, auto member, auto) {
      const bool is_result = what.role == Role::output || what.role == Role::final_state;
      if (!is_result || !(forward.*member)) return;
      if (!what.is_optional || trial_.has(forward_name(what)))
        compare(forward_name(what), what, forward.*member);
    });
  }
  void make_gradients() {
    if constexpr (requires { gradient.forward; }) gradient.forward = forward;
    Op::for_each_operand([&](const Operand& what, auto member, auto partner) {
      if constexpr (!std::is_null_pointer_v<decltype(partner)>) {
        using G = std::remove_cvref_t<decltype(gradient.*partner)>;
        if (what.role == Role::again) {
          if constexpr (std::is_assignable_v<G&, decltype(forward.*member)>)
            gradient.*partner = forward.*member;
        } else if (!is_read(what)) {
          if (!what.is_optional || trial_.has(gradient_name(what)))
            gradient.*partner = read<G>(gradient_name(what), what);
        } else if (forward.*member || what.role == Role::initial_state) {
          gradient.*partner = make<G>(what);
          if constexpr (!std::is_const_v<typename G::Element>)
            if (what.role == Role::parameter) fill(gradient.*partner, 0);
        }
      }
    });
  }
  void compare_gradients() {
    Op::for_each_operand([&](const Operand& what, auto, auto partner) {
      if constexpr (!std::is_null_pointer_v<decltype(partner)>)
        if (is_read(what) && trial_.has(gradient_name(what)))
          compare(gradient_name(what), what, gradient.*partner);
    });
  }

  /// Calls visit(initial, final) with the members of every state.
  template <class Visit>
  void for_each_state(Visit&& visit) {
    Op::for_each_operand([&]<class I>(const Operand& first, I Op::*initial, auto) {
      Op::for_each_operand([&]<class F>(const Operand& last, F Op::*final, auto) {
        if constexpr (std::is_const_v<typename I::Element> &&
                      std::is_same_v<typename I::Value, typename F::Element> &&
                      I::rank() == F::rank())
          if (first.role == Role::initial_state && last.role == Role::final_state &&
              std::string_view(first.name).substr(8) == std::string_view(last.name).substr(6))
            visit(initial, final);
      });
    });
  }
  /// The states are carried from one chunk to the next, in place.
  template <class Evaluate>
  void run_chunks(Evaluate& evaluate, std::string phase, const std::vector<Index>& lengths) {
    trial_.enter(std::move(phase));
    for_each_state([&](auto initial, auto final) {
      if (forward.*initial)
        copy(forward.*initial, forward.*final);
      else
        fill(forward.*final, 0);
    });
    Index begin = 0;
    for (const Index length : lengths) {
      Op chunk = forward;
      Op::for_each_operand([&]<class V>(const Operand& what, V Op::*member, auto) {
        if (what.role == Role::again || !(chunk.*member)) return;
        if constexpr (V::rank() > 1)
          if (std::string_view(what.letters).starts_with("BL"))
            chunk.*member = (chunk.*member).slice(1, begin, begin + length);
        if constexpr (!std::is_const_v<typename V::Element>)
          if (what.role == Role::output)
            fill(chunk.*member, std::numeric_limits<double>::quiet_NaN());
      });
      for_each_state([&](auto initial, auto final) { chunk.*initial = forward.*final; });
      evaluate(ctx_, std::as_const(chunk));
      begin += length;
    }
    compare_results();
    trial_.enter("");
  }

  Trial& trial_;
  Names names_;
  Extents extents_;
  Context<B> ctx_;
  std::vector<Index> segments_;
  std::vector<std::shared_ptr<void>> memory_;
};

}  // namespace ssm::conformance
