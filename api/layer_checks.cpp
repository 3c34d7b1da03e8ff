// SPDX-License-Identifier: Apache-2.0
// What is checked of a layer's tensors, whatever the layer is.
#include <algorithm>

#include "layer_on.hpp"

namespace ssm::api {

const char* role_name(ParameterRole role) {
  switch (role) {
    case ParameterRole::bias:
      return "bias";
    case ParameterRole::norm:
      return "norm";
    case ParameterRole::embedding:
      return "embedding";
    case ParameterRole::ssm:
      return "ssm";
    default:
      return "weight";
  }
}

void require_count(std::size_t given, std::size_t expected, const char* what) {
  if (given != expected)
    throw ArgumentError(
        message({what, "list: the layer has ", expected, " parameters, got ", given, " tensors"}));
}

void require_as(const ssm_tensor* tensor, const std::string& name, std::span<const Index> extents,
                ssm_scalar scalar, bool must_be_on_host) {
  require_tensor(tensor, name, scalar, must_be_on_host);
  const std::span<const std::int64_t> shape(tensor->shape, static_cast<std::size_t>(tensor->ndim));
  if (!std::equal(shape.begin(), shape.end(), extents.begin(), extents.end()))
    throw ShapeError("layer", name, extents, std::vector<Index>(shape.begin(), shape.end()));
  if (!is_contiguous(*tensor))
    throw TensorError(name + " is strided, must be contiguous in row-major order");
}

void refuse_object(const char* what) {
  throw ArgumentError(std::string(what) + " is one of another layer");
}

}  // namespace ssm::api
