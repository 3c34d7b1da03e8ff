// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/api.h"
#include "ssm/core/extents.hpp"
#include "ssm/core/random.hpp"  // Seed

namespace ssm::api {

/// The calling thread's current CUDA device; 0 without one.
int current_cuda_device();

/// What is known of a parameter, or of a tensor of a state.
struct TensorFacts {
  std::string name;
  std::vector<std::int64_t> shape;
  ssm_scalar scalar{};
  std::string role{};
  bool weight_decay = true;
};

/// The operands of a call that has a state at both ends.
struct ForwardCall {
  std::span<const ssm_tensor* const> parameters;
  const ssm_tensor* x = nullptr;
  const ssm_tensor* y = nullptr;
  const ssm_tensor* segments = nullptr;
  const ssm_layer_state* initial_state = nullptr;
  ssm_layer_state* final_state = nullptr;
  ssm_tape* tape = nullptr;
};
struct BackwardCall {
  std::span<const ssm_tensor* const> parameters;
  const ssm_tape* tape = nullptr;
  const ssm_tensor* dy = nullptr;
  const ssm_tensor* dx = nullptr;
  std::span<const ssm_tensor* const> gradients;
  const ssm_layer_state* dfinal_state = nullptr;
  ssm_layer_state* dinitial_state = nullptr;
};

}  // namespace ssm::api

/// What ssm_tape and ssm_layer_state are of one layer, backend and scalar.
struct ssm_tape {
  ssm_tape() = default;
  ssm_tape(const ssm_tape&) = delete;
  ssm_tape& operator=(const ssm_tape&) = delete;
  virtual ~ssm_tape() = default;
};
struct ssm_layer_state {
  ssm_layer_state() = default;
  ssm_layer_state(const ssm_layer_state&) = delete;
  ssm_layer_state& operator=(const ssm_layer_state&) = delete;
  virtual ~ssm_layer_state() = default;

  virtual std::unique_ptr<ssm_layer_state> copy() const = 0;
  virtual int count() const = 0;
  /// Fills name, extents and memory; extents are kept in the state.
  virtual void tensor(int index, const char** name, ssm_tensor& tensor) = 0;
  virtual void borrow(int index, const ssm_tensor& memory) = 0;
};

/// A layer on a backend in a scalar, both chosen at run time.
struct ssm_layer {
  ssm_layer() = default;
  ssm_layer(const ssm_layer&) = delete;
  ssm_layer& operator=(const ssm_layer&) = delete;
  virtual ~ssm_layer() = default;

  virtual ssm::Index channels() const = 0;
  virtual const std::vector<ssm::api::TensorFacts>& parameters() const = 0;
  virtual const std::vector<ssm::api::TensorFacts>& state() const = 0;
  virtual bool is_on_host() const = 0;
  virtual void set_threads(int threads) = 0;
  virtual void set_stream(void* stream) = 0;
  /// Memory of the layer's own, or on the host, in order with its calls on this device; `waits`
  /// until it is done.
  virtual void copy_bytes(int device, void* to, const void* from, std::size_t bytes,
                          bool waits) = 0;
  virtual void zero_bytes(int device, void* memory, std::size_t bytes) = 0;
  virtual void initialize(ssm::Seed seed, std::span<const ssm_tensor* const> parameters) = 0;
  virtual void forward(const ssm::api::ForwardCall& call) = 0;
  virtual void backward(const ssm::api::BackwardCall& call) = 0;
  virtual void prefill(const ssm::api::ForwardCall& call) = 0;
  virtual void step(const ssm::api::ForwardCall& call) = 0;
  virtual std::unique_ptr<ssm_tape> make_tape() const = 0;
  virtual std::unique_ptr<ssm_layer_state> make_state(ssm::Index sequences) const = 0;

  std::string facts;
};
