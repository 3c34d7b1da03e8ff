// SPDX-License-Identifier: Apache-2.0
// Any text is either a configuration that can be written and read again or a CheckpointError.
#include <cstdlib>
#include <ssm/family/families.hpp>
#include <string>
#include <string_view>

namespace {

template <class F>
void read_and_write(const ssm::JsonObject& json) {
  std::string written;
  try {
    written = F::write(F::read(json)).dump();
  } catch (const ssm::CheckpointError&) {
    return;
  }
  if (F::write(F::read(ssm::parse_json(written, "written"))).dump() != written) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ssm::JsonObject json = ssm::parse_json(text, "input");
    ssm::for_each_family([&]<class F>() { read_and_write<F>(json); });
    ssm::with_family(json, []<class F>() {});
  } catch (const ssm::CheckpointError&) {
  }
  return 0;
}
