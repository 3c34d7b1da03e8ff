// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/sum_slices.hpp"
#include "ssm/op/cross_entropy.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::CrossEntropy. T: float, double, half types;
/// exponentials in Wide<T>, sums in double precision. A target outside the vocabulary, where the
/// host could not look, makes the loss and its row of dlogits NaN.
/// scratch   cross_entropy_scratch_count(M) numbers
template <class T>
SSM_CUDA_API void cross_entropy(const ssm::CrossEntropy<T, CudaSpace>& a, double* scratch,
                                Stream stream);

/// How many numbers of scratch the cross-entropy of `rows` rows takes.
constexpr Index cross_entropy_scratch_count(Index rows) {
  return rows + sum_slices(rows).count + 1;
}

namespace primitive {
struct CrossEntropy {
  template <class Ctx, DeviceNumber T>
  static void cross_entropy(Ctx& ctx, const ssm::CrossEntropy<T, typename Ctx::Space>& a) {
    auto frame = ctx.workspace().frame();
    double* const scratch =
        frame.template tensor<double>(cross_entropy_scratch_count(a.logits.extent(0))).data();
    queue(ctx, [&](Stream stream) { cuda::cross_entropy(on_device(a), scratch, stream); });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
