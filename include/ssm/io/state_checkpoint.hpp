// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "ssm/io/safetensors.hpp"

namespace ssm {

/// Adds every tensor of layer L's state under prefix + its name; the writer borrows them until it
/// is finished.
///   save_state<L>(writer, state, "state.");
template <class L, class State>
void save_state(SafetensorsWriter& writer, const State& state, std::string_view prefix = "") {
  L::for_each_state([&](const std::string& name,
                        const auto& tensor) { writer.add(std::string(prefix) + name, tensor); },
                    state);
}

namespace detail {

/// Whether a tensor of a fresh state takes more rows with every position, as the caches of
/// attention do.
template <class T, class E, class Space>
bool grows(const Tensor<T, E, Space>& tensor) {
  return E::rank() > 1 && tensor.extents()[0] == 0;
}

/// Reads the tensors of a state from a file into another one, and remembers how far they go.
class StateReader {
 public:
  StateReader(const SafetensorsFile& file, std::string_view prefix)
      : file_(file), prefix_(prefix) {}

  /// Throws  CheckpointError  if it is missing, not as large as `fresh`, or as long as another
  ///                          cache
  template <class T, class E>
  void read(const std::string& name, const Tensor<T, E, HostSpace>& fresh,
            Tensor<T, E, HostSpace>& target) {
    const std::string full_name = prefix_ + name;
    file_.template require_convertible<T>(full_name);
    auto extents = fresh.extents().to_array();
    if (grows(fresh)) {
      const std::vector<Index>& shape = file_.shape(full_name);
      if (shape.size() == extents.size()) extents[0] = shape[0];
      if (shape == std::vector<Index>(extents.begin(), extents.end())) {
        if (rows_ >= 0 && rows_ != extents[0])
          refuse(full_name, "has " + std::to_string(extents[0]) + " positions, another has " +
                                std::to_string(rows_));
        rows_ = extents[0];
      } else {
        extents[0] = dyn;
        refuse(full_name,
               "is " + shape_text(shape) + " in the file, asked for " + shape_text(extents));
      }
    }
    target.resize(std::apply([](auto... n) { return E(n...); }, extents));
    file_.read(full_name, target);
    if constexpr (std::integral<T>) {
      for (Index i = 0; i < target.size(); ++i) {
        const Index position = target.data()[i];
        if (position < 0 || position > latest)
          refuse(full_name, "has the position " + std::to_string(position));
        if (position <= last_) continue;
        last_ = position;
        last_name_ = full_name;
      }
    }
  }
  /// Throws  CheckpointError  for a position behind the caches
  void finish() const {
    if (rows_ >= 0 && last_ > rows_)
      refuse(last_name_, "is at position " + std::to_string(last_) + ", the caches hold " +
                             std::to_string(rows_));
    file_.require_unchanged_size();
  }

 private:
  static constexpr Index latest = Index{1}
                                  << 62;  // far enough from the largest to go on from there

  [[noreturn]] void refuse(const std::string& name, const std::string& what) const {
    throw CheckpointError(file_.path_name(), printable(name), what);
  }

  const SafetensorsFile& file_;
  std::string prefix_;
  Index rows_ = -1;  // of every cache; −1: there is none
  Index last_ = -1;  // the largest position
  std::string last_name_;
};

}  // namespace detail

/// Fills a state from prefix + the names of its tensors. It must be as `initial_state` made it:
/// that says how many sequences there are and how wide they are. Caches, which have no rows yet,
/// take as many as the file has.
///   auto state = layer.initial_state(ctx, 2);
///   load_state<L>(SafetensorsFile("state.safetensors"), state);
/// Cost    the state once more in memory, so that nothing changes unless all of the file is sound
/// Throws  CheckpointError  if a tensor is missing or of other extents, if caches differ in length,
///                          or if a position is negative or behind the caches
template <class L, class State>
void load_state(const SafetensorsFile& file, State& state, std::string_view prefix = "") {
  State loaded;
  detail::StateReader reader(file, prefix);
  L::for_each_state([&](const std::string& name, const auto& fresh,
                        auto& target) { reader.read(name, fresh, target); },
                    std::as_const(state), loaded);
  reader.finish();
  const auto for_both = [&](auto&& visit) {
    L::for_each_state([&](const std::string&, const auto& from, auto& to) { visit(from, to); },
                      std::as_const(loaded), state);
  };
  for_both([](const auto& from, auto& to) {  // asks for memory; what was reserved stays
    const auto before = to.extents();
    if (before == from.extents()) return;
    to.extend(from.extents());
    to.extend(before);
  });
  for_both([](const auto& from, auto& to) {
    if (!(to.extents() == from.extents())) to.extend(from.extents());
    std::copy_n(from.data(), from.size(), to.data());
  });
}

}  // namespace ssm
