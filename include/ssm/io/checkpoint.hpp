// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "ssm/core/weight.hpp"
#include "ssm/io/safetensors.hpp"
#include "ssm/io/tensor_source.hpp"

namespace ssm {

/// What to do about tensors of a file that the parameters do not have.
enum class UnexpectedTensors { refuse, ignore };

namespace detail {

/// Calls visit(name, spec, tensor) once for each tensor that exists. A tied tensor, one that a
/// layer reports again under the same name, counts once; two tensors under one name are an error.
template <class P, class Visit>
void for_each_stored(const std::string& file, P& parameters, std::string_view prefix,
                     Visit&& visit) {
  std::map<std::string, const void*> seen;
  for_each_parameter(
      [&](const ParameterSpec& spec, auto& tensor) {
        if (!tensor) return;
        const std::string name = std::string(prefix) + spec.name;
        const void* data = tensor.data();
        if constexpr (requires { tensor.place(); }) data = tensor.place();
        const auto [entry, is_new] = seen.emplace(name, data);
        if (!is_new && entry->second != data)
          throw CheckpointError(file, printable(name), "is the name of two different parameters");
        if (is_new) visit(name, spec, tensor);
      },
      parameters);
}

}  // namespace detail

/// Adds every tensor of a parameter struct under prefix + its name; the writer borrows them until
/// it is finished. Weights that are kept in bf16 or f16 are written so; int8 is for memory alone,
/// files have no format for it.
///   save_parameters(writer, parameters, "model.");
///   save_parameters(writer, moments, "adamw.mean.");
/// Throws  CheckpointError  if two tensors have one name; ArgumentError  for weights in int8
template <class P>
void save_parameters(SafetensorsWriter& writer, const P& parameters, std::string_view prefix = "") {
  detail::for_each_stored(
      writer.path_name(), parameters, prefix,
      [&](const std::string& name, const ParameterSpec& spec, const auto& tensor) {
        if constexpr (requires { tensor.bf16; }) {
          if (tensor.int8)
            throw ArgumentError("save_parameters: '" + name +
                                "' is kept in int8, which is not written to files");
          if (tensor.bf16) return writer.add(name, as_in_files(spec, tensor.bf16));
          if (tensor.f16) return writer.add(name, as_in_files(spec, tensor.f16));
        }
        writer.add(name, as_in_files(spec, tensor));
      });
}

/// Fills every tensor of a parameter struct, whose extents are set already, from prefix + its name.
/// Everything is checked before the first element changes. Tensors of the file that do not begin
/// with the prefix are no concern of this call.
/// Throws  CheckpointError  if a tensor is missing, has other extents or no floating-point type, if
///                          one under the prefix is not expected, or if the file was cut since it
///                          was opened;
///         ArgumentError    for weights that are not in full precision
template <TensorSource S, class P>
void load_parameters(const S& file, P& parameters, std::string_view prefix = "",
                     UnexpectedTensors unexpected = UnexpectedTensors::refuse) {
  if (const WeightForm form = weight_form(parameters); form != WeightForm::full)
    throw ArgumentError(
        message({"load_parameters: load in full precision, then keep the weights in ",
                 weight_form_name(form)}));
  std::set<std::string> expected;
  detail::for_each_stored(
      file.path_name(), parameters, prefix,
      [&](const std::string& name, const ParameterSpec& spec, const auto& tensor) {
        file.require_readable(name, as_in_files(spec, tensor));
        expected.insert(name);
      });
  if (unexpected == UnexpectedTensors::refuse) {
    for (const std::string& name : file.names())
      if (name.starts_with(prefix) && !expected.contains(name))
        throw CheckpointError(file.path_name(), detail::printable(name), "is not expected");
  }
  file.require_unchanged_size();
  detail::for_each_stored(file.path_name(), parameters, prefix,
                          [&](const std::string& name, const ParameterSpec& spec, auto& tensor) {
                            file.read(name, as_in_files(spec, tensor));
                          });
}

}  // namespace ssm
