// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "ssm/io/json_file.hpp"

namespace ssm {

/// The kinds of language models whose configurations are known.
enum class ModelFamily { h3, mamba, dense_mamba, retnet, dense_retnet, other };

inline std::string_view name_of(ModelFamily family) {
  switch (family) {
    case ModelFamily::h3:
      return "h3";
    case ModelFamily::mamba:
      return "mamba";
    case ModelFamily::dense_mamba:
      return "dense-mamba";
    case ModelFamily::retnet:
      return "retnet";
    case ModelFamily::dense_retnet:
      return "dense-retnet";
    case ModelFamily::other:
      return "other";
  }
  return "other";
}

/// What a config.json is the configuration of: by its model_type, or by the fields that only one family has where the
/// published code writes none. DenseRetNet shares the type "llama" with models that are none.
inline ModelFamily model_family(const JsonObject& json) {
  const std::string type = json.text("model_type", "");
  if (type == "mamba") return ModelFamily::mamba;
  if (type == "dense_mamba") return ModelFamily::dense_mamba;
  if (json.has("query_key_dim") && json.has("dense_block_layers")) return ModelFamily::dense_retnet;
  if (!type.empty()) return ModelFamily::other;
  if (json.has("decoder_retention_heads")) return ModelFamily::retnet;
  if (json.has("d_model") && json.has("n_layer"))
    return json.has("d_inner") ? ModelFamily::h3 : ModelFamily::mamba;
  return ModelFamily::other;
}

}  // namespace ssm
