// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "ssm/core/extents.hpp"

namespace ssm {

struct MambaConfig {
  Index channels = dyn;
  Index inner = 0;        // channels inside; 0: expand · channels
  Index expand = dyn;     // where `inner` is 0; dyn: 2, or at run time
  Index state = 16;       // N
  Index conv_width = 4;   // W
  Index dt_rank = 0;      // R; 0: ⌈channels / 16⌉
  bool conv_bias = true;  // whether there may be one
  bool bias = false;      // of in_proj and out_proj; whether there may be one
};
/// The sizes and choices of a Mamba that are given at run time.
struct MambaOptions {
  Index channels = dyn;
  Index inner = dyn;                   // left out: the type's, or expand · channels
  Index expand = dyn;                  // left out: the type's, or 2
  Index state = dyn;                   // left out: the type's, or 16
  Index conv_width = dyn;              // left out: the type's, or 4
  Index dt_rank = dyn;                 // left out: the type's, or ⌈channels / 16⌉
  std::optional<bool> conv_bias = {};  // left out: if the type allows it
  std::optional<bool> bias = {};       // likewise
  double dt_min = 0.001;               // seconds; initialization only
  double dt_max = 0.1;
  double dt_floor = 1e-4;
};

/// The sizes of a Mamba block that follow from others, `dyn` where they are not known in the type.
template <MambaConfig Config>
struct MambaSizes {
  static constexpr Index default_expand = 2;
  static constexpr Index expand = Config.expand != dyn                          ? Config.expand
                                  : Config.inner == 0 && Config.channels != dyn ? default_expand
                                                                                : dyn;
  static constexpr Index inner = Config.inner != 0        ? Config.inner
                                 : Config.channels == dyn ? dyn
                                                          : expand * Config.channels;
  static constexpr Index dt_rank = Config.dt_rank != 0      ? Config.dt_rank
                                   : Config.channels == dyn ? dyn
                                                            : (Config.channels + 15) / 16;
  static_assert(Config.inner <= 0 || Config.expand == dyn || Config.channels == dyn ||
                    Config.inner == Config.expand * Config.channels,
                "inner and expand contradict each other");

  /// inner and expand may both be given, in the type and at run time, where they agree.
  /// Throws  ArgumentError  where they do not
  static Index inner_at(const MambaOptions& options) {
    const Index channels = resolve_extent(Config.channels, options.channels, "channels");
    const bool is_expanded = expand != dyn || options.expand != dyn;
    const Index times = resolve_extent(expand, options.expand, default_expand, "expand");
    const Index result = resolve_extent(inner, options.inner, times * channels, "inner");
    if (is_expanded && result != times * channels)
      throw ArgumentError(
          message({"inner is ", result, " but expand is ", times, " for ", channels, " channels"}));
    return result;
  }
  static Index dt_rank_at(const MambaOptions& options) {
    const Index channels = resolve_extent(Config.channels, options.channels, "channels");
    return resolve_extent(dt_rank, options.dt_rank, (channels + 15) / 16, "dt_rank");
  }
};

}  // namespace ssm
