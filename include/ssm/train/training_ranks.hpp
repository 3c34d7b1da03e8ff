// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "ssm/core/communicator.hpp"
#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/core/stretch.hpp"

namespace ssm {

/// The ranks that make one update together. Those of a group share every window, each a stretch of
/// it; the groups share the rows of a batch.
///   rank = group · sequence_parallel + place in the group
class TrainingRanks {
 public:
  TrainingRanks() = default;
  /// `all` must outlive it; null is this process alone. Every rank makes one.
  /// Throws  ArgumentError  unless sequence_parallel divides the ranks, and there is a row for each
  ///                        group
  TrainingRanks(Communicator* all, Index sequence_parallel, Index batch) {
    const int size = all == nullptr ? 1 : all->size();
    if (sequence_parallel < 1 || size % sequence_parallel != 0)
      throw ArgumentError(
          message({"training: windows cannot be shared by ", sequence_parallel, " of ", size,
                   size == 1 ? " rank" : " ranks", ": the one must divide the other"}));
    if (size == 1) return;
    all_ = all;
    const int shared = static_cast<int>(sequence_parallel);
    groups_ = size / shared;
    group_ = all->rank() / shared;
    if (batch < groups_)
      throw ArgumentError(message({"training: a batch of ", batch, " rows cannot be shared by ",
                                   groups_, " groups of ranks"}));
    if (shared > 1) sequence_ = all->split(group_);
  }

  /// Null where this process is alone.
  Communicator* all() const { return all_; }
  /// The ranks that share this one's windows; null where it has whole ones.
  Communicator* sequence() const { return sequence_.get(); }
  bool is_first() const { return all_ == nullptr || all_->rank() == 0; }
  int groups() const { return groups_; }

  /// Rows of a batch that are this rank's, or another group's.
  Stretch rows(Index batch) const { return rows(batch, group_); }
  Stretch rows(Index batch, int group) const { return stretch_of(batch, group, groups_); }
  bool speaks_for_group() const { return !sequence_ || sequence_->rank() == 0; }
  /// The rank that speaks for a group.
  int first_of(int group) const { return all_->size() / groups_ * group; }
  /// Positions of a window that are this rank's.
  Stretch stretch(Index length) const {
    return sequence_ ? stretch_of(length, sequence_->rank(), sequence_->size())
                     : Stretch{0, length};
  }

  /// Sums numbers over the ranks.
  void sum(std::span<double> numbers) const {
    if (all_ != nullptr) all_->sum(numbers);
  }
  double sum(double number) const {
    sum(std::span(&number, 1));
    return number;
  }

 private:
  Communicator* all_ = nullptr;
  std::unique_ptr<Communicator> sequence_;
  int group_ = 0;
  int groups_ = 1;
};

/// Calls visit(data, bytes of a row) for every tensor of a state whose rows are sequences.
/// Throws  ArgumentError  for a state that holds the positions themselves, as attention's cache
template <class L, class State, class Visit>
void for_each_row_tensor(State& state, Index rows, Visit&& visit) {
  L::for_each_state(
      [&](const std::string& name, auto& tensor) {
        if (tensor.extent(0) != rows)
          throw ArgumentError("training: the state " + name +
                              " grows with the positions and cannot be carried by several ranks");
        using Element = std::remove_cvref_t<decltype(*tensor.data())>;
        using Space = typename std::remove_cvref_t<decltype(tensor)>::Space;
        visit(Space{}, tensor.data(),
              static_cast<std::size_t>(rows == 0 ? 0 : tensor.size() / rows) * sizeof(Element));
      },
      state);
}

/// Every rank gets the state that `root` has.
template <class L, class B, class State>
void broadcast_state(Context<B>& ctx, Communicator& ranks, State& state, Index rows, int root) {
  std::vector<std::byte> bytes;
  for_each_row_tensor<L>(state, rows, [&]<class Space>(Space, auto* data, std::size_t row_bytes) {
    if constexpr (queues<B>)
      if (DeviceCommunicator* const devices = ranks.on_device()) {
        const DeviceCommunicator::Told told{
            {reinterpret_cast<std::byte*>(data), row_bytes * static_cast<std::size_t>(rows)}, root};
        return devices->broadcast({&told, 1}, ctx.resources().stream());
      }
    bytes.resize(row_bytes * static_cast<std::size_t>(rows));
    if (ranks.rank() == root) Space::copy(bytes.data(), data, bytes.size());
    ranks.broadcast(bytes, root);
    if (ranks.rank() != root) Space::copy(data, bytes.data(), bytes.size());
  });
}

/// Puts the states of all rows of a batch together, in the host's memory of the first rank.
/// all   a state of the batch; elsewhere than at the first rank not changed
template <class L, class State, class HostState>
void gather_state(const TrainingRanks& ranks, Index batch, const State& own, HostState& all) {
  const Stretch rows = ranks.rows(batch);
  L::for_each_state(
      [&](const std::string&, const auto& part, auto& whole) {
        using Space = typename std::remove_cvref_t<decltype(part)>::Space;
        const std::size_t row =
            static_cast<std::size_t>(whole.size() / batch) * sizeof(*whole.data());
        auto* const to = reinterpret_cast<std::byte*>(whole.data());
        if (ranks.is_first()) {
          Space::copy(to, part.data(), row * static_cast<std::size_t>(rows.length()));
          for (int group = 1; group < ranks.groups(); ++group) {
            const Stretch place = ranks.rows(batch, group);
            ranks.all()->receive({to + row * static_cast<std::size_t>(place.begin),
                                  row * static_cast<std::size_t>(place.length())},
                                 ranks.first_of(group));
          }
        } else if (ranks.speaks_for_group()) {
          std::vector<std::byte> bytes(row * static_cast<std::size_t>(rows.length()));
          Space::copy(bytes.data(), part.data(), bytes.size());
          ranks.all()->send(bytes, 0);
        }
      },
      own, all);
}

/// Takes this rank's rows of what `gather_state` put together.
template <class L, class HostState, class State>
void take_rows(const TrainingRanks& ranks, Index batch, const HostState& all, State& own) {
  const Stretch rows = ranks.rows(batch);
  L::for_each_state(
      [&](const std::string&, const auto& whole, auto& part) {
        using Space = typename std::remove_cvref_t<decltype(part)>::Space;
        const Index row = whole.size() / batch;
        Space::copy(part.data(), whole.data() + row * rows.begin,
                    static_cast<std::size_t>(row * rows.length()) * sizeof(*whole.data()));
      },
      all, own);
}

}  // namespace ssm
