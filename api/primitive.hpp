// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/api.h"
#include "ssm/core/operands.hpp"
#include "ssm/io/json_file.hpp"

namespace ssm::api {

/// An operand of a primitive, as its description says it.
struct OperandFacts {
  std::string_view name;
  std::string_view letters;
  Role role;
  bool is_optional;
  std::string_view gradient;  // "none", "optional" or "required"
  std::string_view scalar;    // "sequence", "wide" or "int64"
};

/// The tensors of one call in the order of the description; null for what is left out.
struct PrimitiveCall {
  std::span<const ssm_tensor* const> operands;
  std::span<const ssm_tensor* const> gradients{};  // of a call of the gradient
  const ssm_tensor* segments = nullptr;
  void* stream = nullptr;
};

/// What every primitive is made with.
struct PrimitivePlace {
  std::string scalar;   // "float32", "float64", "bfloat16", "float16"
  std::string backend;  // "cpu", "reference" or "cuda"
  int threads = 1;
};

/// A primitive by name: what its configuration may say, and how it is made.
struct PrimitiveKind {
  std::string_view name;
  std::string_view fields;  // separated by blanks, behind a '|'
  const std::vector<OperandFacts>& (*operands)();
  std::unique_ptr<ssm_primitive> (*make)(const JsonObject& config, const PrimitivePlace& place);
};

namespace primitives {
extern const PrimitiveKind selective_scan_kind, ssd_scan_kind, diagonal_scan_kind,
    diagonal_kernel_kind, h3_mixer_kind, causal_convolution_kind, shift_convolution_kind,
    short_convolution_kind, attention_kind, decayed_attention_kind;
}

}  // namespace ssm::api

/// A primitive on a backend in a scalar, with its options. It holds nothing of its calls, so that
/// several threads may call one at once.
struct ssm_primitive {
  ssm_primitive() = default;
  ssm_primitive(const ssm_primitive&) = delete;
  ssm_primitive& operator=(const ssm_primitive&) = delete;
  virtual ~ssm_primitive() = default;

  virtual const std::vector<ssm::api::OperandFacts>& operands() const = 0;
  virtual void forward(const ssm::api::PrimitiveCall& call) const = 0;
  virtual void backward(const ssm::api::PrimitiveCall& call) const = 0;
};
