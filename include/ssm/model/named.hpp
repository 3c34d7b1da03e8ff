// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "ssm/core/parameter.hpp"  // dotted
#include "ssm/model/fixed_string.hpp"

namespace ssm {

/// A block of a Sequential or a part of a Chain with a name of its own, which comes before those of
/// its tensors in checkpoints and states; of a Sequential it takes the place of "layers.i".
///   Sequential<Named<"encoder", Linear<…>>, Block, Block, Named<"head", Linear<…>>>
/// It is the layer in every other way.
template <FixedString block_name, class L>
struct Named : L {
  using L::L;
  Named() requires(std::is_default_constructible_v<L>) = default;
  Named(L layer) : L(std::move(layer)) {}

  static std::string name() { return block_name.text(); }
};

namespace detail {
/// The name of a block that has one, else `otherwise`.
template <class Block>
std::string block_name(std::string otherwise) {
  if constexpr (requires { Block::name(); })
    return Block::name();
  else
    return otherwise;
}

/// A visitor of states behind a prefix, as ScopedVisit is one of parameters.
template <class Visit>
class ScopedStateVisit {
 public:
  ScopedStateVisit(std::string prefix, Visit& visit) : prefix_(std::move(prefix)), visit_(&visit) {}
  ScopedStateVisit(std::string prefix, const ScopedStateVisit& outer)
      : prefix_(dotted(outer.prefix_, prefix)), visit_(outer.visit_) {}

  template <class... Tensors>
  void operator()(const std::string& name, Tensors&... tensors) const {
    (*visit_)(dotted(prefix_, name), tensors...);
  }

 private:
  std::string prefix_;
  Visit* visit_;
};
template <class Visit>
struct ScopedStateVisitOf {
  using type = ScopedStateVisit<Visit>;
};
template <class Visit>
struct ScopedStateVisitOf<ScopedStateVisit<Visit>> {
  using type = ScopedStateVisit<Visit>;
};
template <class Visit>
struct ScopedStateVisitOf<const ScopedStateVisit<Visit>> {
  using type = ScopedStateVisit<Visit>;
};

/// Puts a block's name before every name of its states; nothing where it is empty.
template <class Visit>
auto scoped_state(std::string block, Visit&& visit) {
  using Scoped = typename ScopedStateVisitOf<std::remove_reference_t<Visit>>::type;
  return Scoped(std::move(block), visit);
}
}  // namespace detail

}  // namespace ssm
