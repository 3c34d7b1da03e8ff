// SPDX-License-Identifier: Apache-2.0
// Layers as operators of ONNX Runtime, over ssm/api.h alone:
//   domain ssm, operator Layer, attribute config as of ssm_layer_create; where it runs, ONNX
//   Runtime decides
//   inputs   x, the layer's parameters, and its initial states or none
//   outputs  y, and its final states or none
// A state's first axis that grows (keys and values of attention) has grown by x's positions.
#include <nlohmann/json.hpp>
#include <string>

#include "kernel.hpp"

namespace ssm::ort {
namespace {

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

/// The configuration with the backend of a provider. What is no object is for the library to
/// refuse.
std::string config_on(const std::string& text, bool is_on_device) {
  auto config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object()) return text;
  if (is_on_device)
    config["backend"] = "cuda";
  else if (config.value("backend", "") == "cuda")
    config["backend"] = "cpu";
  return config.dump();
}

template <bool is_on_device>
Status* create(const Api::Operator*, const Api* api, const KernelInfo* info, void** kernel) {
  return guarded(*api, [&] {
    const std::string config = config_on(text_attribute(*api, info, "config"), is_on_device);
    *kernel = new KernelWithApi{*api, Kernel(*api, config, is_on_device)};
  });
}

/// The operator for x and y of one type on a provider. Parameters and states may be of any type.
template <Element element, bool is_on_device>
const Api::Operator layer_operator{
    .version = 16,
    .create_kernel = nullptr,
    .name = [](const Api::Operator*) { return "Layer"; },
    .provider = [](const Api::Operator*) -> const char* {
      return is_on_device ? "CUDAExecutionProvider" : nullptr;
    },
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
    .create_kernel_2 = create<is_on_device>,
    .compute_2 = [](void* kernel, KernelContext* context) -> Status* {
      auto& own = *static_cast<KernelWithApi*>(kernel);
      return guarded(own.api, [&] { own.kernel.compute(context); });
    }};

template <bool is_on_device>
Status* add_operators(const Api& api, Domain* domain) {
  for (const Api::Operator* op :
       {&layer_operator<f32, is_on_device>, &layer_operator<f64, is_on_device>,
        &layer_operator<f16, is_on_device>, &layer_operator<bf16, is_on_device>})
    if (Status* status = api.add_operator(domain, op)) return status;
  return nullptr;
}

/// Whether the library was built with SSM_BUILD_CUDA. A primitive holds nothing of a device, so
/// that one is made on machines without.
bool has_cuda() {
  ssm_primitive* primitive = nullptr;
  const char* const config = R"({"primitive": "attention", "backend": "cuda"})";
  const bool is_made = ssm_primitive_create(config, &primitive) == SSM_OK;
  ssm_primitive_free(primitive);
  return is_made;
}

}  // namespace
}  // namespace ssm::ort

extern "C" __attribute__((visibility("default"))) ssm::ort::Status* RegisterCustomOps(
    ssm::ort::SessionOptions* options, const ssm::ort::ApiBase* base) {
  using namespace ssm::ort;
  const Api* const api = base->api(16);
  if (api == nullptr) return nullptr;  // older than the operator's layout: it stays unknown
  Domain* domain = nullptr;            // lives as long as the program, as sessions may
  if (Status* status = api->create_domain("ssm", &domain)) return status;
  if (Status* status = add_operators<false>(*api, domain)) return status;
  if (has_cuda())
    if (Status* status = add_operators<true>(*api, domain)) return status;
  return api->add_domain(options, domain);
}
