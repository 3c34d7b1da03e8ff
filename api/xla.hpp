// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

// What XLA's foreign function interface hands to a function it calls, in the layout that XLA has
// published and extends only at the ends (xla/ffi/api/c_api.h, version 0). Declared here, so that
// one library works with every jaxlib and none is needed to build it. Members whose meaning is not
// used are named for their place.
namespace ssm::api::xla {

struct Extension {
  std::size_t struct_size;
  int type;  // 1: XLA asks for a Metadata
  Extension* next;
};
struct Version {
  std::size_t struct_size;
  Extension* extensions;
  int major, minor;
};
struct Metadata {
  std::size_t struct_size;
  Version version;  // to be written: what the function was written for
  std::uint32_t traits;
};
struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

struct Error;
struct ErrorArguments {
  std::size_t struct_size;
  Extension* extensions;
  const char* message;
  int code;  // 3: a wrong argument
};
struct StreamArguments {
  std::size_t struct_size;
  Extension* extensions;
  void* context;
  void* stream;  // to be written
};
struct Api {
  std::size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorArguments*);
  void *error_message, *destroy_error, *register_handler;
  Error* (*get_stream)(StreamArguments*);
};

struct Buffer {
  std::size_t struct_size;
  Extension* extensions;
  int type;
  void* data;
  std::int64_t rank;
  std::int64_t* dims;
};
struct Buffers {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  int* kinds;  // 1: a Buffer
  void** buffers;
};
struct Text {
  const char* data;
  std::size_t size;
};
struct Number {
  int type;
  void* value;
};
struct Attributes {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  int* kinds;  // 3: a Number, 4: a Text
  Text** names;
  void** values;
};
struct Frame {
  std::size_t struct_size;
  Extension* extensions;
  const Api* api;
  void* context;
  int stage;  // 3: to be executed
  Buffers arguments;
  Buffers results;
  Attributes attributes;
};

}  // namespace ssm::api::xla
