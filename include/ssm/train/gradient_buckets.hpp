// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "ssm/core/communicator.hpp"
#include "ssm/core/context.hpp"
#include "ssm/core/gradient_listener.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/core/unwritten.hpp"
#include "ssm/op/rearrange.hpp"  // add
#include "ssm/op/unwritten.hpp"

namespace ssm {

/// Sums gradients over ranks, in buckets: tensors, or parts of them, one behind the other, so that
/// small ones share a message. Ranks that reach each other's devices sum them where they are.
/// Cost    on the host two copies of the gradients, and of one bucket the memory
template <class T>
class GradientBuckets {
 public:
  static constexpr std::size_t capacity = std::size_t{1} << 20;  // elements

  /// scale   what sums are multiplied by
  template <class B, class P>
  void sum(Context<B>& ctx, Communicator& ranks, P& gradients, double scale = 1) {
    using Space = typename B::Space;
    if constexpr (queues<B>)
      if (DeviceCommunicator* const devices = ranks.on_device())
        return sum_on_device(ctx, *devices, gradients, scale);
    bucket_.reserve(capacity);
    for_each_parameter(
        [&](const ParameterSpec&, auto& tensor) {
          const auto size = static_cast<std::size_t>(tensor.size());
          for (std::size_t begin = 0; begin < size;) {
            const std::size_t count = std::min(size - begin, capacity - bucket_.size());
            T* const place = tensor.data() + begin;
            bucket_.resize(bucket_.size() + count);
            Space::copy(bucket_.data() + bucket_.size() - count, place, count * sizeof(T));
            pieces_.push_back({place, count});
            begin += count;
            if (bucket_.size() == capacity) flush<Space>(ranks, scale);
          }
        },
        gradients);
    flush<Space>(ranks, scale);
  }

 private:
  template <class B, class P>
  void sum_on_device(Context<B>& ctx, DeviceCommunicator& devices, P& gradients, double scale) {
    tensors_.clear();
    for_each_parameter(
        [&](const ParameterSpec&, auto& tensor) {
          tensors_.push_back({tensor.data(), static_cast<std::size_t>(tensor.size())});
        },
        gradients);
    devices.sum(tensors_, sum_scalar<T>, ctx.resources().stream());
    if (scale == 1) return;
    for_each_parameter(
        [&](const ParameterSpec&, auto& tensor) {
          const auto all = tensor.flatten();
          add(ctx, Add<T, typename B::Space>{.a = all, .a_scale = scale, .y = all});
        },
        gradients);
  }
  template <class Space>
  void flush(Communicator& ranks, double scale) {
    if (bucket_.empty()) return;
    ranks.sum(std::span<T>(bucket_));
    if (scale != 1)
      for (T& element : bucket_) element = static_cast<T>(static_cast<double>(element) * scale);
    const T* from = bucket_.data();
    for (const auto& [place, count] : pieces_) {
      Space::copy(place, from, count * sizeof(T));
      from += count;
    }
    bucket_.clear();
    pieces_.clear();
  }

  std::vector<T> bucket_;
  std::vector<DeviceCommunicator::Elements> tensors_;
  std::vector<std::pair<T*, std::size_t>> pieces_;
};

/// Sums gradients over the devices of ranks beside the backward pass that makes them: those of a
/// layer go when they are done, and those that the pass has left unwritten are zero by then. All of
/// it is queued, and recorded where the pass is.
///   SumBesideBackward<B, float> sum(ctx, devices, stream);
///   { const GradientListenerScope<B> told(ctx, &sum);  layer.backward(…, gradients); }
///   sum.finish(gradients);
template <class B, class T>
class SumBesideBackward final : public GradientListener {
 public:
  SumBesideBackward(Context<B>& ctx, DeviceCommunicator& devices, void* stream)
      : ctx_(ctx), devices_(devices), stream_(stream) {}

  void add(void* data, std::size_t count) override {
    if (UnwrittenTensors* const unwritten = ctx_.unwritten(); unwritten != nullptr)
      unwritten->settle({data, count * sizeof(T)}, detail::zero_part<T>(ctx_));
    bucket_.push_back({data, count});
    count_ += count;
  }
  void end_part() override {
    if (count_ >= least) flush();
  }
  /// Those that nobody has told of, which are all that a combinator does not know; what the stream
  /// is given next comes after all sums.
  template <class P>
  void finish(P& gradients) {
    done_.insert(done_.end(), bucket_.begin(), bucket_.end());
    const auto told = [this](const void* data) {
      return std::ranges::any_of(done_, [data](const auto& part) { return part.data == data; });
    };
    for_each_parameter(
        [&](const ParameterSpec&, auto& tensor) {
          if (!told(tensor.data())) add(tensor.data(), static_cast<std::size_t>(tensor.size()));
        },
        gradients);
    flush();
    devices_.join(stream_);
  }

 private:
  static constexpr std::size_t least = std::size_t{1} << 21;  // elements that go together

  void flush() {
    devices_.sum_beside(bucket_, sum_scalar<T>, stream_);
    done_.insert(done_.end(), bucket_.begin(), bucket_.end());
    bucket_.clear();
    count_ = 0;
  }

  Context<B>& ctx_;
  DeviceCommunicator& devices_;
  void* stream_;
  std::vector<DeviceCommunicator::Elements> bucket_, done_;
  std::size_t count_ = 0;
};

/// A backward pass, with the sum of its gradients beside it; without devices the pass alone.
template <class B, class P, class Differentiate>
void backward_and_sum(Context<B>& ctx, DeviceCommunicator* devices, P& gradients,
                      const Differentiate& differentiate) {
  if constexpr (queues<B>)
    if (devices != nullptr) {
      SumBesideBackward<B, typename P::Scalar> sum(ctx, *devices, ctx.resources().stream());
      {
        const GradientListenerScope<B> told(ctx, &sum);
        differentiate();
      }
      return sum.finish(gradients);
    }
  differentiate();
}

}  // namespace ssm
