// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/io/json_file.hpp"  // write_text_file
#include "ssm/io/model_tensors.hpp"

namespace ssm {

/// How weights are written anew.
struct ConversionOptions {
  std::string dtype = {};         // "F32", "BF16" or "F16"; empty: as they are stored
  std::uint64_t shard_bytes = 0;  // a new file where one would hold more; 0: one file
  /// Called now and then with the bytes written so far and in the end.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress = {};
};

namespace detail {

/// Whether numbers of this type are converted: integers and truth values stay what they are.
inline bool is_fractional(std::string_view dtype) {
  return dtype == "F64" || dtype == "F32" || dtype == "F16" || dtype == "BF16";
}

/// Calls run(std::type_identity<T>) for a fractional dtype.
template <class Run>
void with_fractional(std::string_view dtype, Run&& run) {
  if (dtype == stored_dtype<double>()) run(std::type_identity<double>());
  if (dtype == stored_dtype<float>()) run(std::type_identity<float>());
  if (dtype == stored_dtype<Float16>()) run(std::type_identity<Float16>());
  if (dtype == stored_dtype<BFloat16>()) run(std::type_identity<BFloat16>());
}

/// The elements of a block as `To`, rounded to nearest.
/// Throws  CheckpointError  for a finite number that becomes infinite
template <class From, class To>
void convert_block(const std::string& file, std::string_view tensor,
                   std::span<const std::byte> block, std::vector<std::byte>& converted) {
  const std::size_t count = block.size() / sizeof(From);
  converted.resize(count * sizeof(To));
  for (std::size_t i = 0; i < count; ++i) {
    From from{};
    std::memcpy(&from, block.data() + i * sizeof(From), sizeof(From));
    const To to = scalar_cast<To>(from);
    if (std::isinf(scalar_cast<double>(to)) && !std::isinf(scalar_cast<double>(from)))
      throw CheckpointError(file, printable(tensor),
                            "holds " + std::to_string(scalar_cast<double>(from)) + ", which " +
                                std::string(stored_dtype<To>()) + " cannot hold");
    std::memcpy(converted.data() + i * sizeof(To), &to, sizeof(To));
  }
}

/// Writes one tensor as `dtype`.
inline void stream_tensor(const ModelTensors& from, const std::string& name,
                          const std::string& dtype, AtomicFile& file) {
  const std::string& stored = from.dtype(name);
  if (stored == dtype)
    return from.for_each_block(name, [&](std::span<const std::byte> block) { file.write(block); });
  with_fractional(stored, [&]<class From>(std::type_identity<From>) {
    with_fractional(dtype, [&]<class To>(std::type_identity<To>) {
      std::vector<std::byte> converted;
      from.for_each_block(name, [&](std::span<const std::byte> block) {
        convert_block<From, To>(from.file_of(name).path_name(), name, block, converted);
        file.write(converted);
      });
    });
  });
}

/// model-00002-of-00003.safetensors
inline std::string shard_name(std::size_t shard, std::size_t count) {
  const auto digits = [](std::size_t number) {
    const std::string text = std::to_string(number);
    return std::string(text.size() < 5 ? 5 - text.size() : 0, '0') + text;
  };
  return "model-" + digits(shard + 1) + "-of-" + digits(count) + ".safetensors";
}

}  // namespace detail

/// Writes tensors as safetensors: into `out` if it ends so, else into that folder as
/// model.safetensors or, where a size of shards is given, as shards with their index. Tensors are
/// read and written some at a time; a copy in memory is only made of one that does not lie in
/// row-major order.
/// names    which tensors, by the names that `from` has for them
/// Returns  the files written, an index last
/// Throws  CheckpointError  if a tensor cannot be read, is of a type that is not known, or holds a
///                          number that the new type cannot; if there are weights in the folder
///                          already; if a file cannot be written. What was written is removed then
inline std::vector<std::filesystem::path> convert_weights(const ModelTensors& from,
                                                          const std::vector<std::string>& names,
                                                          const std::filesystem::path& out,
                                                          const ConversionOptions& options = {}) {
  namespace fs = std::filesystem;
  struct Tensor {
    std::string name, dtype;
    std::uint64_t bytes;
  };
  std::vector<std::vector<Tensor>> shards(1);
  std::uint64_t total = 0, in_shard = 0;
  for (const std::string& name : names) {
    const std::string& stored = from.dtype(name);
    const bool is_converted = !options.dtype.empty() && detail::is_fractional(stored);
    Tensor tensor{name, is_converted ? options.dtype : stored, 0};
    const std::size_t width = stored_width(tensor.dtype);
    const Index count = detail::checked_size(from.shape(name));
    if (width == 0 || count < 0 || stored_width(stored) == 0)
      throw CheckpointError(from.file_of(name).path_name(), detail::printable(name),
                            "is of type " + detail::printable(stored) + ", which is not supported");
    tensor.bytes = static_cast<std::uint64_t>(count) * width;
    if (options.shard_bytes > 0 && in_shard > 0 && in_shard + tensor.bytes > options.shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    in_shard += tensor.bytes;
    total += tensor.bytes;
    shards.back().push_back(std::move(tensor));
  }
  const bool is_file = out.extension() == ".safetensors";
  const std::string index_name = "model.safetensors.index.json";
  std::error_code error;
  if (is_file && shards.size() > 1)
    throw CheckpointError(out.string(), "", "is one file, shards need a folder");
  if (!is_file) {
    fs::create_directories(out, error);
    if (error) throw CheckpointError(out.string(), "", "cannot be created: " + error.message());
    for (const std::string& taken : {std::string("model.safetensors"), index_name})
      if (fs::exists(out / taken, error))
        throw CheckpointError((out / taken).string(), "", "exists already");
  }

  std::vector<fs::path> files;
  std::uint64_t done = 0;
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  try {
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const std::string file_name =
          shards.size() == 1 ? "model.safetensors" : detail::shard_name(i, shards.size());
      SafetensorsWriter writer(is_file ? out : out / file_name);
      writer.metadata("format", "pt");
      for (const Tensor& tensor : shards[i]) {
        map[tensor.name] = file_name;
        writer.add_streamed(tensor.name, tensor.dtype, from.shape(tensor.name),
                            stored_width(tensor.dtype), [&](AtomicFile& file) {
                              detail::stream_tensor(from, tensor.name, tensor.dtype, file);
                              done += tensor.bytes;
                              if (options.progress) options.progress(done, total);
                            });
      }
      writer.finish();
      files.push_back(is_file ? out : out / file_name);
    }
    if (shards.size() > 1) {
      const nlohmann::ordered_json index{{"metadata", {{"total_size", total}}},
                                         {"weight_map", map}};
      write_text_file(out / index_name, index.dump(2) + "\n");
      files.push_back(out / index_name);
    }
  } catch (...) {
    for (const fs::path& file : files) fs::remove(file, error);
    throw;
  }
  return files;
}

}  // namespace ssm
