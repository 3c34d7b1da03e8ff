// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/on_device.hpp"

namespace ssm::cuda::device {

/// The tensors that one kernel works on, given to it by value. Each is cut into units, which are
/// numbered through all tensors. Entry: what the kernel knows of a tensor.
template <class Entry>
struct TensorList {
  static constexpr std::size_t capacity = tensors_a_kernel;
  static_assert(capacity <= 128);
  static_assert(capacity * (sizeof(Entry) + sizeof(Index)) < 32000, "kernels take 32 KB");
  struct Unit {
    int tensor;
    Index number;  // within the tensor
  };

  Entry entries[capacity];
  Index first[capacity + 1];  // unit of each tensor; then how many units there are
  int count = 0;

  Index units() const { return first[count]; }
  void add(const Entry& entry, Index units) {
    if (count == 0) first[0] = 0;
    entries[count] = entry;
    first[count + 1] = first[count] + units;
    ++count;
  }
  SSM_HOST_DEVICE Unit at(Index unit) const {
    int tensor = 0;
    for (int step = 64; step > 0; step /= 2)
      if (tensor + step < count && first[tensor + step] <= unit) tensor += step;
    return {tensor, unit - first[tensor]};
  }
};

/// run(list) for all tensors, as many at a time as a list holds; add(list, tensor) puts one in.
template <class List, class Tensor, class Add, class Run>
void for_each_list(std::span<const Tensor> tensors, Add add, Run run) {
  for (std::size_t begin = 0; begin < tensors.size(); begin += tensors_a_kernel) {
    List list;
    const std::size_t count = std::min(tensors_a_kernel, tensors.size() - begin);
    for (const Tensor& tensor : tensors.subspan(begin, count)) add(list, tensor);
    run(list);
  }
}

}  // namespace ssm::cuda::device
