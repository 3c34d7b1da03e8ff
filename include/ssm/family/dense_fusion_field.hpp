// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "ssm/family/options.hpp"  // name_of
#include "ssm/io/json_file.hpp"
#include "ssm/layer/dense_fusion.hpp"

namespace ssm::detail {

/// What configurations call the field; published ones have none.
inline constexpr const char* dense_fusion_field = "dense_fusion";

inline constexpr const char* select_reduction_help =
    "the gates of dense models go through width / this many channels";

/// Throws  CheckpointError  for a word that is neither "readout" nor "carried"
inline DenseFusion read_dense_fusion(const JsonObject& json, DenseFusion otherwise) {
  const std::string given = json.text(dense_fusion_field, std::string(name_of(otherwise)));
  for (const DenseFusion fusion : {DenseFusion::readout, DenseFusion::carried})
    if (given == name_of(fusion)) return fusion;
  json.refuse(dense_fusion_field, "must be \"readout\" or \"carried\"");
}

/// The settings that dense models share.
void visit_dense_options(auto& sources, auto& fusion, auto&& visit) {
  visit("sources", sources, "earlier layers that a layer of a dense model reads, at most 8");
  visit("fusion", fusion, "where dense models join earlier layers' states with their own");
}

}  // namespace ssm::detail
