// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensors.hpp"

namespace ssm::ort {

struct FreeLayer {
  void operator()(ssm_layer* layer) const { ssm_layer_free(layer); }
};
struct FreeState {
  void operator()(ssm_layer_state* state) const { ssm_layer_state_free(state); }
};
using Layer = std::unique_ptr<ssm_layer, FreeLayer>;
using State = std::unique_ptr<ssm_layer_state, FreeState>;

/// A node of a graph. ONNX Runtime may run it for several sessions' calls at once.
/// Tensors are the layer's operands where they are. What is copied, in order with the layer's work:
/// outputs that grow, whose extents are known behind the call; and on a device the positions of
/// attention, which the layer has on the host, so that a call waits for the device to know them.
class Kernel {
 public:
  /// config   of ssm_layer_create
  Kernel(const Api& api, std::string config, bool is_on_device)
      : api_(api), config_(std::move(config)), is_on_device_(is_on_device) {
    Layer layer = make();
    describe_state(*layer);
    give_back(std::move(layer));
  }

  void compute(KernelContext* context) {
    const Operands operands(api_, context, is_on_device_);
    const std::size_t inputs = operands.inputs();
    Layer layer = take();
    if (is_on_device_) require(ssm_layer_set_stream(layer.get(), operands.stream()));
    const auto count = static_cast<std::size_t>(ssm_layer_parameter_count(layer.get()));
    if (inputs < 1 + count)
      throw Failure("ssm.Layer: has " + std::to_string(inputs) + " inputs, the layer has x and " +
                    std::to_string(count) + " parameters");
    std::vector<Tensor> given;
    for (std::size_t i = 0; i < inputs; ++i) given.push_back(operands.input(i));
    std::vector<ssm_tensor> headers;
    for (Tensor& tensor : given) headers.push_back(tensor.header());
    std::vector<const ssm_tensor*> parameters;
    for (std::size_t i = 0; i < count; ++i) parameters.push_back(&headers[1 + i]);

    const Tensor& x = given[0];
    const std::int64_t sequences = x.extents.size() == 3 ? x.extents[0] : 1;
    Tensor y = operands.output(0, x.extents, x.scalar);
    const ssm_tensor y_header = y.header();
    State first, last;
    std::vector<Tensor> written;
    if (inputs > 1 + count)
      first = state_before(*layer, sequences, std::span(headers).subspan(1 + count));
    if (operands.outputs() > 1) last = state_behind(*layer, sequences, operands, written);
    require(ssm_layer_forward(layer.get(), parameters.data(), static_cast<int>(count), &headers[0],
                              &y_header, nullptr, first.get(), last.get(), nullptr));
    for (std::size_t i = 0; i < written.size(); ++i)
      write(*layer, last.get(), i, operands, written[i]);
    give_back(std::move(layer));
  }

 private:
  /// A tensor of the state: extents of one sequence, which axis counts the sequences.
  struct StateTensor {
    std::string name;
    std::vector<std::int64_t> extents;
    std::size_t batch_axis = 0;
    ssm_scalar scalar{};
    bool grows = false;
    bool is_on_host = true;

    std::vector<std::int64_t> extents_of(std::int64_t sequences) const {
      std::vector<std::int64_t> result = extents;
      result[batch_axis] = sequences;
      return result;
    }
    bool is_elsewhere(const ssm_device& device) const { return is_on_host != (device.type == 1); }
  };

  void describe_state(const ssm_layer& layer) {
    const State none = state(layer, 0), one = state(layer, 1);
    for (int i = 0; i < ssm_layer_state_count(one.get()); ++i) {
      const char* name = nullptr;
      ssm_tensor of_none{}, of_one{};
      require(ssm_layer_state_tensor(none.get(), i, nullptr, &of_none));
      require(ssm_layer_state_tensor(one.get(), i, &name, &of_one));
      StateTensor tensor{.name = name,
                         .extents = {of_one.shape, of_one.shape + of_one.ndim},
                         .scalar = of_one.type,
                         .is_on_host = of_one.device.type == 1};
      for (std::size_t axis = 0; axis < tensor.extents.size(); ++axis) {
        if (tensor.extents[axis] == 0) tensor.grows = true;
        if (tensor.extents[axis] == 1 && of_none.shape[axis] == 0) tensor.batch_axis = axis;
      }
      state_.push_back(std::move(tensor));
    }
  }

  static void require_fits(const StateTensor& own, const ssm_tensor& given,
                           std::int64_t sequences) {
    const std::vector<std::int64_t> expected = own.extents_of(sequences);
    bool fits = static_cast<std::size_t>(given.ndim) == expected.size();
    for (std::size_t axis = 0; fits && axis < expected.size(); ++axis)
      fits = given.shape[axis] == expected[axis] || own.extents[axis] == 0;
    if (!fits)
      throw Failure("ssm.Layer: state " + own.name + " has other extents than the layer's of " +
                    std::to_string(sequences) + " sequences");
  }

  /// The inputs as a state.
  State state_before(ssm_layer& layer, std::int64_t sequences, std::span<ssm_tensor> given) const {
    if (given.size() != state_.size())
      throw Failure("ssm.Layer: has " + std::to_string(given.size()) + " states, the layer has " +
                    std::to_string(state_.size()));
    bool copies = false;
    for (std::size_t i = 0; i < given.size(); ++i) {
      require_fits(state_[i], given[i], sequences);
      copies = copies || state_[i].is_elsewhere(given[i].device);
    }
    State before = state(layer, copies ? sequences : 0);
    for (std::size_t i = 0; i < given.size(); ++i) {
      const int index = static_cast<int>(i);
      if (state_[i].is_elsewhere(given[i].device)) {
        ssm_tensor own{};
        require(ssm_layer_state_tensor(before.get(), index, nullptr, &own));
        require(ssm_layer_copy(&layer, &given[i], &own));
      } else {
        require(ssm_layer_state_borrow(before.get(), index, &given[i]));
      }
    }
    return before;
  }

  /// A state over the outputs as far as they are known; written is of one element for each.
  State state_behind(const ssm_layer& layer, std::int64_t sequences, const Operands& operands,
                     std::vector<Tensor>& written) const {
    const std::size_t outputs = operands.outputs() - 1;
    if (outputs != state_.size())
      throw Failure("ssm.Layer: has " + std::to_string(outputs) + " final states, the layer has " +
                    std::to_string(state_.size()));
    written.resize(outputs);
    bool copies = false;
    for (std::size_t i = 0; i < outputs; ++i) {
      const StateTensor& tensor = state_[i];
      if (!tensor.grows)
        written[i] = operands.output(1 + i, tensor.extents_of(sequences), tensor.scalar);
      copies = copies || tensor.grows || tensor.is_elsewhere(written[i].device);
    }
    State behind = state(layer, copies ? sequences : 0);
    for (std::size_t i = 0; i < outputs; ++i) {
      if (state_[i].grows || state_[i].is_elsewhere(written[i].device)) continue;
      const ssm_tensor memory = written[i].header();
      require(ssm_layer_state_borrow(behind.get(), static_cast<int>(i), &memory));
    }
    return behind;
  }
  /// What the state has not written to an output itself.
  void write(ssm_layer& layer, ssm_layer_state* behind, std::size_t i, const Operands& operands,
             Tensor& to) const {
    ssm_tensor own{};
    require(ssm_layer_state_tensor(behind, static_cast<int>(i), nullptr, &own));
    if (state_[i].grows)
      to = operands.output(1 + i, {own.shape, own.shape + own.ndim}, own.type);
    else if (!state_[i].is_elsewhere(to.device))
      return;
    const ssm_tensor memory = to.header();
    require(ssm_layer_copy(&layer, &own, &memory));
  }

  Layer make() const {
    ssm_layer* layer = nullptr;
    require(ssm_layer_create(config_.c_str(), &layer));
    return Layer(layer);
  }
  Layer take() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        Layer layer = std::move(idle_.back());
        idle_.pop_back();
        return layer;
      }
    }
    return make();
  }
  void give_back(Layer layer) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(layer));
  }
  static State state(const ssm_layer& layer, std::int64_t sequences) {
    ssm_layer_state* made = nullptr;
    require(ssm_layer_state_create(&layer, sequences, &made));
    return State(made);
  }

  const Api& api_;
  const std::string config_;
  const bool is_on_device_;
  std::vector<StateTensor> state_;
  std::mutex mutex_;
  std::vector<Layer> idle_;
};

}  // namespace ssm::ort
