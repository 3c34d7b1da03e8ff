// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <type_traits>
#include <utility>

#include "ssm/core/random.hpp"  // Seed
#include "ssm/core/segments.hpp"
#include "ssm/core/tensor_view.hpp"

namespace ssm {

namespace detail {
/// The seed of a part of a layer, or of one of several layers, if there is one.
template <class Part>
std::optional<Seed> fork(const std::optional<Seed>& seed, const Part& part) {
  if (!seed) return std::nullopt;
  return seed->fork(part);
}

/// A tensor of a state; a null view where there is no state.
template <class State, class Tensor, class Of>
auto tensor_of(State* state, Tensor Of::*member) {
  using Whole = decltype((state->*member).view());
  View<typename Whole::Element, Whole::rank(), typename Whole::Space> result;
  if (state != nullptr) result = (state->*member).view();
  return result;
}
}  // namespace detail

/// What a sequence brings along and leaves behind. Left out: not packed, zero initial state, final
/// state not wanted, nothing dropped. `dropout` seeds the dropout of layers that have some, in
/// calls with a tape. `initial_state` and `final_state` may be the same object.
template <class State>
struct SequenceOptions {
  Segments segments = {};
  const State* initial_state = nullptr;
  State* final_state = nullptr;
  std::optional<Seed> dropout = {};

  /// A tensor of either state, for an operand that may be left out: a null view where the state is.
  ///   scan.initial_state = options.initial(&State<T, Space>::ssm);
  template <class Tensor, class Of>
  auto initial(Tensor Of::*member) const {
    return detail::tensor_of(initial_state, member);
  }
  template <class Tensor, class Of>
  auto final(Tensor Of::*member) const {
    return detail::tensor_of(final_state, member);
  }

  /// The same for a part of the layer, whose state is of(state).
  template <class Of>
  auto part(Of of) const {
    using Part = std::remove_cvref_t<decltype(of(std::declval<State&>()))>;
    SequenceOptions<Part> result{.segments = segments, .dropout = dropout};
    if (initial_state != nullptr) result.initial_state = &of(*initial_state);
    if (final_state != nullptr) result.final_state = &of(*final_state);
    return result;
  }
  /// One of several parts, which `key` tells apart: each drops something else.
  template <class Of, class Key>
  auto part(Of of, const Key& key) const {
    auto result = part(of);
    result.dropout = detail::fork(dropout, key);
    return result;
  }
};

/// The gradients at both ends of a sequence: that of the final state comes in (zero if left out),
/// that of the initial state goes out (overwritten).
template <class State>
struct SequenceGradients {
  const State* final_state = nullptr;
  State* initial_state = nullptr;

  /// The gradient of a tensor of either state: a null view where it is left out.
  template <class Tensor, class Of>
  auto final(Tensor Of::*member) const {
    return detail::tensor_of(final_state, member);
  }
  template <class Tensor, class Of>
  auto initial(Tensor Of::*member) const {
    return detail::tensor_of(initial_state, member);
  }

  /// The same for a part of the layer, whose state is of(state).
  template <class Of>
  auto part(Of of) const {
    using Part = std::remove_cvref_t<decltype(of(std::declval<State&>()))>;
    SequenceGradients<Part> result;
    if (final_state != nullptr) result.final_state = &of(*final_state);
    if (initial_state != nullptr) result.initial_state = &of(*initial_state);
    return result;
  }
};

/// The state of a layer without memory.
struct NoState {};

}  // namespace ssm
