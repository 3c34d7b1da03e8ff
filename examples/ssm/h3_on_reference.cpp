// SPDX-License-Identifier: Apache-2.0
#include "engines_on_reference.hpp"
#include "h3_family.hpp"

template struct ssm::cli::ReferenceEngines<ssm::cli::H3Family>;
