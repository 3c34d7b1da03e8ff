// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm_compiled_primitives.hpp>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
