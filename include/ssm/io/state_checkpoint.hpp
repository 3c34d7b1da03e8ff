// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "ssm/io/safetensors.hpp"

namespace ssm {

/// Adds every tensor of layer L's state under prefix + its name; the writer borrows them until it is finished.
///   save_state<L>(writer, state, "state.");
template <class L, class State>
void save_state(SafetensorsWriter& writer, const State& state, std::string_view prefix = "") {
  L::for_each_state([&](const std::string& name,
                        const auto& tensor) { writer.add(std::string(prefix) + name, tensor); },
                    state);
}

/// Fills every tensor of a state, whose extents are set already, from prefix + its name.
/// Throws  CheckpointError  if one is missing or of other extents
template <class L, class State>
void load_state(const SafetensorsFile& file, State& state, std::string_view prefix = "") {
  L::for_each_state(
      [&](const std::string& name, auto& tensor) {
        file.require_readable(std::string(prefix) + name, tensor);
      },
      state);
  L::for_each_state(
      [&](const std::string& name, auto& tensor) { file.read(std::string(prefix) + name, tensor); },
      state);
}

}  // namespace ssm
