// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <string>

#include "tensor.hpp"
#include "thread_context.hpp"

namespace ssm::api {

/// A sequence for a layer in float. One of bf16 or f16 is copied to float memory where it lies; any
/// other is passed on as it is.
class WideCopy {
 public:
  enum class Use { read, written };

  WideCopy() = default;
  /// Throws  TensorError, ShapeError  for a half tensor that cannot be taken; a scalar other than
  ///         the half types is for others to refuse
  WideCopy(const ssm_tensor* tensor, const std::string& name, Use use, const CallPlace& place,
           bool must_be_on_host);

  const ssm_tensor* tensor() const { return memory_ == nullptr ? given_ : &wide_; }
  /// Rounds what was written to the half type.
  void finish() const;

 private:
  const ssm_tensor* given_ = nullptr;
  ssm_tensor wide_{};
  std::unique_ptr<std::array<std::int64_t, 3>> shape_;  // where it stays when this is moved
  std::unique_ptr<float, void (*)(void*)> memory_{nullptr, nullptr};
  CallPlace place_;
};

/// Throws  TensorError  unless both are of one scalar where one is of a half type
void require_same_half(const ssm_tensor* tensor, const char* name, const ssm_tensor* other,
                       const char* other_name);

}  // namespace ssm::api
