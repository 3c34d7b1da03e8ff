// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

namespace ssm {

/// A string that can be a template value: the names of tensors in a family of checkpoints.
template <std::size_t Size>
struct FixedString {
  char characters[Size];

  constexpr FixedString(const char (&text)[Size]) { std::copy_n(text, Size, characters); }
  std::string text() const { return std::string(characters, Size - 1); }
};

}  // namespace ssm
