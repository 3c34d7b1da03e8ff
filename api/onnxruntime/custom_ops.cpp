// SPDX-License-Identifier: Apache-2.0
// Layers as operators of ONNX Runtime, over ssm/api.h alone:
//   domain ssm, operator Layer, attribute config as of ssm_layer_create
//   inputs   x, the layer's parameters, and its initial states or none
//   outputs  y, and its final states or none
// A state's first axis that grows (keys and values of attention) has grown by x's positions.
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort.hpp"
#include "ssm/api.h"

namespace ssm::ort {
namespace {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// What ONNX Runtime says it cannot do, which is handed back to it.
struct Refusal {
  Status* status;
};

void require(Status* status) {
  if (status != nullptr) throw Refusal{status};
}
void require(ssm_code code) {
  if (code != SSM_OK) throw Failure(ssm_last_error());
}

struct FreeLayer {
  void operator()(ssm_layer* layer) const { ssm_layer_free(layer); }
};
struct FreeState {
  void operator()(ssm_layer_state* state) const { ssm_layer_state_free(state); }
};
using Layer = std::unique_ptr<ssm_layer, FreeLayer>;
using State = std::unique_ptr<ssm_layer_state, FreeState>;

ssm_scalar scalar_of(int element) {
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
  void* data = nullptr;

  ssm_tensor header() {
    return {.data = data,
            .device = {1, 0},
            .ndim = static_cast<std::int32_t>(extents.size()),
            .type = scalar,
            .shape = extents.data(),
            .strides = nullptr,
            .byte_offset = 0};
  }
};

/// A node of a graph. ONNX Runtime may run it for several sessions' calls at once.
class Kernel {
 public:
  Kernel(const Api& api, std::string config) : api_(api), config_(std::move(config)) {
    give_back(make());
  }

  void compute(KernelContext* context) {
    std::size_t inputs = 0, outputs = 0;
    require(api_.input_count(context, &inputs));
    require(api_.output_count(context, &outputs));
    Layer layer = take();
    const auto count = static_cast<std::size_t>(ssm_layer_parameter_count(layer.get()));
    if (inputs < 1 + count)
      throw Failure("ssm.Layer: has " + std::to_string(inputs) + " inputs, the layer has x and " +
                    std::to_string(count) + " parameters");
    std::vector<Tensor> given;
    for (std::size_t i = 0; i < inputs; ++i) given.push_back(input(context, i));
    std::vector<ssm_tensor> headers;
    for (Tensor& tensor : given) headers.push_back(tensor.header());
    std::vector<const ssm_tensor*> parameters;
    for (std::size_t i = 0; i < count; ++i) parameters.push_back(&headers[1 + i]);

    const Tensor& x = given[0];
    const std::int64_t sequences = x.extents.size() == 3 ? x.extents[0] : 1;
    Tensor y = output(context, 0, x.extents, x.scalar);
    State first, last;
    if (inputs > 1 + count) {
      first = state(*layer, sequences);
      const auto states = static_cast<std::size_t>(ssm_layer_state_count(first.get()));
      if (inputs != 1 + count + states)
        throw Failure("ssm.Layer: has " + std::to_string(inputs - 1 - count) +
                      " states, the layer has " + std::to_string(states));
      for (std::size_t i = 0; i < states; ++i)
        require(ssm_layer_state_borrow(first.get(), static_cast<int>(i), &headers[1 + count + i]));
    }
    if (outputs > 1) last = state(*layer, sequences);
    const ssm_tensor y_header = y.header();
    require(ssm_layer_forward(layer.get(), parameters.data(), static_cast<int>(count), &headers[0],
                              &y_header, nullptr, first.get(), last.get(), nullptr));
    for (std::size_t i = 1; i < outputs; ++i) write_state(context, i, last.get());
    give_back(std::move(layer));
  }

 private:
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

  Tensor input(const KernelContext* context, std::size_t index) const {
    const Value* value = nullptr;
    require(api_.input(context, index, &value));
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
    require(api_.tensor_data(const_cast<Value*>(value), &tensor.data));
    return tensor;
  }
  Tensor output(KernelContext* context, std::size_t index, std::vector<std::int64_t> extents,
                ssm_scalar scalar) const {
    Tensor tensor{.extents = std::move(extents), .scalar = scalar};
    Value* value = nullptr;
    require(api_.output(context, index, tensor.extents.data(), tensor.extents.size(), &value));
    if (value == nullptr)
      throw Failure("ssm.Layer: output " + std::to_string(index) + " is left out");
    require(api_.tensor_data(value, &tensor.data));
    return tensor;
  }
  void write_state(KernelContext* context, std::size_t index, ssm_layer_state* last) const {
    ssm_tensor own{};
    require(ssm_layer_state_tensor(last, static_cast<int>(index) - 1, nullptr, &own));
    const std::vector<std::int64_t> extents(own.shape, own.shape + own.ndim);
    std::size_t bytes = own.type.bits / 8U;
    for (const std::int64_t extent : extents) bytes *= static_cast<std::size_t>(extent);
    const Tensor to = output(context, index, extents, own.type);
    if (bytes > 0) std::memcpy(to.data, own.data, bytes);
  }

  const Api& api_;
  const std::string config_;
  std::mutex mutex_;
  std::vector<Layer> idle_;
};

/// Runs what may throw, for a caller that takes a status.
template <class Body>
Status* guarded(const Api& api, Body&& body) noexcept {
  constexpr int fails = 1;
  try {
    body();
    return nullptr;
  } catch (const Refusal& refusal) {
    return refusal.status;
  } catch (const std::exception& error) {
    return api.create_status(fails, error.what());
  } catch (...) {
    return api.create_status(fails, "an error of unknown kind");
  }
}

struct KernelWithApi {
  const Api& api;
  Kernel kernel;
};

std::string text_attribute(const Api& api, const KernelInfo* info, const char* name) {
  std::size_t size = 0;
  require(api.text_attribute(info, name, nullptr, &size));
  std::string text(size, '\0');  // with a zero byte
  require(api.text_attribute(info, name, text.data(), &size));
  text.resize(size == 0 ? 0 : size - 1);
  return text;
}

Status* create(const Api::Operator*, const Api* api, const KernelInfo* info, void** kernel) {
  return guarded(*api, [&] {
    *kernel = new KernelWithApi{*api, Kernel(*api, text_attribute(*api, info, "config"))};
  });
}

/// The operator for x and y of one type. Parameters and states may be of any.
template <Element element>
const Api::Operator layer_operator{
    .version = 16,
    .create_kernel = nullptr,
    .name = [](const Api::Operator*) { return "Layer"; },
    .provider = [](const Api::Operator*) -> const char* { return nullptr; },
    .input_type = [](const Api::Operator*, std::size_t index) -> int {
      return index == 0 ? element : any;
    },
    .input_type_count = [](const Api::Operator*) -> std::size_t { return 2; },
    .output_type = [](const Api::Operator*, std::size_t index) -> int {
      return index == 0 ? element : any;
    },
    .output_type_count = [](const Api::Operator*) -> std::size_t { return 2; },
    .compute = nullptr,
    .destroy = [](void* kernel) { delete static_cast<KernelWithApi*>(kernel); },
    .input_characteristic = [](const Api::Operator*, std::size_t index) -> int {
      return index == 0 ? is_required : is_variadic;
    },
    .output_characteristic = [](const Api::Operator*, std::size_t index) -> int {
      return index == 0 ? is_required : is_variadic;
    },
    .input_memory = [](const Api::Operator*, std::size_t) { return 0; },
    .variadic_input_least = [](const Api::Operator*) { return 0; },
    .variadic_input_is_homogeneous = [](const Api::Operator*) { return 0; },
    .variadic_output_least = [](const Api::Operator*) { return 0; },
    .variadic_output_is_homogeneous = [](const Api::Operator*) { return 0; },
    .create_kernel_2 = create,
    .compute_2 = [](void* kernel, KernelContext* context) -> Status* {
      auto& own = *static_cast<KernelWithApi*>(kernel);
      return guarded(own.api, [&] { own.kernel.compute(context); });
    }};

}  // namespace
}  // namespace ssm::ort

extern "C" __attribute__((visibility("default"))) ssm::ort::Status* RegisterCustomOps(
    ssm::ort::SessionOptions* options, const ssm::ort::ApiBase* base) {
  using namespace ssm::ort;
  const Api* const api = base->api(16);
  if (api == nullptr) return nullptr;  // older than the operator's layout: it stays unknown
  Domain* domain = nullptr;            // lives as long as the program, as sessions may
  if (Status* status = api->create_domain("ssm", &domain)) return status;
  for (const Api::Operator* op :
       {&layer_operator<f32>, &layer_operator<f64>, &layer_operator<f16>, &layer_operator<bf16>})
    if (Status* status = api->add_operator(domain, op)) return status;
  return api->add_domain(options, domain);
}
