// SPDX-License-Identifier: Apache-2.0
#include "engines_on_cuda.hpp"
#include "h3_family.hpp"

template struct ssm::cli::CudaEngines<ssm::cli::H3Family>;
