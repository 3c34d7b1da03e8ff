// SPDX-License-Identifier: Apache-2.0
// Any bytes as the file of a state are either a state that can be written and read again or a
// CheckpointError, which leaves the state as it was.
#include <cstdint>
#include <cstdlib>
#include <ssm/io/state_checkpoint.hpp>
#include <ssm/layer/attention.hpp>
#include <ssm/layer/retention.hpp>
#include <string>
#include <vector>

#include "../support/temporary_folder.hpp"
#include "memory_file.hpp"

namespace {

using Attention = ssm::CausalAttention<ssm::CausalAttentionConfig{.channels = 4, .heads = 2}>;
using Retention = ssm::Retention<ssm::RetentionConfig{.channels = 4, .value_dim = 4, .heads = 2}>;

template <class L>
std::vector<double> elements(const typename L::template State<float>& state) {
  std::vector<double> all;
  L::for_each_state(
      [&](const std::string&, const auto& tensor) {
        for (const ssm::Index extent : tensor.extents().to_array())
          all.push_back(static_cast<double>(extent));
        for (ssm::Index i = 0; i < tensor.size(); ++i)
          all.push_back(static_cast<double>(tensor.data()[i]));
      },
      state);
  return all;
}

template <class L>
void load_and_save(const std::filesystem::path& path) {
  static const ssm::TemporaryFolder folder;
  const ssm::Context<ssm::HostMemory> ctx;
  const L layer;
  auto state = layer.initial_state(ctx, 1);
  const auto before = elements<L>(state);
  try {
    ssm::load_state<L>(ssm::SafetensorsFile(path), state);
  } catch (const ssm::CheckpointError&) {
    if (elements<L>(state) != before) std::abort();
    return;
  }
  ssm::SafetensorsWriter writer(folder / "state");
  ssm::save_state<L>(writer, state);
  writer.finish();
  auto again = layer.initial_state(ctx, 1);
  ssm::load_state<L>(ssm::SafetensorsFile(folder / "state"), again);
  const auto loaded = elements<L>(state), reloaded = elements<L>(again);
  for (std::size_t i = 0; i < loaded.size(); ++i)
    if (loaded[i] != reloaded[i] && loaded[i] == loaded[i]) std::abort();  // but for NaN
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const MemoryFile memory;
  memory.hold(data, size);
  load_and_save<Attention>(memory.path());
  load_and_save<Retention>(memory.path());
  return 0;
}
