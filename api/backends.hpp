// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm_compiled_primitives.hpp>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
#if defined(SSM_API_WITH_CUDA)
#include "ssm/backend/cuda.hpp"
#endif
