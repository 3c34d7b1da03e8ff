// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "ssm/core/error.hpp"  // Index, dyn, ShapeError

namespace ssm {

/// The sizes of a tensor, each axis either static (a number) or `dyn` (a run-time number).
///   Extents<dyn, dyn, 256> e(batch, length);   e[2] == 256, known to the compiler
/// Cost    stores the dynamic axes only
/// Throws  ShapeError  if a run-time number contradicts a static axis or is negative
template <Index... E>
class Extents {
 public:
  static constexpr int rank() { return int{sizeof...(E)}; }
  static constexpr int rank_dynamic() { return (0 + ... + int{E == dyn}); }
  static constexpr Index static_extent(int axis) {
    return static_extents[static_cast<std::size_t>(axis)];
  }

  constexpr Extents() = default;

  /// Every axis, or only the dynamic ones, in order.
  template <std::convertible_to<Index>... N>
    requires(sizeof...(N) > 0 &&
             (sizeof...(N) == sizeof...(E) || int{sizeof...(N)} == rank_dynamic()))
  constexpr Extents(N... n) {
    const std::array<Index, sizeof...(N)> given{static_cast<Index>(n)...};
    std::size_t next = 0;
    for (int axis = 0; axis < rank(); ++axis) {
      const bool is_dynamic = static_extent(axis) == dyn;
      if (sizeof...(N) != sizeof...(E) && !is_dynamic) continue;
      assign(axis, given[next++]);
    }
  }

  /// From extents that agree on every axis where both are static; the others are checked here.
  template <Index... F>
    requires(sizeof...(F) == sizeof...(E) && ((F == E || F == dyn || E == dyn) && ...))
  constexpr Extents(const Extents<F...>& other) {
    for (int axis = 0; axis < rank(); ++axis) assign(axis, other[axis]);
  }

  constexpr Index operator[](int axis) const {
    if constexpr (rank_dynamic() == rank()) return dynamic_[static_cast<std::size_t>(axis)];
    const Index fixed = static_extent(axis);
    return fixed != dyn ? fixed : dynamic_[slot(axis)];
  }
  constexpr Index size() const {
    Index product = 1;
    for (int axis = 0; axis < rank(); ++axis) product *= (*this)[axis];
    return product;
  }
  constexpr std::array<Index, sizeof...(E)> to_array() const {
    std::array<Index, sizeof...(E)> all{};
    for (int axis = 0; axis < rank(); ++axis) all[static_cast<std::size_t>(axis)] = (*this)[axis];
    return all;
  }

  /// The extents in memory, where all are known at run time.
  constexpr const Index* data() const requires(rank_dynamic() == rank()) { return dynamic_.data(); }

  template <Index... F>
  friend constexpr bool operator==(const Extents& a, const Extents<F...>& b) {
    if constexpr (sizeof...(F) != sizeof...(E)) {
      return false;
    } else {
      for (int axis = 0; axis < rank(); ++axis)
        if (a[axis] != b[axis]) return false;
      return true;
    }
  }

 private:
  static constexpr std::array<Index, sizeof...(E) + 1> static_extents{E..., 0};
  static constexpr std::size_t slot(int axis) { return slots[static_cast<std::size_t>(axis)]; }
  /// Where in `dynamic_` the size of each axis is, if it is there.
  static constexpr auto slots = [] {
    std::array<std::size_t, sizeof...(E) + 1> before{};
    for (std::size_t i = 0; i < sizeof...(E); ++i)
      before[i + 1] = before[i] + (static_extents[i] == dyn ? 1U : 0U);
    return before;
  }();
  constexpr void assign(int axis, Index n) {
    if constexpr (rank_dynamic() == rank()) {
      if (n < 0) detail::refuse_size(axis, dyn, n);
      dynamic_[static_cast<std::size_t>(axis)] = n;
    } else {
      const Index fixed = static_extent(axis);
      if (n < 0 || (fixed != dyn && n != fixed)) detail::refuse_size(axis, fixed, n);
      if (fixed == dyn) dynamic_[slot(axis)] = n;
    }
  }

  std::array<Index, static_cast<std::size_t>(rank_dynamic())> dynamic_{};
};

namespace detail {
template <class Axes>
struct ExtentsOfRank;
template <std::size_t... Axis>
struct ExtentsOfRank<std::index_sequence<Axis...>> {
  using Type = Extents<(static_cast<void>(Axis), dyn)...>;
};
}  // namespace detail

/// All axes at run time.
template <int Rank>
using DynamicExtents =
    typename detail::ExtentsOfRank<std::make_index_sequence<static_cast<std::size_t>(Rank)>>::Type;

/// The static size of a configuration field, or the run-time one where the static one is `dyn`.
/// Throws  ArgumentError  if neither is given or they contradict each other
[[gnu::noinline]] inline Index resolve_extent(Index fixed, Index at_run_time, const char* name) {
  if (fixed != dyn && at_run_time != dyn && fixed != at_run_time)
    throw ArgumentError(
        message({name, " is ", fixed, " in the type but ", at_run_time, " at run time"}));
  const Index value = fixed != dyn ? fixed : at_run_time;
  if (value <= 0)
    throw ArgumentError(message({name, " must be a positive number, got ",
                                 (value == dyn ? std::string("none") : std::to_string(value))}));
  return value;
}

/// The same for a size with a default value, which counts where neither is given.
inline Index resolve_extent(Index fixed, Index at_run_time, Index by_default, const char* name) {
  return resolve_extent(fixed, fixed == dyn && at_run_time == dyn ? by_default : at_run_time, name);
}

/// Whether a layer has something that its type allows or rules out, a bias for example. Left out at
/// run time: what is allowed is there.
/// Throws  ArgumentError  if it is asked for at run time and ruled out by the type
[[gnu::noinline]] inline bool resolve_presence(bool allowed, std::optional<bool> at_run_time,
                                               const char* name) {
  if (!allowed && at_run_time.value_or(false))
    throw ArgumentError(message({name, " is false in the type but true at run time"}));
  return at_run_time.value_or(allowed);
}

}  // namespace ssm
