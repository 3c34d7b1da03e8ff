// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

// What ONNX Runtime hands to a library of operators and takes from it, in the layout that it has
// published and extends only at the ends (onnxruntime_c_api.h; the functions and the operator are
// those of version 16). Declared here, as no package brings that header.
namespace ssm::ort {

struct Status;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorInfo;
struct MemoryInfo;

/// Types of elements.
enum Element : int { any = 0, f32 = 1, i32 = 6, i64 = 7, f16 = 10, f64 = 11, bf16 = 16 };
/// Whether an operand is there.
enum Characteristic : int { is_required = 0, is_optional = 1, is_variadic = 2 };
/// Where memory lies.
enum DeviceType : int { on_host = 0, on_gpu = 1 };

/// The table of functions. Those that are not used are counted.
struct Api {
  Status* (*create_status)(int code, const char* message);
  const void* unused_1[25];
  Status* (*create_domain)(const char* name, Domain** domain);
  struct Operator;
  Status* (*add_operator)(Domain* domain, const Operator* op);
  Status* (*add_domain)(SessionOptions* options, Domain* domain);
  const void* unused_29[22];
  Status* (*tensor_data)(Value* value, void** data);
  const void* unused_52[8];
  Status* (*element_type)(const TensorInfo* info, int* type);
  Status* (*dimension_count)(const TensorInfo* info, std::size_t* count);
  Status* (*dimensions)(const TensorInfo* info, std::int64_t* values, std::size_t count);
  const void* unused_63[2];
  Status* (*tensor_info)(const Value* value, TensorInfo** info);
  const void* unused_66[6];
  Status* (*memory_id)(const MemoryInfo* memory, int* id);
  const void* unused_73[14];
  Status* (*text_attribute)(const KernelInfo* info, const char* name, char* text,
                            std::size_t* size);
  Status* (*input_count)(const KernelContext* context, std::size_t* count);
  Status* (*output_count)(const KernelContext* context, std::size_t* count);
  Status* (*input)(const KernelContext* context, std::size_t index, const Value** value);
  Status* (*output)(KernelContext* context, std::size_t index, const std::int64_t* extents,
                    std::size_t rank, Value** value);
  const void* unused_92[7];
  void (*release_tensor_info)(TensorInfo* info);
  const void* unused_100[93];
  Status* (*compute_stream)(const KernelContext* context, void** stream);
  Status* (*tensor_memory)(const Value* value, const MemoryInfo** memory);
  const void* unused_195[30];
  void (*memory_device_type)(const MemoryInfo* memory, int* type);
};
static_assert(offsetof(Api, tensor_info) == 65 * sizeof(void*) &&
              offsetof(Api, memory_id) == 72 * sizeof(void*) &&
              offsetof(Api, text_attribute) == 87 * sizeof(void*) &&
              offsetof(Api, release_tensor_info) == 99 * sizeof(void*) &&
              offsetof(Api, compute_stream) == 193 * sizeof(void*) &&
              offsetof(Api, memory_device_type) == 225 * sizeof(void*));

struct ApiBase {
  const Api* (*api)(std::uint32_t version);
  const char* (*version)();
};

/// An operator: functions that say what it takes, and those that run it.
struct Api::Operator {
  std::uint32_t version;
  void* (*create_kernel)(const Operator*, const Api*, const KernelInfo*);
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*);
  int (*input_type)(const Operator*, std::size_t);
  std::size_t (*input_type_count)(const Operator*);
  int (*output_type)(const Operator*, std::size_t);
  std::size_t (*output_type_count)(const Operator*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  int (*input_characteristic)(const Operator*, std::size_t);
  int (*output_characteristic)(const Operator*, std::size_t);
  int (*input_memory)(const Operator*, std::size_t);
  int (*variadic_input_least)(const Operator*);
  int (*variadic_input_is_homogeneous)(const Operator*);
  int (*variadic_output_least)(const Operator*);
  int (*variadic_output_is_homogeneous)(const Operator*);
  Status* (*create_kernel_2)(const Operator*, const Api*, const KernelInfo*, void** kernel);
  Status* (*compute_2)(void* kernel, KernelContext*);
};

}  // namespace ssm::ort
