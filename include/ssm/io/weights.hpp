// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/core/weight.hpp"
#include "ssm/io/model_tensors.hpp"

namespace ssm {

/// How the weights of a model are read.
struct WeightReading {
  WeightForm form = WeightForm::full;
  /// Where mappings of the files are kept, which then outlives the parameters: tensors that the
  /// files hold as they are wanted stay there. Null: everything is read into memory of its own.
  std::vector<FileMapping>* mappings = nullptr;
};

namespace detail {
struct NothingSeen {
  template <class AnyTensor>
  void operator()(const ParameterSpec&, const AnyTensor&) const {}
};
}  // namespace detail

/// Makes parameters from a model's files, each tensor in the form that it will have: there is never
/// more in memory than that, and a buffer. `shapes` are the layer's parameters in a space without
/// memory, whose names and extents the files were found to have.
///   const auto shapes = layer.zero_parameters<float>(Context<ShapesOnly>());
///   typename Layer::Parameters<float> parameters;
///   read_weights(tensors, shapes, parameters, {.form = WeightForm::bf16});
/// seen(spec, tensor) is called with every matrix that becomes int8, or f16 where its file has
/// another type, before it is rounded.
/// Cost    of a tensor that is transposed in its file, of other strides, or that is seen, a copy in
///         its scalar
/// Throws  CheckpointError  as ModelTensors reads, and for a number that int8 or f16 cannot hold;
///         OutOfMemory
template <class Shapes, class P, class Seen = detail::NothingSeen>
void read_weights(const ModelTensors& tensors, const Shapes& shapes, P& parameters,
                  const WeightReading& reading = {}, Seen&& seen = {}) {
  tensors.require_unchanged_size();
  const auto take = [&](const ParameterSpec& spec, auto& tensor, const auto& extents) {
    using Tensor = std::remove_reference_t<decltype(tensor)>;
    using T = typename Tensor::Value;
    const typename Tensor::Shape shape(extents);
    if (reading.mappings != nullptr && !spec.transposed_in_files)
      if (T* place = tensors.template place_of<T>(spec.name, *reading.mappings)) {
        tensor = Tensor::borrow(place, shape);
        return;
      }
    tensor.resize(shape);
    tensors.read(spec.name, as_in_files(spec, tensor));
  };
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto& shape, auto& tensor) {
        if (!shape) return;
        if constexpr (requires { tensor.bf16; }) {
          using Full = typename std::remove_reference_t<decltype(tensor)>::Full;
          if (reading.form == WeightForm::bf16) return take(spec, tensor.bf16, shape.extents());
          if (reading.form == WeightForm::f16 && tensors.dtype(spec.name) == "F16")
            return take(spec, tensor.f16, shape.extents());
          if (reading.form == WeightForm::full)
            return take(spec, static_cast<Full&>(tensor), shape.extents());
          tensor.resize(typename Full::Shape(shape.extents()));
          tensors.read(spec.name, as_in_files(spec, static_cast<Full&>(tensor)));
          seen(spec, static_cast<const Full&>(tensor));
          try {
            tensor.keep_in(reading.form);
          } catch (const ArgumentError& error) {
            throw CheckpointError(tensors.path_name(), detail::printable(spec.name), error.what());
          }
        } else {
          take(spec, tensor, shape.extents());
        }
      },
      shapes, parameters);
}

}  // namespace ssm
