// SPDX-License-Identifier: Apache-2.0
// Any text is either a configuration that can be written and read again or a CheckpointError.
#include <cstdlib>
#include <ssm/io/dense_retnet_config.hpp>
#include <ssm/io/h3_config.hpp>
#include <ssm/io/mamba_config.hpp>
#include <ssm/io/model_family.hpp>
#include <ssm/io/retnet_config.hpp>
#include <string>
#include <string_view>

namespace {

template <class Read, class Write>
void read_and_write(const ssm::JsonObject& json, Read&& read, Write&& write) {
  std::string written;
  try {
    written = write(read(json)).dump();
  } catch (const ssm::CheckpointError&) {
    return;
  }
  if (write(read(ssm::parse_json(written, "written"))).dump() != written) std::abort();
}

void read_as_every_family(const ssm::JsonObject& json) {
  using ssm::JsonObject;
  read_and_write(
      json, [](const JsonObject& j) { return ssm::read_h3_config(j); },
      [](const auto& config) { return ssm::h3_config_json(config); });
  read_and_write(
      json, [](const JsonObject& j) { return ssm::read_mamba_config(j); },
      [](const auto& config) { return ssm::mamba_config_json(config); });
  read_and_write(
      json, [](const JsonObject& j) { return ssm::read_retnet_config(j); },
      [](const auto& config) { return ssm::retnet_config_json(config); });
  read_and_write(
      json, [](const JsonObject& j) { return ssm::read_dense_retnet_config(j); },
      [](const auto& config) { return ssm::dense_retnet_config_json(config); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ssm::JsonObject json = ssm::parse_json(text, "input");
    read_as_every_family(json);
    ssm::model_family(json);
  } catch (const ssm::CheckpointError&) {
  }
  return 0;
}
