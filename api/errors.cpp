// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string>

#include "guarded.hpp"
#include "ssm/version.hpp"

namespace ssm::api {

static std::string& last_error() {
  thread_local std::string sentence;
  return sentence;
}

ssm_code failed(ssm_code code, const char* what) noexcept {
  try {
    last_error() = what;
  } catch (...) {  // no memory for the sentence
    last_error().clear();
  }
  return code;
}

}  // namespace ssm::api

int ssm_version(void) {
  return 10000 * SSM_VERSION_MAJOR + 100 * SSM_VERSION_MINOR + SSM_VERSION_PATCH;
}
const char* ssm_last_error(void) { return ssm::api::last_error().c_str(); }
void ssm_free(void* memory) { std::free(memory); }
