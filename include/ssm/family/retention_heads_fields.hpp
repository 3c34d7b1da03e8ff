// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/family/options.hpp"
#include "ssm/io/json_file.hpp"

namespace ssm::detail {

/// Heads share widths evenly, and keys turn in pairs.
inline void require_retention_heads(const JsonObject& json, const char* keys_field, Index keys,
                                    const char* values_field, Index values, Index heads) {
  if (keys % (2 * heads) != 0)
    json.refuse(keys_field, "must be a multiple of twice the number of heads");
  if (values % heads != 0) json.refuse(values_field, "must be a multiple of the number of heads");
}

/// The same for sizes that options gave.
inline void require_retention_heads(Index keys, Index values, Index heads) {
  if (heads < 1 || keys % (2 * heads) != 0 || values % heads != 0)
    throw OptionError("heads", std::to_string(heads) + " heads do not divide keys of " +
                                   std::to_string(keys) + " channels into pairs and values of " +
                                   std::to_string(values));
}

/// The rotation's angles and the heads' decays, which published programs store.
inline std::optional<std::vector<Index>> extents_of_retention_constant(std::string_view tensor,
                                                                       std::string_view module,
                                                                       Index keys, Index heads) {
  if (!tensor.starts_with(module)) return std::nullopt;
  tensor.remove_prefix(module.size());
  if (tensor == "angle") return std::vector<Index>{keys / heads};
  if (tensor == "decay") return std::vector<Index>{heads};
  return std::nullopt;
}

}  // namespace ssm::detail
