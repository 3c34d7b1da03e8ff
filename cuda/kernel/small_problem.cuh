// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "device/launch.cuh"
#include "kernel/tensor_core.cuh"

namespace ssm::cuda::device {

/// 16-bit calls over no more channels, or no more positions of all sequences, are computed in
/// float. A gradient with one number per channel can cancel below the rounding of its 16-bit terms.
/// Over many channels and positions such numbers are a small part of the gradient's norm; in a
/// small call they are most of it.
inline constexpr int kFewChannels = 64, kFewPositions = 1024;

/// Whether a call of T over [batch, channels, length] is computed in float.
template <class T>
constexpr bool computes_in_float(int batch, int channels, int length) {
  return sizeof(T) == 2 &&
         (channels <= kFewChannels || std::int64_t{batch} * length <= kFewPositions);
}

/// Copies [B, D, L] from one layout and scalar to another; one column of thread blocks per sequence
/// and channel.
template <class From, class To>
__global__ void __launch_bounds__(256)
    convert_sequences(Sequences<From> from, Sequences<To> to, int length) {
  const From* const source =
      from.data + blockIdx.z * from.batch_stride + blockIdx.x * from.channel_stride;
  To* const target = to.data + blockIdx.z * to.batch_stride + blockIdx.x * to.channel_stride;
  for (long long t = blockIdx.y * 256ll + threadIdx.x; t < length; t += gridDim.y * 256ll)
    from_float(to_float(source[t]), target[t]);
}

/// The sequence tensors of a small call of T, copied to float in a workspace.
template <class T>
class UpcastSequences {
 public:
  UpcastSequences(WorkspaceLayout& layout, int batch, int channels, int length)
      : layout_(layout), batch_(batch), channels_(channels), length_(length) {}

  /// Null where the tensor is.
  Sequences<const float> input(const Sequences<const T>& tensor) {
    const Sequences<float> copy = take(tensor.data != nullptr);
    if (tensor.data != nullptr) inputs_.at(input_count_++) = {tensor, copy};
    return {copy.data, copy.batch_stride, copy.channel_stride};
  }
  Sequences<float> output(const Sequences<T>& tensor) {
    const Sequences<float> copy = take(tensor.data != nullptr);
    if (tensor.data != nullptr) outputs_.at(output_count_++) = {copy, tensor};
    return copy;
  }
  /// Queues `call`, which works on the copies, between what fills them and what takes the results.
  template <class Call>
  void around(Stream stream, const char* operation, const Call& call) const {
    for (const auto& [tensor, copy] : std::span(inputs_).first(input_count_))
      convert(tensor, copy, stream, operation);
    call();
    for (const auto& [copy, tensor] : std::span(outputs_).first(output_count_))
      convert(copy, tensor, stream, operation);
  }

 private:
  Sequences<float> take(bool wanted) {
    if (!wanted) return {};
    const std::int64_t row = length_;
    return {layout_.take<float>(static_cast<std::size_t>(batch_) * channels_ * length_),
            channels_ * row, row};
  }
  template <class From, class To>
  void convert(const Sequences<From>& from, const Sequences<To>& to, Stream stream,
               const char* operation) const {
    constexpr int limit = 65535;  // of a grid's second and third axis
    const int blocks = std::min((length_ + 1023) / 1024, limit);
    for (int first = 0; first < batch_; first += limit) {
      const auto rest = [&](auto tensor) {
        tensor.data += first * tensor.batch_stride;
        return tensor;
      };
      const dim3 grid(channels_, blocks, std::min(batch_ - first, limit));
      launch(convert_sequences<From, To>, grid, 256, 0, stream, operation, rest(from), rest(to),
             length_);
    }
  }

  WorkspaceLayout& layout_;
  int batch_, channels_, length_;
  static constexpr std::size_t most = 8;  // tensors; a step of a model allocates nothing
  std::array<std::pair<Sequences<const T>, Sequences<float>>, most> inputs_;
  std::array<std::pair<Sequences<float>, Sequences<T>>, most> outputs_;
  std::size_t input_count_ = 0, output_count_ = 0;
};

}  // namespace ssm::cuda::device
