// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "ssm/core/error.hpp"  // Index, ArgumentError

namespace ssm {

/// How many channels a layer takes: what it calls `inputs()`, or `channels()` where both sides are
/// one width.
template <class L>
Index input_channels(const L& layer) {
  if constexpr (requires { layer.inputs(); })
    return layer.inputs();
  else
    return layer.channels();
}

/// How many channels a layer gives: what it calls `outputs()`, or `channels()` where both sides are
/// one width.
template <class L>
Index output_channels(const L& layer) {
  if constexpr (requires { layer.outputs(); })
    return layer.outputs();
  else
    return layer.channels();
}

namespace detail {
/// Throws  ArgumentError  unless what one part of a layer gives is what the next one takes
[[gnu::cold]] inline void require_fitting(const char* who, const std::string& first, Index gives,
                                          const std::string& second, Index takes) {
  if (gives != takes)
    throw ArgumentError(
        message({who, ": ", first, " gives ", gives, " channels, ", second, " takes ", takes}));
}
}  // namespace detail

}  // namespace ssm
