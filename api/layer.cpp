// SPDX-License-Identifier: Apache-2.0
// Layers: functions of ssm/api.h over ssm::api::LayerOn.
#include "layer.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "field_list.hpp"
#include "guarded.hpp"
#include "layer_kinds.hpp"
#include "options.hpp"
#include "tensor.hpp"

namespace ssm::api {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kinds{&s4d_kind,       &h3_kind,          &mamba_kind,        &mamba2_kind,
                           &retention_kind, &dense_mamba_kind, &dense_retnet_kind, &attention_kind};

const LayerKind& kind_of(const JsonObject& config) {
  const std::string name = config.text("layer", "");
  std::string all;
  for (const LayerKind* kind : kinds) {
    if (kind->name == name) return *kind;
    all += (all.empty() ? "" : ", ") + std::string(kind->name);
  }
  config.refuse("layer", "must be one of " + all);
}

std::unique_ptr<ssm_layer> made_layer(const char* text) {
  try {
    const JsonObject config = parse_json(text, "config of ssm_layer_create");
    const LayerKind& kind = kind_of(config);
    refuse_other_fields(config, {"layer", "scalar", "backend", "threads"}, kind.fields,
                        "a layer " + std::string(kind.name));
    const LayerPlace place{.backend = backend_option(config),
                           .is_double = word_option<bool>(config, "scalar", "float32",
                                                          {{"float32", false}, {"float64", true}}),
                           .threads = static_cast<int>(config.integer_or("threads", 1, 1, 1024))};
    auto layer = kind.make(config, place);
    const auto tensors = [](const std::vector<TensorFacts>& all, bool has_roles) {
      Json list = Json::array();
      for (const TensorFacts& tensor : all) {
        Json facts{
            {"name", tensor.name}, {"shape", tensor.shape}, {"scalar", scalar_name(tensor.scalar)}};
        if (has_roles) {
          facts["role"] = tensor.role;
          facts["weight_decay"] = tensor.weight_decay;
        }
        list.push_back(std::move(facts));
      }
      return list;
    };
    layer->facts = Json{{"layer", kind.name},
                        {"scalar", place.is_double ? "float64" : "float32"},
                        {"backend", place.backend},
                        {"channels", layer->channels()},
                        {"parameters", tensors(layer->parameters(), true)},
                        {"state", tensors(layer->state(), false)}}
                       .dump();
    return layer;
  } catch (const CheckpointError& error) {
    throw ArgumentError(error.what());
  }
}

std::string kinds_text() {
  Json all = Json::object();
  for (const LayerKind* kind : kinds) {
    Json needed = Json::array(), optional = Json::array();
    for_each_field(kind->fields, [&](std::string_view field, bool is_needed) {
      (is_needed ? needed : optional).push_back(std::string(field));
    });
    all[std::string(kind->name)] = {{"required", std::move(needed)},
                                    {"optional", std::move(optional)}};
  }
  return all.dump();
}

void copy_tensor(ssm_layer& layer, const ssm_tensor& from, const ssm_tensor& to) {
  for (const auto& [tensor, name] : {std::pair(&from, "from"), std::pair(&to, "to")}) {
    require_tensor(tensor, name, from.type, layer.is_on_host() || is_on_host(*tensor));
    if (!is_contiguous(*tensor))
      throw TensorError(std::string(name) + " is strided, must be contiguous");
  }
  if (from.ndim != to.ndim || !std::equal(from.shape, from.shape + from.ndim, to.shape))
    throw ShapeError("tensor", "to", "has other extents than from");
  std::size_t bytes = from.type.bits / 8U;
  for (int axis = 0; axis < from.ndim; ++axis) bytes *= static_cast<std::size_t>(from.shape[axis]);
  if (bytes == 0) return;
  const std::array both{&from, &to};
  const bool crosses = is_on_host(from) || is_on_host(to);
  layer.copy_bytes(device_of("ssm_layer_copy", both), elements_of<std::byte>(to),
                   elements_of<std::byte>(from), bytes, crosses);
}

}  // namespace
}  // namespace ssm::api

using namespace ssm::api;

ssm_code ssm_layer_create(const char* config, ssm_layer** layer) {
  return guarded([&] {
    required(layer, "layer") = nullptr;
    *layer = made_layer(&required(config, "config")).release();
  });
}
void ssm_layer_free(ssm_layer* layer) { delete layer; }
const char* ssm_layer_kinds(void) {
  try {
    static const std::string text = kinds_text();
    return text.c_str();
  } catch (...) {  // no memory
    return "{}";
  }
}
const char* ssm_layer_facts(const ssm_layer* layer) {
  return layer == nullptr ? nullptr : layer->facts.c_str();
}
ssm_code ssm_layer_set_threads(ssm_layer* layer, int threads) {
  return guarded([&] {
    if (threads < 1 || threads > 1024)
      throw ssm::ArgumentError(ssm::message({"threads must be from 1 to 1024, got ", threads}));
    required(layer, "layer").set_threads(threads);
  });
}

ssm_code ssm_layer_set_stream(ssm_layer* layer, void* stream) {
  return guarded([&] { required(layer, "layer").set_stream(stream); });
}

int ssm_layer_parameter_count(const ssm_layer* layer) {
  return layer == nullptr ? 0 : static_cast<int>(layer->parameters().size());
}
const char* ssm_layer_parameter_name(const ssm_layer* layer, int index) {
  if (index < 0 || index >= ssm_layer_parameter_count(layer)) return nullptr;
  return layer->parameters()[static_cast<std::size_t>(index)].name.c_str();
}
ssm_code ssm_layer_parameter(const ssm_layer* layer, int index, ssm_tensor* description) {
  return guarded([&] {
    const auto& all = required(layer, "layer").parameters();
    if (index < 0 || static_cast<std::size_t>(index) >= all.size())
      throw ssm::ArgumentError(
          ssm::message({"the layer has no parameter ", index, ", it has ", all.size()}));
    const TensorFacts& facts = all[static_cast<std::size_t>(index)];
    required(description, "description") = {
        .data = nullptr,
        .device = {layer->is_on_host() ? 1 : 2, 0},
        .ndim = static_cast<int32_t>(facts.shape.size()),
        .type = facts.scalar,
        .shape = const_cast<int64_t*>(facts.shape.data()),  // DLPack has no const
        .strides = nullptr,
        .byte_offset = 0};
  });
}
ssm_code ssm_layer_initialize(ssm_layer* layer, uint64_t seed, const ssm_tensor* const* parameters,
                              int count) {
  return guarded([&] {
    required(layer, "layer").initialize(ssm::Seed{seed}, list_of(parameters, count, "parameters"));
  });
}

ssm_code ssm_layer_forward(ssm_layer* layer, const ssm_tensor* const* parameters, int count,
                           const ssm_tensor* x, const ssm_tensor* y, const ssm_tensor* segments,
                           const ssm_layer_state* initial_state, ssm_layer_state* final_state,
                           ssm_tape* tape) {
  return guarded([&] {
    required(layer, "layer")
        .forward({.parameters = list_of(parameters, count, "parameters"),
                  .x = x,
                  .y = y,
                  .segments = segments,
                  .initial_state = initial_state,
                  .final_state = final_state,
                  .tape = tape});
  });
}
ssm_code ssm_layer_backward(ssm_layer* layer, const ssm_tensor* const* parameters, int count,
                            const ssm_tape* tape, const ssm_tensor* dy, const ssm_tensor* dx,
                            const ssm_tensor* const* gradients, const ssm_layer_state* dfinal_state,
                            ssm_layer_state* dinitial_state) {
  return guarded([&] {
    required(layer, "layer")
        .backward({.parameters = list_of(parameters, count, "parameters"),
                   .tape = &required(tape, "tape"),
                   .dy = dy,
                   .dx = dx,
                   .gradients = list_of(gradients, count, "gradients"),
                   .dfinal_state = dfinal_state,
                   .dinitial_state = dinitial_state});
  });
}
ssm_code ssm_layer_prefill(ssm_layer* layer, const ssm_tensor* const* parameters, int count,
                           const ssm_tensor* x, const ssm_tensor* y, ssm_layer_state* state) {
  return guarded([&] {
    required(layer, "layer")
        .prefill({.parameters = list_of(parameters, count, "parameters"),
                  .x = x,
                  .y = y,
                  .final_state = state});
  });
}
ssm_code ssm_layer_step(ssm_layer* layer, const ssm_tensor* const* parameters, int count,
                        const ssm_tensor* x, const ssm_tensor* y, ssm_layer_state* state) {
  return guarded([&] {
    required(layer, "layer")
        .step({.parameters = list_of(parameters, count, "parameters"),
               .x = x,
               .y = y,
               .final_state = state});
  });
}

ssm_code ssm_tape_create(const ssm_layer* layer, ssm_tape** tape) {
  return guarded([&] {
    required(tape, "tape") = nullptr;
    *tape = required(layer, "layer").make_tape().release();
  });
}
void ssm_tape_free(ssm_tape* tape) { delete tape; }

ssm_code ssm_layer_state_create(const ssm_layer* layer, int64_t sequences,
                                ssm_layer_state** state) {
  return guarded([&] {
    required(state, "state") = nullptr;
    if (sequences < 0 || sequences > ssm::JsonObject::largest)
      throw ssm::ArgumentError(ssm::message({"a state cannot be of ", sequences, " sequences"}));
    *state = required(layer, "layer").make_state(sequences).release();
  });
}
void ssm_layer_state_free(ssm_layer_state* state) { delete state; }
ssm_code ssm_layer_state_copy(const ssm_layer_state* state, ssm_layer_state** copy) {
  return guarded([&] {
    required(copy, "copy") = nullptr;
    *copy = required(state, "state").copy().release();
  });
}
int ssm_layer_state_count(const ssm_layer_state* state) {
  return state == nullptr ? 0 : state->count();
}
ssm_code ssm_layer_state_tensor(ssm_layer_state* state, int index, const char** name,
                                ssm_tensor* tensor) {
  return guarded([&] { required(state, "state").tensor(index, name, required(tensor, "tensor")); });
}
ssm_code ssm_layer_state_borrow(ssm_layer_state* state, int index, const ssm_tensor* memory) {
  return guarded([&] { required(state, "state").borrow(index, required(memory, "memory")); });
}
ssm_code ssm_layer_copy(ssm_layer* layer, const ssm_tensor* from, const ssm_tensor* to) {
  return guarded(
      [&] { copy_tensor(required(layer, "layer"), required(from, "from"), required(to, "to")); });
}
