// SPDX-License-Identifier: Apache-2.0
#include "engines_on_cpu.hpp"
#include "retnet_family.hpp"

template struct ssm::cli::CpuEngines<ssm::cli::RetNetFamily>;
