// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ssm::conformance {

class Trial;

/// What a case can be of: the function named by `config.op`, and how to check it.
struct Kind {
  std::string op;
  void (*check)(Trial&);
};

/// The backends that the program was built with.
std::vector<std::string> backend_names();
/// All kinds of operations, layers and whole models that run on a backend, in "double" or "float".
std::vector<Kind> kinds_of(std::string_view backend, std::string_view scalar);

}  // namespace ssm::conformance
