// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>

#include "ssm/core/error.hpp"  // ArgumentError
#include "ssm/core/parameter.hpp"
#include "ssm/core/scalar.hpp"  // BFloat16

namespace ssm {

/// What a weight matrix is kept in.
enum class WeightForm { full, bf16 };

/// A matrix of weights: a tensor in T as long as it learns, or rounded to bf16 for inference, where
/// reading the weights is what takes the time. Exactly one of the two forms is there; the other is
/// empty.
///   weight.keep_in_bf16();
///   matmul(ctx, Matmul<float, HostSpace>{.a = x, .b = weight.transpose(0, 1),
///                                        .b_bf16 = weight.bf16.transpose(0, 1), .c = y});
template <class T, class ExtentsType, class Space = HostSpace>
struct Weight : Tensor<T, ExtentsType, Space> {
  static_assert(ExtentsType::rank() == 2);
  using Full = Tensor<T, ExtentsType, Space>;

  DynamicTensor<BFloat16, 2, Space> bf16;

  Weight() = default;
  Weight(Full&& full) : Full(std::move(full)) {}

  explicit operator bool() const { return bf16 || Full::operator bool(); }
  Weight clone() const {
    Weight copy(Full::clone());
    copy.bf16 = bf16.clone();
    return copy;
  }

  /// Rounds to nearest, ties to even, and gives the memory of T back. An empty weight stays empty.
  /// Throws  OutOfMemory
  void keep_in_bf16() {
    static_assert(Space::host_readable, "round on the host, then copy to the device");
    if (!Full::operator bool()) return;
    bf16.resize({this->extent(0), this->extent(1)});
    for (Index i = 0; i < this->size(); ++i)
      bf16.data()[i] = scalar_cast<BFloat16>(this->data()[i]);
    Full().swap(*this);
  }
};

/// Keeps every weight matrix and embedding of a parameter struct in bf16; everything else stays in
/// full precision. Half the memory, for inference alone; kept weights stay as they are.
///   auto model = ssm::load_language_model<MambaFamily>(ctx, "mamba-130m/");
///   ssm::keep_weights_in_bf16(model.parameters);
/// Throws  OutOfMemory
template <class P>
void keep_weights_in_bf16(P& parameters) {
  for_each_parameter(
      [](const ParameterSpec&, auto& tensor) {
        if constexpr (requires { tensor.keep_in_bf16(); }) tensor.keep_in_bf16();
      },
      parameters);
}

/// Whether a parameter struct has weights that are kept in bf16.
template <class P>
bool has_weights_in_bf16(const P& parameters) {
  bool found = false;
  for_each_parameter(
      [&](const ParameterSpec&, const auto& tensor) {
        if constexpr (requires { tensor.bf16; }) found = found || tensor.bf16;
      },
      parameters);
  return found;
}

/// Bytes of a parameter struct, in whichever form its weights are kept.
template <class P>
std::size_t parameter_bytes(const P& parameters) {
  std::size_t bytes = 0;
  for_each_parameter(
      [&](const ParameterSpec&, const auto& tensor) {
        using Value = typename std::remove_cvref_t<decltype(tensor)>::Value;
        bytes += static_cast<std::size_t>(tensor.size()) * sizeof(Value);
        if constexpr (requires { tensor.bf16; })
          bytes += static_cast<std::size_t>(tensor.bf16.size()) * sizeof(BFloat16);
      },
      parameters);
  return bytes;
}

namespace detail {
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_training_in_bf16(const char* who) {
  throw ArgumentError(std::string(who) +
                      ": weights that are kept in bf16 cannot be trained, they serve inference");
}
}  // namespace detail

}  // namespace ssm
