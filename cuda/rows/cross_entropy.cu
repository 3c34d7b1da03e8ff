// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "kernel/half_numbers.cuh"
#include "kernel/ordered_sum.cuh"
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/cross_entropy.hpp"

namespace ssm::cuda {
namespace {

/// The largest logit of a row, and Σ exp(logit − largest).
template <class S>
struct SoftmaxSum {
  S largest;
  double sum;
};

/// One pass: a lane's sum is scaled down whenever it meets a larger logit. Four logits at a time,
/// so that four loads are on their way.
template <class T>
SSM_DEVICE inline SoftmaxSum<Wide<T>> softmax_sum(device::Operand<const T, 2> logits, Index m,
                                                  Index vocabulary, Wide<T> lowest,
                                                  device::Lanes lanes) {
  using S = Wide<T>;
  const Index quarter = (vocabulary + 3) / 4;
  SoftmaxSum<S> own{lowest, 0.0};
  lanes.each(quarter, [&](Index i) {
    S x[4];
    for (Index k = 0; k < 4; ++k) {
      const Index v = i + k * quarter;
      x[k] = v < vocabulary ? device::widened(logits(m, v)) : static_cast<S>(-INFINITY);
    }
    S largest = own.largest;
    for (Index k = 0; k < 4; ++k)
      if (x[k] > largest) largest = x[k];
    if (largest > own.largest) {
      own.sum *= static_cast<double>(std::exp(own.largest - largest));
      own.largest = largest;
    }
    S sum = 0;
    for (Index k = 0; k < 4; ++k) sum += std::exp(x[k] - own.largest);
    own.sum += static_cast<double>(sum);
  });
  const S largest = lanes.max(device::Lanes::count, [&](Index) { return own.largest; });
  const double sum = lanes.sum(device::Lanes::count, [&](Index) {
    return own.sum * static_cast<double>(std::exp(own.largest - largest));
  });
  return {largest, sum};
}

}  // namespace

template <class T>
void cross_entropy(const ssm::CrossEntropy<T, CudaSpace>& a, double* scratch, Stream stream) {
  const auto logits = device::operand(a.logits);
  const auto targets = device::operand(a.targets);
  const auto loss = device::operand(a.loss);
  const auto dlogits = device::operand(a.dlogits);
  const Index rows = a.logits.extent(0);
  const Index vocabulary = a.logits.extent(1);
  const Token ignored = a.ignore_index;
  const double scale = a.scale;
  using S = Wide<T>;
  constexpr S lowest = std::numeric_limits<S>::lowest();
  constexpr double nothing = std::numeric_limits<double>::quiet_NaN();
  double* const row_loss = scratch;
  double* const share = row_loss + rows;
  double* const partial = share + 1;

  const bool averages = a.reduction == Reduction::mean;
  device::ordered_sum(
      averages ? rows : 0, partial, stream, "cross_entropy",
      [=] SSM_DEVICE(Index m) { return targets(m) != ignored ? 1.0 : 0.0; },
      [=] SSM_DEVICE(double counted) { share[0] = averages && counted > 0 ? 1 / counted : 1.0; });

  device::for_each_row(rows, stream, "cross_entropy", [=] SSM_DEVICE(Index m, device::Lanes lanes) {
    const Token target = targets(m);
    if (target == ignored) {
      if (dlogits) lanes.each(vocabulary, [&](Index v) { dlogits(m, v) = T{}; });
      if (lanes.first()) row_loss[m] = 0;
      return;
    }
    const auto softmax = softmax_sum(logits, m, vocabulary, lowest, lanes);
    const bool is_known = target >= 0 && target < vocabulary;
    if (lanes.first())
      row_loss[m] =
          is_known ? std::log(softmax.sum) -
                         (static_cast<double>(device::widened(logits(m, target))) - softmax.largest)
                   : nothing;
    if (!dlogits) return;
    lanes.wait();  // dlogits may be the memory that the target's logit was just read from
    const double factor = is_known ? scale * share[0] : nothing;
    const S row_scale = static_cast<S>(factor / softmax.sum);
    const S at_target = static_cast<S>(factor);
    lanes.each(vocabulary, [&](Index v) {
      const S weighted = row_scale * std::exp(device::widened(logits(m, v)) - softmax.largest);
      dlogits(m, v) = device::narrowed<T>(v == target ? weighted - at_target : weighted);
    });
  });

  device::ordered_sum(
      rows, partial, stream, "cross_entropy", [=] SSM_DEVICE(Index m) { return row_loss[m]; },
      [=] SSM_DEVICE(double total) { loss(0) = static_cast<S>(total * share[0]); });
}

#define SSM_INSTANTIATE(T)                                                                     \
  template SSM_CUDA_API void cross_entropy<T>(const ssm::CrossEntropy<T, CudaSpace>&, double*, \
                                              Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
