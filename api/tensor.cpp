// SPDX-License-Identifier: Apache-2.0
#include "tensor.hpp"

#include <limits>

namespace ssm::api {

static const char* device_name(std::int32_t type) {
  switch (type) {
    case 1:
    case 3:
      return "host memory";
    case 2:
    case 13:
      return "a CUDA device";
    case 10:
      return "a ROCm device";
    case 8:
      return "a Metal device";
    default:
      return "another device";
  }
}

std::string scalar_name(ssm_scalar scalar) {
  const char* kind = "code ";
  switch (scalar.code) {
    case 0:
      kind = "int";
      break;
    case 1:
      kind = "uint";
      break;
    case 2:
      kind = "float";
      break;
    case 4:
      kind = "bfloat";
      break;
    case 5:
      kind = "complex";
      break;
    case 6:
      return "bool";
    default:
      return message({kind, int{scalar.code}});
  }
  std::string name = message({kind, int{scalar.bits}});
  if (scalar.lanes != 1) name += message({"x", int{scalar.lanes}});
  return name;
}

static std::vector<Index> shape_of(const ssm_tensor& tensor) {
  return {tensor.shape, tensor.shape + tensor.ndim};
}

void require_tensor(const ssm_tensor* tensor, const std::string& name, ssm_scalar scalar,
                    bool must_be_on_host) {
  if (tensor == nullptr) throw ArgumentError(name + " is missing");
  const auto refuse = [&](const std::string& why) { throw TensorError(name + " " + why); };
  if (tensor->ndim < 0 || tensor->ndim > 32) refuse(message({"has ", tensor->ndim, " axes"}));
  if (tensor->ndim > 0 && tensor->shape == nullptr) refuse("has no shape");
  const std::int32_t device = tensor->device.type;
  if (must_be_on_host && !is_on_host(*tensor))
    refuse(std::string("lies on ") + device_name(device) +
           ": this backend takes tensors in host memory");
  if (!must_be_on_host && device != 2 && device != 13)
    refuse(std::string("lies ") + (is_on_host(*tensor) ? "in " : "on ") + device_name(device) +
           ": the backend cuda takes tensors on a CUDA device");
  const ssm_scalar type = tensor->type;
  if (!is_same_scalar(type, scalar))
    refuse("is of " + scalar_name(type) + ", must be of " + scalar_name(scalar));
  std::uint64_t elements = 1;
  bool is_empty = false;
  for (int axis = 0; axis < tensor->ndim; ++axis) {
    const std::int64_t extent = tensor->shape[axis];
    if (extent < 0) refuse(message({"has the extent ", extent, " on axis ", axis}));
    is_empty = is_empty || extent == 0;
    if (is_empty) continue;
    if (elements > (std::uint64_t{1} << 56) / static_cast<std::uint64_t>(extent))
      refuse("has more elements than memory can hold: " + shape_text(shape_of(*tensor)));
    elements *= static_cast<std::uint64_t>(extent);
  }
  if (is_empty) return;
  if (tensor->data == nullptr) refuse("has no memory");
  const auto address = reinterpret_cast<std::uintptr_t>(tensor->data) + tensor->byte_offset;
  if (address % (scalar.bits / 8U) != 0)
    refuse("begins at an address that is no multiple of its scalar's size");
}

int device_of(const char* call, std::span<const ssm_tensor* const> tensors) {
  int device = -1;
  for (const ssm_tensor* tensor : tensors) {
    if (tensor == nullptr || is_on_host(*tensor)) continue;
    if (device >= 0 && tensor->device.id != device)
      throw TensorError(message({call, ": tensors lie on the devices ", device, " and ",
                                 tensor->device.id, ", must be on one"}));
    device = tensor->device.id;
  }
  return device < 0 ? 0 : device;
}

void refuse_rank(const std::string& name, const ssm_tensor& tensor, const char* expected) {
  throw ShapeError(
      "tensor", name,
      message({"must have ", expected, " axes, its extents are ", shape_text(shape_of(tensor))}));
}

std::int64_t stride_of(const ssm_tensor& tensor, int axis) {
  if (tensor.strides != nullptr) return tensor.strides[axis];
  std::int64_t stride = 1;
  for (int later = axis + 1; later < tensor.ndim; ++later) stride *= tensor.shape[later];
  return stride;
}

void require_distinct_elements(const ssm_tensor& tensor, const std::string& name) {
  for (int axis = 0; axis < tensor.ndim; ++axis)
    if (tensor.shape[axis] == 0) return;
  for (int axis = 0; axis < tensor.ndim; ++axis)
    if (tensor.shape[axis] > 1 && stride_of(tensor, axis) == 0)
      throw TensorError(message({name, " has the stride 0 on axis ", axis,
                                 ", and what is written needs memory for each element"}));
}

std::span<const ssm_tensor* const> list_of(const ssm_tensor* const* tensors, int count,
                                           const char* name) {
  if (count < 0) throw ArgumentError(message({"the count of ", name, " is ", count}));
  if (count > 0) static_cast<void>(required(tensors, name));
  return {tensors, static_cast<std::size_t>(count)};
}

Segments segments_of(const ssm_tensor* tensor) {
  if (tensor == nullptr) return {};
  const auto view = view_of_tensor<const Index, 1>(tensor, "segments");
  if (!view.is_contiguous()) throw TensorError("segments is strided, must be contiguous");
  return {view.data(), static_cast<std::size_t>(view.size())};
}

bool is_contiguous(const ssm_tensor& tensor) {
  std::int64_t expected = 1;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    if (tensor.shape[axis] == 0) return true;
    if (tensor.shape[axis] != 1 && stride_of(tensor, axis) != expected) return false;
    expected *= tensor.shape[axis];
  }
  return true;
}

}  // namespace ssm::api
