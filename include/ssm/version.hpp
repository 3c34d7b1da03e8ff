// SPDX-License-Identifier: Apache-2.0
#pragma once

// The version of the library, and what it asks of a compiler.
#define SSM_VERSION_MAJOR 0
#define SSM_VERSION_MINOR 1
#define SSM_VERSION_PATCH 0

#if __cplusplus < 202002L
#error "ssm needs C++20: compile with -std=c++20"
#endif
#if !defined(__cpp_exceptions)
#error "ssm reports errors as exceptions: compile without -fno-exceptions"
#endif
