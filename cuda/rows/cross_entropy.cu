// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <type_traits>

#include "kernel/async_copies.cuh"
#include "kernel/ordered_sum.cuh"
#include "kernel/packs.cuh"
#include "kernel/quick_functions.cuh"
#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/cross_entropy.hpp"

namespace ssm::cuda {
namespace {

/// Rows of so many logits have a block each, others a warp.
constexpr Index long_row = 2048;
constexpr int long_row_threads = 512;

/// The largest logit of a row, and Σ exp(logit − largest).
template <class S>
struct SoftmaxSum {
  S largest;
  double sum;
};

/// e^x for numbers of T.
template <class T>
SSM_DEVICE inline Wide<T> exponential(Wide<T> x) {
  if constexpr (HalfStorage<T>) return device::quick_exp(x);
  return std::exp(x);
}

/// The logits of a row, where they are read.
template <class T>
struct LogitRow {
  const T* data;
  Index stride;

  SSM_DEVICE const T* at(Index v) const { return data + v * stride; }
};

/// The loss of a row, and its gradient if wanted. Its logits are read twice: from memory, where the
/// second time much of them comes from the cache, or from a copy.
template <class T>
struct CrossEntropyRow {
  using S = Wide<T>;
  static constexpr int size = device::pack_size<T>;
  static constexpr int together = 4;  // runs on their way at a time

  device::Operand<const T, 2> logits;
  device::Operand<const Token, 1> targets;
  device::Operand<T, 2> dlogits;
  device::RowRuns<size> runs;
  Token ignored;
  double scale;
  double* row_loss;
  const double* share;

  template <class L>
  SSM_DEVICE void operator()(Index m, L lanes) const {
    evaluate(m, {&logits(m, 0), logits.strides[1]}, lanes);
  }
  template <class L>
  SSM_DEVICE void evaluate(Index m, const LogitRow<T>& from, L lanes) const {
    const Token target = targets(m);
    if (target == ignored) {
      if (dlogits) write_zeros(m, lanes);
      if (lanes.first()) row_loss[m] = 0;
      return;
    }
    const auto softmax = softmax_sum(from, lanes);
    const bool is_known = target >= 0 && target < runs.width;
    constexpr double nothing = std::numeric_limits<double>::quiet_NaN();
    const S at_target = is_known && lanes.first() ? device::widened(logits(m, target)) : S{0};
    if (lanes.first())
      row_loss[m] = is_known
                        ? std::log(softmax.sum) - (static_cast<double>(at_target) - softmax.largest)
                        : nothing;
    if (!dlogits) return;
    lanes.wait();  // dlogits may be the memory that the target's logit was just read from
    const double factor = is_known ? scale * share[0] : nothing;
    const S row_scale = static_cast<S>(factor / softmax.sum);
    const auto weighted = [&](S logit) {
      return row_scale * exponential<T>(logit - softmax.largest);
    };
    for_each_run(from, lanes, [&](Index run, Index count, S(&values)[size]) {
      SSM_UNROLL
      for (S& value : values) value = weighted(value);
      device::write_neighbors(&dlogits(m, runs.first(run)), dlogits.strides[1], count, values);
    });
    lanes.wait();
    if (is_known && lanes.first())
      dlogits(m, target) = device::narrowed<T>(weighted(at_target) - static_cast<S>(factor));
  }

 private:
  template <class L>
  SSM_DEVICE void write_zeros(Index m, L lanes) const {
    for (Index run = lanes.index(); run < runs.count(); run += L::count) {
      const S zeros[size] = {};
      device::write_neighbors(&dlogits(m, runs.first(run)), dlogits.strides[1], runs.size(run),
                              zeros);
    }
  }
  /// One pass: a lane's sum is scaled down whenever it meets a larger logit.
  template <class L>
  SSM_DEVICE SoftmaxSum<S> softmax_sum(const LogitRow<T>& from, L lanes) const {
    SoftmaxSum<S> own{std::numeric_limits<S>::lowest(), 0.0};
    for_each_run(from, lanes, [&](Index, Index count, S(&values)[size]) {
      S largest = own.largest;
      SSM_UNROLL
      for (int k = 0; k < size; ++k)
        if (k < count && values[k] > largest) largest = values[k];
      if (largest > own.largest) {
        own.sum *= static_cast<double>(exponential<T>(own.largest - largest));
        own.largest = largest;
      }
      S sum = 0;
      SSM_UNROLL
      for (int k = 0; k < size; ++k)
        if (k < count) sum += exponential<T>(values[k] - own.largest);
      own.sum += static_cast<double>(sum);
    });
    const S largest = lanes.max(L::count, [&](Index) { return own.largest; });
    return {largest,
            lanes.total(own.sum * static_cast<double>(exponential<T>(own.largest - largest)))};
  }
  /// f(run, count, logits) for every run of a row, several of which are read at a time.
  template <class L, class F>
  SSM_DEVICE void for_each_run(const LogitRow<T>& from, L lanes, F f) const {
    const Index full = runs.length == size ? runs.width / size : 0;
    Index run = lanes.index();
    for (; run + (together - 1) * L::count < full; run += together * L::count) {
      S values[together][size];
      SSM_UNROLL
      for (int i = 0; i < together; ++i)
        device::read_neighbors(from.at((run + i * L::count) * size), Index{1},
                               std::integral_constant<Index, size>(), values[i]);
      SSM_UNROLL
      for (int i = 0; i < together; ++i)
        f(run + i * L::count, std::integral_constant<Index, size>(), values[i]);
    }
    for (; run < runs.count(); run += L::count) {
      const Index count = runs.size(run);
      S values[size];
      device::read_neighbors(from.at(runs.first(run)), from.stride, count, values);
      f(run, count, values);
    }
  }
};

#ifdef __CUDACC__

/// Two blocks of a multiprocessor hold a row each in shared memory, so that memory is read once.
template <class T>
__global__ void __launch_bounds__(long_row_threads, 2)
    held_row_kernel(const CrossEntropyRow<T> row) {
  extern __shared__ uint4 memory[];
  device::let_successor_begin();
  device::wait_for_predecessors();
  const device::BlockLanes<long_row_threads> lanes;
  const Index m = blockIdx.x;
  T* const held = reinterpret_cast<T*>(memory);
  // A lane copies what it reads itself.
  for (Index run = lanes.index(); run < row.runs.count(); run += lanes.count)
    device::copy_async(held + run * row.size, &row.logits(m, run * row.size));
  device::commit_copies();
  device::wait_for_groups<0>();
  row.evaluate(m, {held, 1}, lanes);
}

/// Whether that is for these rows: of half types, in whole packs.
template <class T>
bool holds_rows(const CrossEntropyRow<T>& row) {
  constexpr std::size_t room = 112 * 1024;  // bytes of a block
  return HalfStorage<T> && row.runs.length == row.size && row.runs.width % row.size == 0 &&
         static_cast<std::size_t>(row.runs.width) * sizeof(T) + 2048 <= room &&
         has_tensor_core_kernels();
}

#endif

}  // namespace

template <class T>
void cross_entropy(const ssm::CrossEntropy<T, CudaSpace>& a, double* scratch, Stream stream) {
  const auto targets = device::operand(a.targets);
  const auto loss = device::operand(a.loss);
  const Index rows = a.logits.extent(0);
  const Index vocabulary = a.logits.extent(1);
  const Token ignored = a.ignore_index;
  double* const row_loss = scratch;
  double* const share = row_loss + rows;
  double* const partial = share + 1;

  const bool averages = a.reduction == Reduction::mean;
  device::ordered_sum(
      averages ? rows : 0, partial, stream, "cross_entropy",
      [=] SSM_DEVICE(Index m) { return targets(m) != ignored ? 1.0 : 0.0; },
      [=] SSM_DEVICE(double counted) { share[0] = averages && counted > 0 ? 1 / counted : 1.0; });

  const CrossEntropyRow<T> row{
      .logits = device::operand(a.logits),
      .targets = targets,
      .dlogits = device::operand(a.dlogits),
      .runs = device::row_runs<device::pack_size<T>>(vocabulary, a.logits, a.dlogits),
      .ignored = ignored,
      .scale = a.scale,
      .row_loss = row_loss,
      .share = share};
  const auto run = [&] {
    if (vocabulary < long_row) return device::for_each_row(rows, stream, "cross_entropy", row);
#ifdef __CUDACC__
    if constexpr (HalfStorage<T>)
      if (rows > 0 && holds_rows(row))
        return device::launch_early<CrossEntropyRow<T>>(
            held_row_kernel<T>, dim3(static_cast<unsigned>(rows)),
            {long_row_threads, static_cast<std::size_t>(vocabulary) * sizeof(T)}, stream,
            "cross_entropy", row);
#endif
    device::for_each_block<long_row_threads>(rows, stream, "cross_entropy", row);
  };
  run();

  device::ordered_sum(
      rows, partial, stream, "cross_entropy", [=] SSM_DEVICE(Index m) { return row_loss[m]; },
      [=] SSM_DEVICE(double total) { loss(0) = static_cast<Wide<T>>(total * share[0]); });
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
