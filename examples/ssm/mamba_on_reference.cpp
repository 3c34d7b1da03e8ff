// SPDX-License-Identifier: Apache-2.0
#include "engines_on_reference.hpp"
#include "mamba_family.hpp"

template struct ssm::cli::ReferenceEngines<ssm::cli::MambaFamily>;
