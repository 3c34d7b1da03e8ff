// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include "ssm/core/communicator.hpp"
#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/core/stretch.hpp"
#include "ssm/core/tensor.hpp"

namespace ssm {

/// This rank's part of both moments, where every rank keeps those of its own part of all parameters
/// one behind the other, updates that part, and tells the others.
/// Source  Rajbhandari et al. 2020 (ZeRO, stage 1)
template <class P>
class OptimizerShard {
  using T = typename P::Scalar;
  using Space = typename P::Space;

 public:
  /// Elements of a tensor, and where their moments are.
  struct Piece {
    Index begin = 0, end = 0, place = 0;
    Index length() const { return end - begin; }
  };

  OptimizerShard(Communicator& ranks, const P& parameters) : ranks_(&ranks) {
    for_each_parameter(
        [&](const ParameterSpec&, const auto& tensor) {
          begins_.push_back(total_);
          sizes_.push_back(tensor.size());
          total_ += tensor.size();
        },
        parameters);
    Index length = 0;
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      own_.push_back(piece(i, ranks.rank()));
      own_.back().place = length;
      length += (own_.back().length() + step - 1) / step * step;
    }
    first_ = DynamicTensor<T, 1, Space>(DynamicExtents<1>(length));
    second_ = DynamicTensor<T, 1, Space>(DynamicExtents<1>(length));
  }

  /// Of tensor i, in the order of for_each_parameter.
  const Piece& own(std::size_t i) const { return own_[i]; }
  View<T, 1, Space> first(const Piece& piece) { return part(first_, piece); }
  View<T, 1, Space> second(const Piece& piece) { return part(second_, piece); }

  /// Tells the others this rank's part of the parameters, and hears theirs.
  template <class B, class Q>
  void share(Context<B>& ctx, Q& parameters) {
    told_.clear();
    std::size_t i = 0;
    for_each_parameter(
        [&](const ParameterSpec&, auto& tensor) {
          for (int rank = 0; rank < ranks_->size(); ++rank) {
            const Piece at = piece(i, rank);
            if (at.length() == 0) continue;
            const auto elements = std::span(tensor.data() + at.begin, tensor.data() + at.end);
            told_.push_back({std::as_writable_bytes(elements), rank});
          }
          ++i;
        },
        parameters);
    if constexpr (queues<B>)
      if (DeviceCommunicator* const devices = ranks_->on_device())
        return devices->broadcast(told_, ctx.resources().stream());
    std::vector<std::byte> bytes;
    for (const auto& [place, root] : told_) {
      bytes.resize(place.size());
      if (ranks_->rank() == root) Space::copy(bytes.data(), place.data(), bytes.size());
      ranks_->broadcast(bytes, root);
      if (ranks_->rank() != root) Space::copy(place.data(), bytes.data(), bytes.size());
    }
  }

  /// Whether this is the rank that `gather` puts the moments together for.
  bool is_first() const { return ranks_->rank() == 0; }
  /// Puts the moments of all ranks together, in the host's memory of the first one. Every rank
  /// calls it.
  template <class HostParameters>
  void gather(HostParameters* first, HostParameters* second) const {
    gather(first_, first);
    gather(second_, second);
  }
  /// Takes this rank's part of what `gather` put together.
  template <class HostParameters>
  void take(const HostParameters& first, const HostParameters& second) {
    take(first, first_);
    take(second, second_);
  }

 private:
  static constexpr Index step = 64;  // elements: pieces begin aligned

  /// A rank's part of tensor i.
  Piece piece(std::size_t i, int rank) const {
    const Stretch all = stretch_of(total_, rank, ranks_->size());
    const auto cut = [&](Index at) {
      const Index local = std::clamp<Index>(at - begins_[i], 0, sizes_[i]);
      return local < sizes_[i] ? local / step * step : local;
    };
    return {.begin = cut(all.begin), .end = cut(all.end)};
  }
  static View<T, 1, Space> part(DynamicTensor<T, 1, Space>& moment, const Piece& piece) {
    return moment.view().slice(0, piece.place, piece.place + piece.length());
  }
  template <class HostParameters>
  void gather(const DynamicTensor<T, 1, Space>& moment, HostParameters* all) const {
    std::vector<T> own;
    if (ranks_->rank() > 0) {
      for (const Piece& at : own_) {
        own.resize(static_cast<std::size_t>(at.length()));
        Space::copy(own.data(), moment.data() + at.place, own.size() * sizeof(T));
        if (!own.empty()) ranks_->send(std::as_bytes(std::span(own)), 0);
      }
      return;
    }
    // Others send one tensor after the other: rank by rank.
    for (int rank = 0; rank < ranks_->size(); ++rank) {
      std::size_t i = 0;
      for_each_parameter(
          [&](const ParameterSpec&, auto& tensor) {
            const Piece at = rank == 0 ? own_[i] : piece(i, rank);
            ++i;
            const std::span to(tensor.data() + at.begin, static_cast<std::size_t>(at.length()));
            if (to.empty()) return;
            if (rank == 0)
              Space::copy(to.data(), moment.data() + at.place, to.size_bytes());
            else
              ranks_->receive(std::as_writable_bytes(to), rank);
          },
          *all);
    }
  }
  template <class HostParameters>
  void take(const HostParameters& all, DynamicTensor<T, 1, Space>& moment) {
    std::size_t i = 0;
    for_each_parameter(
        [&](const ParameterSpec&, const auto& tensor) {
          const Piece& at = own_[i++];
          Space::copy(moment.data() + at.place, tensor.data() + at.begin,
                      static_cast<std::size_t>(at.length()) * sizeof(T));
        },
        all);
  }

  Communicator* ranks_;
  std::vector<Index> begins_, sizes_;
  Index total_ = 0;
  std::vector<Piece> own_;
  DynamicTensor<T, 1, Space> first_, second_;
  std::vector<DeviceCommunicator::Told> told_;  // scratch
};

}  // namespace ssm
