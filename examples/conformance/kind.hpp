// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

namespace ssm::conformance {

class Trial;

/// What a case can be of: the function named by `config.op`, and how to check it.
struct Kind {
  std::string_view op;
  void (*check)(Trial&);
};

/// All kinds, on each backend in each scalar: operations and layers, then whole models. One translation unit each: they are
/// slow to compile.
const std::vector<Kind>& reference_double_kinds();
const std::vector<Kind>& reference_float_kinds();
const std::vector<Kind>& cpu_double_kinds();
const std::vector<Kind>& cpu_float_kinds();
const std::vector<Kind>& reference_double_language_models();
const std::vector<Kind>& reference_float_language_models();
const std::vector<Kind>& cpu_double_language_models();
const std::vector<Kind>& cpu_float_language_models();
#ifdef SSM_WITH_CUDA
const std::vector<Kind>& cuda_double_kinds();
const std::vector<Kind>& cuda_float_kinds();
const std::vector<Kind>& cuda_double_language_models();
const std::vector<Kind>& cuda_float_language_models();
#endif

}  // namespace ssm::conformance
