// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ort.hpp"
#include "ssm/api.h"

namespace ssm::ort {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// What ONNX Runtime says it cannot do, which is handed back to it.
struct Refusal {
  Status* status;
};

inline void require(Status* status) {
  if (status != nullptr) throw Refusal{status};
}
inline void require(ssm_code code) {
  if (code != SSM_OK) throw Failure(ssm_last_error());
}

/// How an ssm_tensor calls a type of elements.
inline ssm_scalar scalar_of(int element) {
  switch (element) {
    case f32:
      return {2, 32, 1};
    case f64:
      return {2, 64, 1};
    case f16:
      return {2, 16, 1};
    case bf16:
      return {4, 16, 1};
    case i64:
      return {0, 64, 1};
    default:
      return {255, 0, 1};
  }
}

/// A tensor of ONNX Runtime and its extents.
struct Tensor {
  std::vector<std::int64_t> extents;
  ssm_scalar scalar{};
  ssm_device device{1, 0};
  void* data = nullptr;

  ssm_tensor header() {
    return {.data = data,
            .device = device,
            .ndim = static_cast<std::int32_t>(extents.size()),
            .type = scalar,
            .shape = extents.data(),
            .strides = nullptr,
            .byte_offset = 0};
  }
};

/// The operands of a call of ONNX Runtime's.
class Operands {
 public:
  Operands(const Api& api, KernelContext* context, bool is_on_device)
      : api_(api), context_(context), is_on_device_(is_on_device) {
    require(api_.input_count(context_, &inputs_));
    require(api_.output_count(context_, &outputs_));
  }

  std::size_t inputs() const { return inputs_; }
  std::size_t outputs() const { return outputs_; }
  /// Of the provider for CUDA: the cudaStream_t that the call is part of.
  void* stream() const {
    void* stream = nullptr;
    require(api_.compute_stream(context_, &stream));
    return stream;
  }

  Tensor input(std::size_t index) const {
    const Value* value = nullptr;
    require(api_.input(context_, index, &value));
    if (value == nullptr)
      throw Failure("ssm.Layer: input " + std::to_string(index) + " is missing");
    TensorInfo* info = nullptr;
    require(api_.tensor_info(value, &info));
    const std::unique_ptr<TensorInfo, void (*)(TensorInfo*)> owned(info, api_.release_tensor_info);
    Tensor tensor;
    int element = any;
    std::size_t rank = 0;
    require(api_.element_type(info, &element));
    require(api_.dimension_count(info, &rank));
    tensor.extents.resize(rank);
    require(api_.dimensions(info, tensor.extents.data(), rank));
    tensor.scalar = scalar_of(element);
    place(const_cast<Value*>(value), tensor);
    return tensor;
  }
  /// An output becomes memory of these extents, and of the scalar that the graph says.
  Tensor output(std::size_t index, std::vector<std::int64_t> extents, ssm_scalar scalar) const {
    Tensor tensor{.extents = std::move(extents), .scalar = scalar};
    Value* value = nullptr;
    require(api_.output(context_, index, tensor.extents.data(), tensor.extents.size(), &value));
    if (value == nullptr)
      throw Failure("ssm.Layer: output " + std::to_string(index) + " is left out");
    place(value, tensor);
    return tensor;
  }

 private:
  /// Where the elements are. Beside nodes on a device those of a node on the host lie in
  /// page-locked memory, which ONNX Runtime calls the device's.
  void place(Value* value, Tensor& tensor) const {
    require(api_.tensor_data(value, &tensor.data));
    if (!is_on_device_) return;
    const MemoryInfo* memory = nullptr;
    require(api_.tensor_memory(value, &memory));
    int type = on_host, id = 0;
    api_.memory_device_type(memory, &type);
    if (type == on_host) return;
    require(api_.memory_id(memory, &id));
    tensor.device = {2, id};
  }

  const Api& api_;
  KernelContext* context_;
  bool is_on_device_;
  std::size_t inputs_ = 0, outputs_ = 0;
};

}  // namespace ssm::ort
