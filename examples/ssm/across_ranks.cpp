// SPDX-License-Identifier: Apache-2.0
#include <ssm_compiled_primitives.hpp>

#include "ranks.hpp"
#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
#ifdef SSM_WITH_CUDA
#include "ssm/backend/cuda.hpp"
#endif
#include "ssm/parallel/primitives_across_ranks.hpp"

namespace ssm::cli {

const AcrossRanks& backends_across_ranks() {
  static const PrimitivesAcrossRanks all = [] {
    PrimitivesAcrossRanks result;
    result.add<Reference, float>().add<Cpu, float>();  // half types are computed in float
#ifdef SSM_WITH_CUDA
    result.add<Cuda, float, BFloat16, Float16>();
#endif
    return result;
  }();
  return all;
}

}  // namespace ssm::cli
