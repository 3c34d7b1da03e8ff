// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "ssm/io/json_file.hpp"
#include "ssm/layer/dense_fusion.hpp"

namespace ssm::detail {

/// What configurations call the field; published ones have none.
inline constexpr const char* dense_fusion_field = "dense_fusion";

inline std::string_view name_of(DenseFusion fusion) {
  return fusion == DenseFusion::readout ? "readout" : "carried";
}

/// Throws  CheckpointError  for a word that is neither "readout" nor "carried"
inline DenseFusion read_dense_fusion(const JsonObject& json, DenseFusion usual) {
  const std::string given = json.text(dense_fusion_field, std::string(name_of(usual)));
  for (const DenseFusion fusion : {DenseFusion::readout, DenseFusion::carried})
    if (given == name_of(fusion)) return fusion;
  json.refuse(dense_fusion_field, "must be \"readout\" or \"carried\"");
}

}  // namespace ssm::detail
