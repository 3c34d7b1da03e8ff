// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "ordered_sum.cuh"
#include "parallel.cuh"
#include "ssm/backend/cuda/cross_entropy.hpp"

namespace ssm::cuda {
namespace {

/// The largest logit of a row, and Σ exp(logit − largest).
template <class T>
struct SoftmaxSum {
  T largest;
  double sum;
};

/// One pass: a lane's sum is scaled down whenever it meets a larger logit. Four logits at a time,
/// so that four loads are on their way.
template <class T>
SSM_DEVICE inline SoftmaxSum<T> softmax_sum(device::Operand<const T, 2> logits, Index m,
                                            Index vocabulary, T lowest, device::Lanes lanes) {
  const Index quarter = (vocabulary + 3) / 4;
  SoftmaxSum<T> own{lowest, 0.0};
  lanes.each(quarter, [&](Index i) {
    T x[4];
    for (Index k = 0; k < 4; ++k) {
      const Index v = i + k * quarter;
      x[k] = v < vocabulary ? logits(m, v) : static_cast<T>(-INFINITY);
    }
    T largest = own.largest;
    for (Index k = 0; k < 4; ++k)
      if (x[k] > largest) largest = x[k];
    if (largest > own.largest) {
      own.sum *= static_cast<double>(std::exp(own.largest - largest));
      own.largest = largest;
    }
    T sum = 0;
    for (Index k = 0; k < 4; ++k) sum += std::exp(x[k] - own.largest);
    own.sum += static_cast<double>(sum);
  });
  const T largest = lanes.max(device::Lanes::count, [&](Index) { return own.largest; });
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
  constexpr T lowest = std::numeric_limits<T>::lowest();
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
      if (dlogits) lanes.each(vocabulary, [&](Index v) { dlogits(m, v) = 0; });
      if (lanes.first()) row_loss[m] = 0;
      return;
    }
    const auto softmax = softmax_sum(logits, m, vocabulary, lowest, lanes);
    const bool is_known = target >= 0 && target < vocabulary;
    if (lanes.first())
      row_loss[m] = is_known ? std::log(softmax.sum) -
                                   (static_cast<double>(logits(m, target)) - softmax.largest)
                             : nothing;
    if (!dlogits) return;
    lanes.wait();  // dlogits may be the memory that the target's logit was just read from
    const double factor = is_known ? scale * share[0] : nothing;
    const T row_scale = static_cast<T>(factor / softmax.sum);
    const T at_target = static_cast<T>(factor);
    lanes.each(vocabulary, [&](Index v) {
      const T weighted = row_scale * std::exp(logits(m, v) - softmax.largest);
      dlogits(m, v) = v == target ? weighted - at_target : weighted;
    });
  });

  device::ordered_sum(
      rows, partial, stream, "cross_entropy", [=] SSM_DEVICE(Index m) { return row_loss[m]; },
      [=] SSM_DEVICE(double total) { loss(0) = static_cast<T>(total * share[0]); });
}

#define SSM_INSTANTIATE(T)                                                                     \
  template SSM_CUDA_API void cross_entropy<T>(const ssm::CrossEntropy<T, CudaSpace>&, double*, \
                                              Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
