// expect: ssm needs C..20: compile with -std=c..20 or later
// flags: -std=c++17
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/cuda.hpp>
