// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <type_traits>
#include <utility>

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
}  // namespace detail

}  // namespace ssm
