// SPDX-License-Identifier: Apache-2.0
// Primitives: functions of ssm/api.h over ssm::api::PrimitiveOn.
#include "primitive.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "field_list.hpp"
#include "guarded.hpp"
#include "options.hpp"
#include "tensor.hpp"

namespace ssm::api {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kinds{
    &primitives::selective_scan_kind,    &primitives::ssd_scan_kind,
    &primitives::diagonal_scan_kind,     &primitives::diagonal_kernel_kind,
    &primitives::h3_mixer_kind,          &primitives::causal_convolution_kind,
    &primitives::shift_convolution_kind, &primitives::short_convolution_kind,
    &primitives::decayed_attention_kind, &primitives::attention_kind};

const PrimitiveKind& kind_of(const JsonObject& config) {
  const std::string name = config.text("primitive", "");
  std::string all;
  for (const PrimitiveKind* kind : kinds) {
    if (kind->name == name) return *kind;
    all += (all.empty() ? "" : ", ") + std::string(kind->name);
  }
  config.refuse("primitive", "must be one of " + all);
}

std::unique_ptr<ssm_primitive> made_primitive(const char* text) {
  try {
    const JsonObject config = parse_json(text, "config of ssm_primitive_create");
    const PrimitiveKind& kind = kind_of(config);
    refuse_other_fields(config, {"primitive", "scalar", "backend", "threads"}, kind.fields,
                        "a primitive " + std::string(kind.name));
    return kind.make(config,
                     {.scalar = word_option<std::string>(config, "scalar", "float32",
                                                         {{"float32", "float32"},
                                                          {"float64", "float64"},
                                                          {"bfloat16", "bfloat16"},
                                                          {"float16", "float16"}}),
                      .backend = backend_option(config),
                      .threads = static_cast<int>(config.integer_or("threads", 1, 1, 1024))});
  } catch (const CheckpointError& error) {
    throw ArgumentError(error.what());
  }
}

const char* role_of(Role role) {
  switch (role) {
    case Role::input:
      return "input";
    case Role::parameter:
      return "parameter";
    case Role::initial_state:
      return "initial_state";
    case Role::final_state:
      return "final_state";
    default:
      return "output";
  }
}

std::string kinds_text() {
  Json all = Json::object();
  for (const PrimitiveKind* kind : kinds) {
    Json operands = Json::array(), options = Json::array();
    for (const OperandFacts& operand : kind->operands())
      operands.push_back(Json{{"name", operand.name},
                              {"axes", operand.letters},
                              {"role", role_of(operand.role)},
                              {"scalar", operand.scalar},
                              {"optional", operand.is_optional},
                              {"gradient", operand.gradient}});
    for_each_field(kind->fields,
                   [&](std::string_view field, bool) { options.push_back(std::string(field)); });
    all[std::string(kind->name)] = {{"operands", std::move(operands)},
                                    {"options", std::move(options)}};
  }
  return all.dump();
}

}  // namespace

namespace detail {
void refuse_operand(const char* primitive, const std::string& name, const char* why) {
  throw ArgumentError(message({primitive, ": ", name, " ", why}));
}
void require_operand_count(const char* primitive, std::size_t given, std::size_t expected) {
  if (given == expected) return;
  throw ArgumentError(message({primitive, " has ", expected, " operands, got ", given}));
}
void require_apart(const char* primitive, std::span<const ssm_tensor* const> tensors,
                   const std::vector<OperandFacts>& facts) {
  const auto begin_of = [](const ssm_tensor* tensor) -> const std::byte* {
    if (tensor == nullptr || tensor->data == nullptr || tensor->shape == nullptr ||
        std::find(tensor->shape, tensor->shape + std::max(tensor->ndim, 0), 0) !=
            tensor->shape + std::max(tensor->ndim, 0))
      return nullptr;  // is not there, or has no elements
    return static_cast<const std::byte*>(tensor->data) + tensor->byte_offset;
  };
  for (std::size_t i = 0; i < facts.size(); ++i) {
    const std::byte* const written = begin_of(tensors[i]);
    const bool is_state = facts[i].role == Role::final_state;
    if (written == nullptr || (!is_state && facts[i].role != Role::output)) continue;
    for (std::size_t k = 0; k < facts.size(); ++k)
      if (k != i && begin_of(tensors[k]) == written &&
          !(is_state && facts[k].role == Role::initial_state))
        throw ArgumentError(message({primitive, ": ", std::string(facts[i].name),
                                     " is written and begins at the same element as ",
                                     std::string(facts[k].name)}));
  }
}
}  // namespace detail

}  // namespace ssm::api

using namespace ssm::api;

ssm_code ssm_primitive_create(const char* config, ssm_primitive** primitive) {
  return guarded([&] {
    required(primitive, "primitive") = nullptr;
    *primitive = made_primitive(&required(config, "config")).release();
  });
}
void ssm_primitive_free(ssm_primitive* primitive) { delete primitive; }
const char* ssm_primitive_kinds(void) {
  try {
    static const std::string text = kinds_text();
    return text.c_str();
  } catch (...) {  // no memory
    return "{}";
  }
}
const char* ssm_primitive_operand_name(const ssm_primitive* primitive, int index) {
  if (primitive == nullptr || index < 0) return nullptr;
  const auto& all = primitive->operands();
  return static_cast<std::size_t>(index) < all.size()
             ? all[static_cast<std::size_t>(index)].name.data()  // of a literal
             : nullptr;
}
ssm_code ssm_primitive_forward(const ssm_primitive* primitive, const ssm_tensor* const* operands,
                               int count, const ssm_tensor* segments, void* stream) {
  return guarded([&] {
    required(primitive, "primitive")
        .forward({.operands = list_of(operands, count, "operands"),
                  .segments = segments,
                  .stream = stream});
  });
}
ssm_code ssm_primitive_backward(const ssm_primitive* primitive, const ssm_tensor* const* operands,
                                const ssm_tensor* const* gradients, int count,
                                const ssm_tensor* segments, void* stream) {
  return guarded([&] {
    required(primitive, "primitive")
        .backward({.operands = list_of(operands, count, "operands"),
                   .gradients = list_of(gradients, count, "gradients"),
                   .segments = segments,
                   .stream = stream});
  });
}
